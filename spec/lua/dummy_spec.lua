-- load_format = "dummy": shapes without weights, and the benchmarks that use them.
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local shapes = require "fp8llm.shapes"
local tiny = dofile "spec/support/tiny_model.lua"

local function small(dtype)
  local config = assert(shapes.config "llama-3.2-1b")
  config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size = 256, 512, 2, 500
  config.num_attention_heads, config.num_key_value_heads = 4, 2
  return json.encode(assert(shapes.set_dtype(config, dtype)))
end

describe("dummy weights", function()
  local wanted = {
    bf16 = "none", f16 = "none", fp8 = "autofp8 static", ["fp8-dynamic"] = "compressed-tensors dynamic",
    ["fp8-2of4"] = "compressed-tensors dynamic", ["fp8-block"] = "autofp8 block",
  }
  for dtype in pairs(wanted) do
    it("run as " .. dtype, function()
      local model = assert(fp8llm.load("small", {load_format = "dummy", config_json = small(dtype), context = 64}))
      local info = model:info()
      assert.equal("small", info.dir)
      assert.equal(wanted[dtype], info.quantization)
      local w = model:tensor "model.layers.1.mlp.up_proj.weight"
      assert.equal(dtype:match "^fp8" and "e4m3" or dtype, w:dtype())
      local logits = assert(assert(model:sequence()):feed {1, 2, 3}):totable()
      local sum = 0
      for _, v in ipairs(logits) do sum = sum + v * v end
      assert.is_true(sum > 0 and sum < math.huge)
      local _, message, code = model:tokenizer()
      assert.equal("IO", code)
      assert.is_true(message:find("small", 1, true) ~= nil)
      model:close()
    end)
  end

  it("need of a directory only config.json", function()
    local dir = "build/spec/dummy"
    tiny.write(dir, {quant = "ct-dynamic"})
    local real = assert(fp8llm.load(dir))
    local bytes = real:info().weight_bytes
    real:close()
    os.remove(dir .. "/model.safetensors")
    local model = assert(fp8llm.load(dir, {load_format = "dummy"}))
    assert.equal(bytes, model:info().weight_bytes)
    assert.equal("compressed-tensors dynamic", model:info().quantization)
    assert.is_true(#assert(model:tokenizer()) > 0)
    model:close()
    local _, _, code = fp8llm.load(dir)
    assert.equal("IO", code)
  end)

  it("are refused without a configuration, and for what would be refused", function()
    local _, message, code = fp8llm.load("build/spec/nothing", {load_format = "dummy"})
    assert.equal("IO", code, message)
    _, message, code = fp8llm.load("a-name", {load_format = "dummy", config_json = "{"})
    assert.equal("FORMAT", code)
    assert.is_true(message:find("a-name", 1, true) == 1, message)
    local config = assert(shapes.config "llama-3-8b")
    config.quantization_config = {quant_method = "awq"}
    _, message, code = fp8llm.load("a-name", {load_format = "dummy", config_json = json.encode(config)})
    assert.equal("UNSUPPORTED", code, message)
    for _, wrong in ipairs {{config_json = "{}"}, {load_format = "npz"}, {sparse_prefill = "both"}} do
      assert.equal("ARG", (select(3, fp8llm.load("x", wrong))))
    end
  end)
end)

describe("shapes", function()
  it("are configurations that a loader reads, named when one is not known", function()
    assert.equal(11, #shapes.names())
    for _, name in ipairs(shapes.names()) do
      local config = assert(shapes.config(name))
      assert.equal(0, config.hidden_size % config.num_attention_heads, name)
      assert.is_true(assert(json.decode(json.encode(config))).vocab_size > 0)
    end
    local nothing, message = shapes.config "llama-9"
    assert.equal(nil, nothing)
    assert.is_true(message:find("llama-3-8b", 1, true) ~= nil)
    nothing, message = shapes.set_dtype({}, "int4")
    assert.equal(nil, nothing)
    assert.is_true(message:find("fp8-block", 1, true) ~= nil)
  end)
end)
