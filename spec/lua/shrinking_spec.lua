-- Files that become shorter while they are read: an error, and the process goes on.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir, dst = "build/spec/shrinking", "build/spec/shrinking-fp8"
local file = dir .. "/model.safetensors"

local function whole(options) tiny.write(dir, options or {seed = 3}) end
local function shrink() os.execute("truncate -s 9000 '" .. file .. "'") end

local function is_refused(value, message, code)
  assert.is_true(value == nil)
  assert.equal("IO", code)
  assert.is_true(message:find("model.safetensors", 1, true) ~= nil and message:find("shorter", 1, true) ~= nil, message)
end

describe("a file that becomes shorter", function()
  it("while it is quantized fails that, and leaves nothing behind", function()
    for _, phase in ipairs{"measure", "write"} do
      whole()
      os.execute("rm -rf '" .. dst .. "'*")
      local done = false
      is_refused(fp8llm.quantize {src = dir, dst = dst, scheme = "fp8-dynamic", threads = 2, progress = function(name)
        if done or (name ~= phase and phase == "write") then return end
        done = true
        shrink()
      end})
      assert.is_true(not io.open(dst .. "/config.json") and not io.open(dst .. ".tmp/config.json"))
    end
  end)

  it("while it is loaded fails that", function()
    for _, quant in ipairs{"fp8-static", "fp8-block"} do
      whole {seed = 3, quant = quant, ffn = 256, hidden = 256}
      is_refused(fp8llm.load(dir, {progress = shrink, threads = 2}))
    end
    whole()
    is_refused(fp8llm.load(dir, {progress = shrink}))
  end)

  it("under a loaded model fails only what reads it again; a tensor read before is a copy", function()
    whole()
    local model = assert(fp8llm.load(dir, {context = 64, kv_tokens = 256}))
    local opened = assert(fp8llm.safetensors(file))
    local norm = assert(model:tensor "model.norm.weight"):totable()
    local before = {assert(model:tensor "model.norm.weight"), assert(opened:tensor "model.norm.weight")}
    local logits = assert(model:sequence():feed{1, 2, 3}):totable()
    shrink()
    for _, t in ipairs(before) do assert.same(norm, t:totable()) end
    is_refused(model:tensor "model.norm.weight")
    is_refused(opened:tensor "model.norm.weight")
    assert.same(logits, assert(model:sequence():feed{1, 2, 3}):totable())
    model:close()
    opened:close()
    assert.same(norm, before[1]:totable())
  end)
end)
