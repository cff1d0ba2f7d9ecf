describe("fp8llm.json", function()
  local json = require "fp8llm.json"

  local round = {
    '{"a":[1,2.5,-3],"b":{"c":true,"d":null}}', '[]', '{}', '""', '"a\\"\\\\\\n\\u0001"', '[[[]],{}]', '"é🐇"', '-0.125',
  }
  for _, text in ipairs(round) do
    it("reads and writes " .. text, function()
      assert.equal(text, json.encode(json.decode(text)))
    end)
  end

  it("reads escapes and surrogate pairs", function()
    assert.equal("A/é🐇\t", json.decode '"\\u0041\\/\\u00e9\\ud83d\\udc07\\t"')
    assert.equal("\239\191\189", json.decode '"\\ud83d"')
  end)

  local broken = {
    {"", "line 1: value expected"}, {"[1,\n2", "line 2: ',' or ']' expected"}, {'{"a" 1}', "line 1: ':' expected"},
    {"{a:1}", "line 1: object key expected"}, {'"a', "line 1: string without end"},
    {'"\1"', "line 1: control character in a string"},
    {"[1] x", "line 1: text after the value"}, {"nul", "line 1: value expected"}, {'"\\x"', "line 1: invalid escape"},
    {("["):rep(300), "line 1: nested deeper than 200"}, {"-", "line 1: value expected"},
  }
  for _, case in ipairs(broken) do
    it("refuses " .. case[1]:sub(1, 20), function()
      local value, message = json.decode(case[1])
      assert.is_nil(value)
      assert.equal(case[2], message)
    end)
  end

  it("reads zero without a sign when it is an integer", function()
    for _, text in ipairs {"0", "-0"} do assert.equal("[0]", json.encode(json.decode("[" .. text .. "]"))) end
    assert.is_true(1 / json.decode "-0.0" < 0)
  end)

  it("writes numbers that are none as null", function()
    assert.equal("[null,null,9007199254740991]", json.encode {0 / 0, math.huge, 9007199254740991})
  end)
end)
