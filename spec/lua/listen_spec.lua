-- eng:listen from Lua; what goes over the socket is tested in spec/c/test_serve.c and spec/nginx.
describe("eng:listen", function()
  local fp8llm = require "fp8llm"
  local dir, path = "build/spec/listen", "build/spec/listen/engine.sock"
  local model, eng

  setup(function()
    assert(os.execute("luajit spec/support/tiny_model.lua " .. dir))
    model = assert(fp8llm.load(dir, {threads = 1}))
  end)
  before_each(function() eng = assert(model:engine()) end)
  after_each(function() eng:close() end)
  teardown(function() model:close() end)

  -- os.rename to itself works on any kind of file that is there.
  local function there() return os.rename(path, path) ~= nil end

  it("puts a socket at the path, with or without unix: before it, and takes it away at close", function()
    for _, prefix in ipairs {"", "unix:"} do
      eng = eng or assert(model:engine())
      assert.is_true(eng:listen(prefix .. path))
      assert.is_true(there())
      eng:close(true)
      assert.is_false(there())
      eng = assert(model:engine())
    end
  end)

  it("serves one path", function()
    assert(eng:listen(path))
    local ok, message, code = eng:listen(path .. "2")
    assert.is_nil(ok)
    assert.equal("ARG", code)
    assert.truthy(message:find "listens already")
  end)

  it("leaves a socket that another engine has put in its place", function()
    local other = assert(model:engine())
    assert(eng:listen(path))
    local ok, message, code = other:listen(path)
    assert.is_nil(ok)
    assert.equal("BUSY", code)
    assert.truthy(message:find "process %d+ listens there")
    assert(other:listen(path .. "2"))
    assert(os.rename(path .. "2", path))
    eng:close()
    assert.is_true(there())
    other:close()
    assert.is_true(there()) -- it had another name; nobody listens on it any more
    eng = assert(model:engine())
  end)

  it("answers requests of its own process as before", function()
    assert(eng:listen(path))
    local result = assert(eng:submit {ids = {1, 2}, max_tokens = 3, ignore_eos = true}):result()
    assert.equal(3, result.usage.completion_tokens)
  end)

  it("says what is wrong with the path or an option", function()
    local _, message, code = eng:listen "build/spec/no/such/place/x.sock"
    assert.equal("IO", code)
    assert.truthy(message:find("build/spec/no/such/place/x.sock", 1, true))
    _, message, code = eng:listen(("x"):rep(91))
    assert.equal("ARG", code)
    assert.truthy(message:find "91 bytes")
    _, message, code = eng:listen(path, {max_connections = -1})
    assert.equal("ARG", code)
    assert.truthy(message:find "max_connections: %-1")
    _, message, code = eng:listen(path, {temperature_default = -1})
    assert.equal("ARG", code)
    assert.truthy(message:find "temperature_default: .*%-1")
    for _, wrong in ipairs {{names = "x"}, {names = {1}}, {unknown = 1}, {drain_ms = "x"}, {signals = 1}} do
      assert.is_false((pcall(eng.listen, eng, path, wrong)))
    end
    assert.is_false((pcall(eng.listen, eng)))
    assert.is_false(there())
  end)
end)
