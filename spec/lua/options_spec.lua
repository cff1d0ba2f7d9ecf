describe("fp8llm.options", function()
  local options = require "fp8llm.options"
  local list = {
    {"top-p", "number", "P", "a number"},
    {"count", "integer", "N", "a whole number"},
    {"port", "integer", "N", "a whole number within limits", min = 1, max = 65535},
    {"json", "flag", "", "a flag"},
    {"kv", {"bf16", "fp8"}, "TYPE", "one of two words"},
    {"text", "string", "TEXT", "any text"},
    {"skip", "list", "NAME", "any number of texts"},
  }
  local function parse(...) return options.parse(list, {...}, 1) end

  it("reads values, flags and words in any order", function()
    local opt, words = parse("a", "--top-p", "-0.5", "--json", "b", "--kv=fp8", "--text=", "--count=3", "--", "--json")
    assert.same({top_p = -0.5, json = true, kv = "fp8", text = "", count = 3}, opt)
    assert.same({"a", "b", "--json"}, words)
  end)

  it("takes numbers on their limits", function()
    assert.same({port = 1}, (parse("--port", "1")))
    assert.same({port = 65535}, (parse("--port=65535")))
  end)

  it("collects an option that may be repeated", function()
    assert.same({skip = {"a", "b", ""}}, (parse("--skip", "a", "--skip=b", "--skip=")))
    assert.same({}, (parse()))
  end)

  local wrong = {
    {{"--nope"}, "unknown option --nope"},
    {{"--top-p"}, "--top-p: a value is missing"},
    {{"--top-p", "x"}, "--top-p: number expected, got 'x'"},
    {{"--count", "1.5"}, "--count: whole number expected, got '1.5'"},
    {{"--port", "0"}, "--port: a number from 1 to 65535 expected, got '0'"},
    {{"--port", "65536"}, "--port: a number from 1 to 65535 expected, got '65536'"},
    {{"--kv", "int4"}, "--kv: bf16 or fp8 expected, got 'int4'"},
    {{"--json=1"}, "--json takes no value"},
  }
  for _, case in ipairs(wrong) do
    it("refuses " .. table.concat(case[1], " "), function()
      local opt, message = options.parse(list, case[1], 1)
      assert.is_nil(opt)
      assert.equal(case[2], message)
    end)
  end

  it("describes every option on one line", function()
    local _, lines = options.describe(list):gsub("\n", "")
    assert.equal(#list - 1, lines)
  end)
end)
