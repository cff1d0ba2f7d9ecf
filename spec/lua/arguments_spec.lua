-- Arguments that are cut, changed or out of range on their way into C.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/arguments"
tiny.write(dir, {layers = 1, hidden = 32, ffn = 32, heads = 2, kv_heads = 1, quant = "fp8-dynamic", context = 64})
local model = assert(fp8llm.load(dir, {context = 64, kv_tokens = 256, threads = 1}))

local function raises(what, fn, ...)
  local fine, message = pcall(fn, ...)
  assert.is_true(not fine, what)
  assert.is_true(message:find(what, 1, true) ~= nil, message)
end

describe("an argument", function()
  it("with a NUL in it names no file, tensor or option that ends there", function()
    raises("without NUL", fp8llm.load, dir .. "\0x")
    raises("without NUL", fp8llm.load, dir, {device = "cpu\0cuda"})
    raises("without NUL", fp8llm.load, dir, {load_format = "dummy", config_json = "{}\0x"})
    raises("without NUL", fp8llm.tokenizer, dir .. "\0")
    raises("without NUL", fp8llm.describe, dir .. "\0")
    raises("without NUL", fp8llm.safetensors, dir .. "/model.safetensors\0")
    raises("without NUL", model.tensor, model, "model.norm.weight\0x")
    raises("without NUL", model.template, model, "tool_use\0")
    raises("without NUL", fp8llm.quantize, {src = dir .. "\0", dst = "build/spec/never"})
    raises("NUL", fp8llm.quantize, {src = dir, dst = "build/spec/never", ignore = {"lm_head\0x"}})
    local engine = assert(model:engine{})
    raises("without NUL", engine.listen, engine, "build/spec/never.sock\0x")
    raises("NUL", engine.listen, engine, "build/spec/never.sock", {names = {"a\0b"}})
    engine:close()
  end)

  it("out of range is refused before anything is computed with it", function()
    local template = assert(model:template())
    for _, now in ipairs{1e300, -1e300, 1 / 0, 0 / 0} do
      local text, message, code = template:render({{role = "user", content = "x"}}, {now = now})
      assert.same({nil, "ARG"}, {text, code})
      assert.is_true(message:find("seconds since 1970", 1, true) ~= nil)
    end
    local limits = {max_rows = 1, max_seqs = 1, max_running = 1, free_pages = 1, page_tokens = 2 ^ 40}
    raises("page_tokens", fp8llm.schedule, {}, limits)
    limits.page_tokens = 16
    raises("length", fp8llm.schedule, {{length = 2 ^ 53, pending = 1, pages = 0}}, limits)
  end)

  it("is not read again after a call has begun that may change it", function()
    -- The function forgets what it was given: the strings live as long as the call.
    local options = {device = "c" .. "pu", isa = ("scal"):upper():lower() .. "ar", context = 64}
    options.progress = function()
      options.device, options.isa = nil, nil
      for i = 1, 200 do local _ = ("x"):rep(i) .. i end
      collectgarbage()
    end
    local loaded = fp8llm.load(dir, options)
    if loaded then loaded:close() end
    local request = {src = dir .. "", dst = "build/spec/arguments" .. "-fp8", scheme = "fp8-" .. "dynamic",
      ignore = {"lm_" .. "head"}}
    request.progress = function()
      request.src, request.dst, request.scheme, request.ignore[1] = nil, nil, nil, nil
      for i = 1, 200 do local _ = ("y"):rep(i) .. i end
      collectgarbage()
    end
    os.execute "rm -rf build/spec/arguments-fp8 build/spec/arguments-plain"
    tiny.write("build/spec/arguments-plain", {layers = 1, hidden = 32, ffn = 32, heads = 2, kv_heads = 1, context = 64})
    request.src = "build/spec/arguments-" .. "plain"
    local report, message = fp8llm.quantize(request)
    assert.is_true(report ~= nil, message)
    assert.is_true(io.open "build/spec/arguments-fp8/config.json" ~= nil)
  end)
end)
