describe("the module", function()
  local fp8llm = require "fp8llm"

  it("states the version of src/util/version.h", function()
    local header = assert(io.open "src/util/version.h"):read "*a"
    assert.equal(header:match 'FL_VERSION "([%d.]+)"', fp8llm._VERSION)
  end)

  it("is the one built for this Lua", function()
    local path = assert(package.searchpath and package.searchpath("fp8llm", package.cpath) or "build/fp8llm.so")
    local version = _VERSION:match "%d%.%d"
    local expected = version == "5.1" and "build/fp8llm.so" or "build/lua" .. version .. "/fp8llm.so"
    assert.equal(expected, path:sub(-#expected))
  end)
end)
