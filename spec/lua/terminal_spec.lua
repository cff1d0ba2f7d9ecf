-- Commands on a terminal (spec/support/terminal.py), and results that go where they cannot be kept: on LuaJIT, 5.1 and
-- 5.4, whose output streams differ.
if _VERSION:match "5%.[23]" then return end
local files = dofile "spec/support/files.lua"
local json = require "fp8llm.json"
local model = "build/models/SmolLM2-135M-Instruct-FP8"
local luajit = rawget(_G, "jit") ~= nil

local function interpreter()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

local version = _VERSION:match "%d%.%d"
local cli = ("LUA_CPATH='%s/?.so' LUA_PATH='lua/?.lua' %s lua/fp8llm/cli.lua "):format(
  version == "5.1" and "build" or "build/lua" .. version, interpreter())
local dir = "build/spec/terminal-" .. version .. (luajit and "-jit" or "") .. "/"
os.execute("rm -rf " .. dir .. " && mkdir -p " .. dir)

local function shell(line)
  local p = io.popen(line .. " 2>&1; echo status=$?")
  local said = p:read "*a"
  p:close()
  return said, tonumber(said:match "status=(%d+)%s*$")
end

-- What the command shows on a terminal, and its status.
local function on_terminal(columns, interrupt, command)
  local said = shell(("python3 spec/support/terminal.py %d %g sh -c %q"):format(columns, interrupt,
    "exec env " .. command))
  return said, tonumber(said:match "status=(%d+)")
end

local lines = {}
for i = 1, 24 do
  lines[i] = json.encode {custom_id = "n" .. i, method = "POST", url = "/v1/completions",
    body = {prompt = "Once upon a time", max_tokens = 24, ignore_eos = true, temperature = 0}}
end
files.write(dir .. "in.jsonl", table.concat(lines, "\n") .. "\n")
files.write(dir .. "prompts.txt", ("Once upon a time\n"):rep(24))
local answers = 0
local function count_answers(path)
  answers = select(2, (files.read(path) or ""):gsub("\n", ""))
  return answers
end

-- Every piece between two wipes fits the terminal, and one of them was a bar.
local function check_bars(said, columns, word)
  local bars = 0
  for line in said:gmatch "\r([^\r\27]*)\27%[K" do
    assert.is_true(#line < columns, line)
    if line:find(word, 1, true) then bars = bars + 1 end
  end
  assert.is_true(bars > 0, said)
  assert.is_nil(said:find "%.lua:%d", said)
end

describe("a command on a terminal", function()
  it("batch draws its bar and answers every line", function()
    for _, columns in ipairs(luajit and {40, 200} or {40}) do
      os.remove(dir .. "out.jsonl")
      local said, status = on_terminal(columns, 0, cli .. ("batch %sin.jsonl %sout.jsonl --model %s --max-running 2")
        :format(dir, dir, model))
      assert.equal(0, status, said)
      check_bars(said, columns, "requests")
      assert.equal(24, count_answers(dir .. "out.jsonl"))
    end
  end)

  it("Ctrl-C ends it by the signal, and the same command goes on", function()
    os.remove(dir .. "out.jsonl")
    local command = cli .. ("batch %sin.jsonl %sout.jsonl --model %s --max-running 1"):format(dir, dir, model)
    local said, status = on_terminal(80, 0.1, command) -- a bar comes after a second
    assert.equal(130, status, said)
    assert.is_nil(said:find "%.lua:%d", said)
    assert.is_true(count_answers(dir .. "out.jsonl") < 24)
    said, status = shell(command)
    assert.equal(0, status, said)
    assert.equal(24, count_answers(dir .. "out.jsonl"))
  end)

  it("Ctrl-C and SIGTERM in the middle of quantize leave nothing half written", function()
    local source = "build/models/SmolLM2-135M-Instruct"
    for signal, expected in pairs {INT = 130, TERM = 143} do
      -- Once it has begun to write.
      local said, status = shell(([[ %s quantize %s %sq --scheme fp8-dynamic & p=$!
        while kill -0 $p && [ ! -d %sq.tmp ]; do sleep 0.01; done
        kill -%s $p; wait $p; s=$?; ls -d %sq*; (exit $s)]]):format("env " .. cli, source, dir, dir, signal, dir))
      assert.equal(expected, status, said)
      assert.is_nil(said:find(dir .. "q\n", 1, true), said)
      assert.is_nil(said:find(dir .. "q.tmp\n", 1, true), said)
    end
  end)

  if luajit then
    it("generate --input and eval draw theirs", function()
      files.write(dir .. "some.txt", files.read("examples/heldout.txt"):sub(1, 5000))
      local said, status = on_terminal(40, 0, cli .. ("generate %s --input %sprompts.txt --output %sgen.jsonl "
        .. "--max-running 2 --max-tokens 24"):format(model, dir, dir))
      assert.equal(0, status, said)
      check_bars(said, 40, "requests")
      assert.equal(24, count_answers(dir .. "gen.jsonl"))
      said, status = on_terminal(40, 0, cli .. ("eval perplexity %s --text %ssome.txt"):format(model, dir))
      assert.equal(0, status, said)
      check_bars(said, 40, "some.txt")
    end)
  end
end)

describe("results", function()
  local function batch(input, output)
    return shell(cli .. ("batch %s %s --model %s --max-running 16"):format(input, output, model))
  end

  it("come from what can be read once only, with or without a byte order mark", function()
    os.remove(dir .. "piped.jsonl")
    local said, status = shell(("cat %sin.jsonl | %s batch /dev/stdin %spiped.jsonl --model %s"):format(dir, cli, dir,
      model))
    assert.equal(0, status, said)
    assert.matches("24 requests, 0 done before, 0 failed", said)
    assert.equal(24, count_answers(dir .. "piped.jsonl"))
    files.write(dir .. "bom.jsonl", "\239\187\191" .. lines[1] .. "\r\n\r\n" .. lines[2])
    os.remove(dir .. "bom-out.jsonl")
    said, status = batch(dir .. "bom.jsonl", dir .. "bom-out.jsonl")
    assert.equal(0, status, said)
    assert.matches("2 requests, 0 done before, 0 failed", said)
  end)

  it("go to stdout, also by the name of its file", function()
    for _, output in ipairs {"-", "/dev/stdout"} do
      local said, status = shell(("%s batch %sbom.jsonl %s --model %s 2>/dev/null | cat"):format(cli, dir, output,
        model))
      assert.equal(0, status, said)
      assert.equal(2, select(2, said:gsub('"custom_id"', "")), said)
    end
  end)

  it("that cannot be kept end a command with a status that says so", function()
    local said, status = batch(dir .. "in.jsonl", "/dev/full")
    assert.equal(1, status, said)
    assert.matches("/dev/full: 0 of %d+ bytes written: No space left on device", said)
    said, status = shell(cli .. ("generate %s --input %sprompts.txt --max-tokens 2 --output /dev/full"):format(model,
      dir))
    assert.equal(1, status, said)
    for _, command in ipairs {"--version", "--help", "tokenize " .. model .. " hello", "inspect " .. model} do
      said, status = shell("{ " .. cli .. command .. " >/dev/full; }")
      assert.equal(1, status, command .. ": " .. said)
      assert.matches("stdout: %d+ of %d+ bytes written: No space left on device", said)
    end
  end)

  it("are not written over what is read", function()
    local before = files.read(dir .. "bom.jsonl")
    local said, status = batch(dir .. "bom.jsonl", dir .. "bom.jsonl")
    assert.equal(1, status, said)
    assert.equal(before, files.read(dir .. "bom.jsonl"))
  end)
end)
