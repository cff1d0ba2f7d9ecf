-- fp8llm chat as a person sees it: on a terminal of its own (spec/support/typist.py), and nothing of it in a pipe.
if _VERSION:match "5%.[23]" then return end
local files = dofile "spec/support/files.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local function interpreter()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

local version = _VERSION:match "%d%.%d"
local dir = "build/spec/chat-" .. version .. (rawget(_G, "jit") and "-jit" or "")
os.execute("rm -rf " .. dir)
tiny.write(dir, {seed = 3, vocab = 266})
local cli = ("env XDG_STATE_HOME=%s/state LUA_CPATH=%s/?.so LUA_PATH=lua/?.lua %s lua/fp8llm/cli.lua chat %s "):format(
  dir, version == "5.1" and "build" or "build/lua" .. version, interpreter(), dir)
  .. "--temperature 0 --max-tokens 3 "

-- What the terminal shows, and the status.
local function talk(columns, script)
  local words = {}
  for i, word in ipairs(script) do words[i] = "'" .. word .. "'" end
  local p = io.popen(("python3 spec/support/typist.py %d %s -- %s"):format(columns, cli, table.concat(words, " ")))
  local said = p:read "*a"
  p:close()
  return said, tonumber(said:match "status=(%d+)")
end

describe("chat on a terminal", function()
  it("greets, obeys, and remembers what was typed", function()
    for _, columns in ipairs {60, 200} do
      local said, status = talk(columns, {"> ", "/help\\n", "> ", "/system be brief\\n", "> ", "/temp hot\\n", "> ",
        "hello\\n", "tokens/s]", "/again\\n", "tokens/s]", "/save " .. dir .. "/saved\\n", "saved in", "/undo\\n",
        "taken back: hello", "/what\\n", "no command", "/exit\\n"})
      assert.equal(0, status, said)
      assert.is_truthy(said:find("/help lists commands", 1, true), said)
      assert.is_truthy(said:find("a number from 0 on", 1, true), said)
    end
    assert.matches('"hello".*"be brief"', files.read(dir .. "/saved"))
    assert.matches("hello\n/again", files.read(dir .. "/state/fp8llm/chat_history"))
  end)

  it("ends at the second Ctrl-C with status 130, and at Ctrl-D with 0", function()
    local said, status = talk(60, {"> ", "\\x03", "Ctrl-C again", "\\x03"})
    assert.equal(130, status, said)
    said, status = talk(60, {"> ", "\\x03", "Ctrl-C again", "hello\\n", "tokens/s]", "\\x03",
      "Ctrl-C again", "", "> ", "\\x04"})
    assert.equal(0, status, said)
  end)
end)

describe("chat in a pipe", function()
  it("prints answers only", function()
    local p = io.popen("printf 'one\\ntwo\\n' | " .. cli .. "2>/dev/null")
    local said = p:read "*a"
    p:close()
    assert.is_nil(said:find("/help", 1, true))
    assert.is_nil(said:find("> ", 1, true))
  end)
end)
