-- fp8llm.quantize: what it writes, how close it is, and what it refuses.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local src, dst, lines = "build/spec/quantize-src", "build/spec/quantize-dst", "build/spec/quantize.jsonl"
tiny.write(src, {seed = 3, kv_heads = 1, tied = true})

local function write(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function read(path)
  local f = io.open(path, "rb")
  local text = f and f:read("*a")
  if f then f:close() end
  return text
end

local function remove(dir)
  for _, name in ipairs{"model.safetensors", "config.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "junk"} do os.remove(dir .. "/" .. name) end
  os.remove(dir)
end

local chat = '{"messages":[{"role":"user","content":"one two"},{"role":"assistant","content":"three"}]}\n'
write(lines, chat .. '{"text":"plain words, no chat"}\n\n' .. chat)

local function quantize(changes)
  local o = {src = src, dst = dst, scheme = "fp8-static", calibrate = lines}
  for k, v in pairs(changes or {}) do o[k] = v end
  return fp8llm.quantize(o)
end

describe("fp8-static", function()
  remove(dst)
  local phases = {}
  local report = assert(quantize{progress = function(phase, f)
    assert(f >= 0 and f <= 1)
    phases[phase] = f
  end})

  it("reports what it did", function()
    assert.equal(14, report.linears)
    assert.equal(3, report.samples)
    assert.is_true(report.tokens > 10)
    assert.is_true(report.bytes_out < report.bytes_in)
    assert.equal(1, phases.write)
    assert.is_true(phases.calibrate ~= nil and phases.measure ~= nil)
  end)

  it("writes the AutoFP8 layout and leaves the rest alone", function()
    local old, new = assert(fp8llm.safetensors(src .. "/model.safetensors")),
      assert(fp8llm.safetensors(dst .. "/model.safetensors"))
    assert.equal(#old + 28, #new)
    for _, name in ipairs(old:names()) do
      local before, after = old:info(name), new:info(name)
      assert.same(before.shape, after.shape)
      local linear = name:find "proj%.weight$" ~= nil
      assert.equal(linear and "e4m3" or before.dtype, after.dtype)
      if linear then
        for _, leaf in ipairs{"weight_scale", "input_scale"} do
          local info = new:info((name:gsub("weight$", leaf)))
          assert.equal("f32", info.dtype)
          assert.same({}, info.shape)
        end
      else
        assert.same(old:tensor(name):totable(), new:tensor(name):totable())
      end
    end
    local config = read(dst .. "/config.json")
    assert.is_true(config:find('"quant_method": "fp8"', 1, true) ~= nil)
    assert.is_true(config:find('"activation_scheme": "static"', 1, true) ~= nil)
    assert.equal(read(src .. "/tokenizer.json"), read(dst .. "/tokenizer.json"))
    assert.equal(nil, read(dst .. ".tmp/config.json"))
  end)

  it("uses amax / 448 and the nearest code", function()
    local old, new = assert(fp8llm.safetensors(src .. "/model.safetensors")),
      assert(fp8llm.safetensors(dst .. "/model.safetensors"))
    local name = "model.layers.1.mlp.down_proj.weight"
    local w = old:tensor(name):to("f32")
    local scale = new:tensor("model.layers.1.mlp.down_proj.weight_scale"):totable()
    local codes, wanted = new:tensor(name), w:quantize{scheme = "tensor"}
    scale = type(scale) == "table" and scale[1] or scale
    local max = 0
    local shape = w:shape()
    for i = 1, shape[1] do for j = 1, shape[2] do max = math.max(max, math.abs(w:get(i, j))) end end
    assert.is_true(math.abs(scale - max / 448) <= 1e-7 * scale)
    assert.same(wanted:totable(), codes:totable())
  end)

  it("gives a model close to the original", function()
    local ids = {}
    for i = 1, 60 do ids[i] = (i * 37) % 250 end
    local function scores(dir)
      local m = assert(fp8llm.load(dir))
      local out = assert(assert(m:sequence()):score(ids)):totable()
      m:close()
      return out
    end
    local a, b, sum = scores(src), scores(dst), 0
    for i = 2, #a do sum = sum + math.abs(a[i] - b[i]) end
    assert.is_true(sum > 0 and sum / #a < 0.2, "mean difference " .. sum / #a)
  end)
end)

describe("quantize refuses", function()
  local function refused(code, changes, ...)
    local r, message, got = quantize(changes)
    assert.equal(nil, r)
    assert.equal(code, got)
    for _, part in ipairs{...} do assert.is_true(message:find(part, 1, true) ~= nil, message) end
  end
  local out = "build/spec/quantize-refused"

  it("an existing destination", function() refused("ARG", {}, dst, "exists") end)
  it("an unknown scheme", function()
    refused("UNSUPPORTED", {dst = out, scheme = "int4"}, "int4")
  end)
  it("a model that is quantized already", function()
    refused("UNSUPPORTED", {src = dst, dst = out}, dst, "autofp8")
  end)
  it("a missing calibration file", function()
    refused("IO", {dst = out, calibrate = "no/such.jsonl"}, "no/such.jsonl")
  end)
  it("a malformed line, by its number", function()
    write(lines, chat .. "{broken\n")
    refused("FORMAT", {dst = out}, lines .. ":2")
    write(lines, chat .. chat .. '{"prompt":"x"}\n')
    refused("FORMAT", {dst = out}, lines .. ":3", "messages")
    write(lines, "\n\n")
    refused("FORMAT", {dst = out}, "no samples")
  end)
  it("without leaving anything behind", function()
    assert.equal(nil, read(out .. "/config.json"))
    assert.equal(nil, read(out .. ".tmp/config.json"))
  end)
  it("wrong types by raising", function()
    assert.is_true(pcall(fp8llm.quantize, {src = src}) == false)
    assert.is_true(pcall(fp8llm.quantize, {src = src, dst = out, sheme = "x"}) == false)
  end)
end)
