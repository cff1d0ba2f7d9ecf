describe("measuring", function()
  local fp8llm = require "fp8llm"

  it("has a clock that goes forward", function()
    local a = fp8llm.clock()
    local b = fp8llm.clock()
    assert.is_true(b >= a and b - a < 1)
  end)

  it("measures the read bandwidth", function()
    local rate = fp8llm.read_bandwidth {threads = 1, bytes = 4 * 1024 * 1024}
    assert.is_true(rate > 1e8)
  end)

  it("refuses sizes that would measure something else", function()
    local rate, message, code = fp8llm.read_bandwidth {bytes = 10}
    assert.is_nil(rate)
    assert.is_true(message:find("10", 1, true) ~= nil)
    assert.equal("ARG", code)
    assert.is_false(pcall(fp8llm.read_bandwidth, {bytes = "10"}))
    assert.is_false(pcall(fp8llm.read_bandwidth, {threads = -1}))
    assert.is_false(pcall(fp8llm.read_bandwidth, {Bytes = 10}))
  end)
end)
