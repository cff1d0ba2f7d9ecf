-- eng:map and the batch file: every line answered once, also after a run that was cut off.
local fp8llm = require "fp8llm"
local batch = require "fp8llm.batch"
local json = require "fp8llm.json"
local files = dofile "spec/support/files.lua"
local run = dofile "spec/support/run.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local dir, input, output = "build/spec/batch", "build/spec/batch.jsonl", "build/spec/batch-out.jsonl"
tiny.write(dir, {seed = 5, vocab = 266})
local model = assert(fp8llm.load(dir, {kv_tokens = 8192}))
local options = {model_name = "tiny"}

local function read_lines(path)
  local list = {}
  for line in io.lines(path) do list[#list + 1] = json.decode(line) end
  return list
end

local function line(id, body, url)
  body.max_tokens = body.max_tokens or 5
  body.seed = 1
  return json.encode {custom_id = id, method = "POST", url = url or "/v1/chat/completions", body = body} .. "\n"
end

local function chat(text) return {messages = {{role = "user", content = text}}, logprobs = true, top_logprobs = 2} end

local function run_file(more)
  local eng = assert(model:engine {})
  local o = {}
  for k, v in pairs(options) do o[k] = v end
  for k, v in pairs(more or {}) do o[k] = v end
  local report = batch.run_file(eng, input, output, o)
  eng:close()
  return report
end

describe("eng:map", function()
  it("gives results in order, and the refusals of single items", function()
    local eng = assert(model:engine {})
    local list, seen = {}, 0
    for i = 1, 300 do list[i] = i end
    for i, result, message, code in eng:map(list, function(item)
      return {ids = {item % 250}, max_tokens = item == 7 and -1 or 1 + item % 5, ignore_eos = true, seed = item}
    end) do
      seen = seen + 1
      assert.equal(seen, i)
      if i == 7 then
        assert.equal("ARG", code)
        assert.is_true(message:find("max_tokens", 1, true) ~= nil)
      else
        assert.equal(1 + i % 5, #result.choices[1].t)
      end
    end
    assert.equal(300, seen)
    eng:close()
  end)
end)

describe("batch.run_file", function()
  it("names tokens and answers as a line asks", function()
    local body = chat "hello"
    body.return_tokens_as_token_ids, body.return_token_ids, body.request_id = true, true, "mine"
    files.write(input, line("a", body) .. line("b", {prompt = "hello", request_id = 7}, "/v1/completions"))
    os.remove(output)
    run_file {ordered = true}
    local first, second = (table.unpack or unpack)(read_lines(output)) -- luacheck: ignore
    local answer = first.response.body
    assert.equal("chatcmpl-mine", answer.id)
    local told = answer.choices[1].logprobs.content
    assert.equal(#told, #answer.choices[1].token_ids)
    for i, id in ipairs(answer.choices[1].token_ids) do
      assert.equal("token_id:" .. id, told[i].token)
      assert.is_true(told[i].top_logprobs[2].token:find("^token_id:%d+$") ~= nil)
    end
    assert.equal(400, second.response.status_code)
  end)
end)

describe("eng:map on an engine with a short queue", function()
  it("submits again what the queue did not take", function()
    local eng = assert(model:engine {max_queued = 2, max_running = 2})
    local list, seen = {}, 0
    for i = 1, 30 do list[i] = i end
    local function make(item) return {ids = {item}, max_tokens = 3, ignore_eos = true} end
    for i, result, message in eng:map(list, make) do
      seen = seen + 1
      assert.equal(seen, i)
      assert.equal(nil, message)
      assert.equal(3, #result.choices[1].t)
    end
    assert.equal(30, seen)
    eng:close()
  end)
end)

describe("a batch file", function()
  local text = line("a", chat "one") .. "\n" .. line("b", {prompt = "two", logprobs = 1}, "/v1/completions") ..
    line("c", chat "three")

  it("is answered in the format of OpenAI", function()
    os.remove(output)
    files.write(input, text)
    local report = run_file {ordered = true}
    assert.equal(3, report.total)
    assert.equal(0, report.failed)
    local lines = read_lines(output)
    assert.same({"a", "b", "c"}, {lines[1].custom_id, lines[2].custom_id, lines[3].custom_id})
    local body = lines[1].response.body
    assert.equal(200, lines[1].response.status_code)
    assert.equal(json.null, lines[1].error)
    assert.equal("chat.completion", body.object)
    assert.equal("assistant", body.choices[1].message.role)
    assert.equal(body.usage.prompt_tokens + body.usage.completion_tokens, body.usage.total_tokens)
    assert.equal(body.usage.completion_tokens, #body.choices[1].logprobs.content)
    assert.equal(2, #body.choices[1].logprobs.content[1].top_logprobs)
    body = lines[2].response.body
    assert.equal("text_completion", body.object)
    assert.equal(body.usage.completion_tokens, #body.choices[1].logprobs.token_logprobs)
  end)

  it("echoes a prompt with its log-probabilities, alone if nothing is to be generated", function()
    os.remove(output)
    local function ask(id, max_tokens)
      return line(id, {prompt = "two more", logprobs = 1, echo = true, max_tokens = max_tokens}, "/v1/completions")
    end
    files.write(input, ask("with", 3) .. ask("alone", 0))
    run_file {ordered = true}
    local lines = read_lines(output)
    local with, alone = lines[1].response.body, lines[2].response.body
    local n = with.usage.prompt_tokens
    assert.equal("two more", alone.choices[1].text)
    assert.equal("two more", with.choices[1].text:sub(1, 8))
    assert.equal(0, alone.usage.completion_tokens)
    assert.equal(n, #alone.choices[1].logprobs.tokens)
    assert.equal(n + 3, #with.choices[1].logprobs.tokens)
    assert.equal(json.null, with.choices[1].logprobs.token_logprobs[1])
    assert.equal(json.null, with.choices[1].logprobs.top_logprobs[1])
    for i = 2, n do
      assert.equal(with.choices[1].logprobs.token_logprobs[i], alone.choices[1].logprobs.token_logprobs[i])
    end
  end)

  it("goes on where it was cut off, and answers nothing twice", function()
    os.remove(output)
    files.write(input, text)
    run_file {ordered = true}
    local lines = {}
    for l in io.lines(output) do lines[#lines + 1] = l end
    files.write(output, lines[1] .. "\n" .. lines[2]:sub(1, 50))
    local report = run_file()
    assert.equal(1, report.skipped)
    assert.equal(2, report.done)
    local ids = {}
    for _, object in ipairs(read_lines(output)) do ids[#ids + 1] = object.custom_id end
    table.sort(ids)
    assert.same({"a", "b", "c"}, ids)
    assert.equal(0, run_file().done)
  end)

  it("reports each bad line by its field and runs the others", function()
    os.remove(output)
    files.write(input, "{broken\n" .. line("ok", chat "x") .. line("url", chat "x", "/v1/embeddings") ..
      line("field", {messages = chat "x".messages, temperature = -3}) .. line("ok", chat "again") ..
      line("format", {messages = {}, response_format = {type = "json_object"}}) .. '{"method":"POST"}\n' ..
      (line("odd", chat "x"):gsub("^{", '{"modle":"m",')))
    local report = run_file {ordered = true}
    assert.equal(8, report.total)
    assert.equal(7, report.failed)
    local wanted = {
      "not a JSON object", nil, "url", "temperature", "twice", "response_format", "custom_id", "modle: no member",
    }
    for i, object in ipairs(read_lines(output)) do
      if i == 2 then
        assert.equal(200, object.response.status_code)
      else
        assert.equal(400, object.response.status_code)
        assert.is_true(object.response.body.error.message:find(wanted[i], 1, true) ~= nil)
        assert.equal("ARG", object.error.code)
      end
    end
  end)

  it("tells its progress over what is still to do", function()
    os.remove(output)
    files.write(input, text)
    local told = {}
    local function tell(done, to_do, tokens) told[#told + 1] = {done, to_do, tokens} end
    local report = run_file {progress = tell}
    assert.same({3, 3, report.tokens}, told[3])
    local lines = {}
    for l in io.lines(output) do lines[#lines + 1] = l end
    files.write(output, lines[1] .. "\n")
    told = {}
    run_file {progress = tell}
    assert.same({1, 2}, {told[1][1], told[1][2]})
    assert.same({2, 2}, {told[2][1], told[2][2]})
  end)

  it("with a failed line ends the command with status 3, also when it failed before; ids are unique", function()
    os.remove(output)
    files.write(input, line("twice", chat "x") .. line("twice", chat "x") .. line("odd", {messages = {}, oddity = 1}))
    for _ = 1, 2 do
      local _, err, status = run("lua/fp8llm/cli.lua")("batch", input, output, "--model", dir)
      assert.equal(3, status, err)
    end
    local seen = {}
    for _, object in ipairs(read_lines(output)) do
      assert.is_nil(seen[object.id])
      assert.is_nil(seen[object.response.request_id])
      seen[object.id], seen[object.response.request_id] = true, true
    end
  end)

  it("is what the command runs", function()
    os.remove(output)
    files.write(input, text)
    local out, err, status = run("lua/fp8llm/cli.lua")("batch", input, output, "--model", dir, "--json")
    assert.equal("", err)
    assert.equal(0, status)
    local report = json.decode(out)
    assert.equal(3, report.done)
    assert.equal(3, #read_lines(output))
    out, err, status = run("lua/fp8llm/cli.lua")("batch", "no/such.jsonl", output, "--model", dir)
    assert.equal(1, status)
    assert.is_true(out == "" and err:find("no/such.jsonl", 1, true) ~= nil)
  end)
end)

describe("a file of prompts", function()
  local function prompts(defaults)
    local eng, list = assert(model:engine {}), {}
    local report = batch.run_prompts(eng, input, function(object) list[#list + 1] = object end, {defaults = defaults})
    eng:close()
    return list, report
  end

  it("is answered line by line, in order", function()
    local text = {}
    for i = 1, 40 do text[i] = "line " .. i .. "\n" .. (i % 7 == 0 and "  \n" or "") end
    files.write(input, table.concat(text))
    local list, report = prompts {max_tokens = 4, temperature = 0, ignore_eos = true}
    assert.equal(40, #list)
    assert.same({total = 40, failed = 0, tokens = 160}, report)
    local eng = assert(model:engine {})
    for _, i in ipairs {1, 7, 8, 40} do
      local alone = eng:submit {prompt = "line " .. i, max_tokens = 4, temperature = 0, ignore_eos = true}
      assert.equal(alone:result().choices[1].d, list[i].text)
    end
    assert.equal(9, list[8].line) -- an empty line counts as one
    eng:close()
  end)

  it("may hold requests; a bad one fails alone", function()
    files.write(input, '{"ids":[1,2],"max_tokens":3,"custom_id":"x","n":2}\n{"prompt":"a","top_p":7}\n{oops\n' ..
      '{"prompt":"a","policy":true}\n{"messages":[{"role":"user","content":"b"}]}\n')
    local list, report = prompts {max_tokens = 2, ignore_eos = true, seed = 4}
    assert.equal(3, report.failed)
    assert.same({"x", 2, 6}, {list[1].custom_id, #list[1].choices, list[1].completion_tokens})
    for i, part in pairs {[2] = "top_p", [3] = "line 1", [4] = "policy"} do
      assert.equal("ARG", list[i].error.code)
      assert.is_true(list[i].error.message:find(part, 1, true) ~= nil, list[i].error.message)
    end
    assert.equal(2, list[5].completion_tokens)
  end)

  it("is decided line by line", function()
    files.write(input, 'plain\n{"prompt":"a"}\n{"prompt":"a","oddity":1}\nplain\n')
    local list = prompts {max_tokens = 2, temperature = 0, ignore_eos = true}
    assert.equal(list[1].text, list[4].text)
    assert.equal(2, list[2].completion_tokens)
    assert.is_truthy(list[3].error.message:find("oddity", 1, true), list[3].error.message)
    local _, err, status = run("lua/fp8llm/cli.lua")("generate", dir, "--input", input, "--max-tokens", "2")
    assert.equal(3, status, err)
  end)

  it("is what generate --input runs", function()
    files.write(input, "one\ntwo\n")
    os.remove(output)
    local cli = run("lua/fp8llm/cli.lua")
    local out, err, status = cli("generate", dir, "--input", input, "--max-tokens", "3", "--temperature", "0")
    assert.equal(0, status)
    assert.is_true(err:find("2 prompts, 0 failed", 1, true) ~= nil)
    local first = json.decode(out:match "^[^\n]+")
    assert.equal(1, first.line)
    out = cli("generate", dir, "--input", input, "--output", output, "--max-tokens", "3", "--temperature", "0")
    assert.same({"", first.text}, {out, read_lines(output)[1].text})
    local _, message, failure = cli("generate", dir, "--input", "no/such", "--max-tokens", "3")
    assert.equal(1, failure)
    assert.is_true(message:find("no/such", 1, true) ~= nil)
  end)
end)
