describe("the command", function()
  local cli = dofile "spec/support/run.lua" "lua/fp8llm/cli.lua"
  local commands = {"chat", "generate", "tokenize", "inspect", "quantize", "eval", "bench"}

  it("lists its commands", function()
    local out, err, status = cli "--help"
    assert.equal(0, status)
    assert.equal("", err)
    for _, name in ipairs(commands) do assert.is_true(out:find("\n  " .. name, 1, true) ~= nil) end
  end)

  for _, name in ipairs(commands) do
    it(name .. " has --help", function()
      local out, err, status = cli(name, "--help")
      assert.equal(0, status)
      assert.equal("", err)
      assert.equal("usage: fp8llm " .. name, out:match("^usage: fp8llm " .. name))
    end)
  end

  it("states its version", function()
    assert.equal("fp8llm " .. require("fp8llm")._VERSION .. "\n", (cli "--version"))
  end)

  local misuse = {
    {{"nope"}, "fp8llm: no command 'nope', see fp8llm --help\n"},
    {{"chat"}, "fp8llm: MODEL is missing, see fp8llm chat --help\n"},
    {{"chat", "a", "b"}, "fp8llm: unexpected 'b', see fp8llm chat --help\n"},
    {{"chat", "a", "--json"}, "fp8llm: --json needs --message, see fp8llm chat --help\n"},
    {{"generate", "--top-k", "x"}, "fp8llm: --top-k: whole number expected, got 'x', see fp8llm generate --help\n"},
    {{"quantize", "a"}, "fp8llm: DST is missing, see fp8llm quantize --help\n"},
    {{"quantize", "a", "b"}, "fp8llm: --scheme is missing, see fp8llm quantize --help\n"},
    {{"eval", "accuracy", "a"}, "fp8llm: no evaluation 'accuracy', see fp8llm eval --help\n"},
    {{"bench", "nope", "a"}, "fp8llm: no benchmark 'nope', see fp8llm bench --help\n"},
  }
  for _, case in ipairs(misuse) do
    it("answers '" .. table.concat(case[1], " ") .. "' with one line and status 2", function()
      local args = case[1]
      local out, err, status = cli(args[1], args[2], args[3], args[4])
      assert.equal("", out)
      assert.equal(case[2], err)
      assert.equal(2, status)
    end)
  end

  it("answers no command at all with its help and status 2", function()
    local out, _, status = cli {}
    assert.equal(2, status)
    assert.is_true(out:find("usage", 1, true) == 1)
  end)

  for _, words in ipairs {{"chat"}, {"generate"}, {"tokenize"}, {"inspect"}, {"bench", "decode"}} do
    it("says that a model is not there: " .. words[1], function()
      local args = {words[1], words[2] or "build/no-such-model", words[2] and "build/no-such-model"}
      local out, err, status = cli(args[1], args[2], args[3])
      assert.equal("", out)
      assert.is_true(err:find("^fp8llm: build/no%-such%-model: [^\n]+\n$") ~= nil)
      assert.equal(1, status)
    end)
  end
end)
