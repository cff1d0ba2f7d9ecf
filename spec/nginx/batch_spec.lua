-- `fp8llm batch` and eng:submit(body, kind) against `fp8llm serve`: the same bodies, the same answers.
local fp8llm = require "fp8llm"
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"

-- A model whose template prints tools, and whose publisher recommends greedy sampling.
local dir = server.model "batch"
local function change(name, from, to)
  local path = dir .. "/" .. name
  local text, n = server.read(path):gsub(from, to)
  assert(n > 0, path)
  server.write(path, text)
end
change("tokenizer_config.json", '"chat_template": ?"{{ bos_token }}',
  '"chat_template":"{{ bos_token }}{%% if tools %%}{{ tools | tojson }}{%% endif %%}')
server.write(dir .. "/generation_config.json", '{"do_sample": false, "top_k": 5, "eos_token_id": 2}')

local hello = '"messages":[{"role":"user","content":"hello"}]'
local tools = '"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object",' ..
  '"properties":{"z":{"type":"number","default":1.0},"a":{}},"required":[]}}}]'
local long = ("x"):rep(2000)
local chat, completion = "/v1/chat/completions", "/v1/completions"
local bodies = {
  {chat, "{" .. hello .. ',"max_tokens":6}'}, -- greedy by generation_config.json
  {chat, "{" .. hello .. "," .. tools .. ',"max_tokens":3,"return_token_ids":true}'},
  {chat, "{" .. hello .. ',"max_tokens":3,"logprobs":true,"top_logprobs":2,"n":2,"model":"served"}'},
  {chat, "{" .. hello .. ',"temperature":1,"seed":7,"max_completion_tokens":5,"return_tokens_as_token_ids":true,' ..
    '"logprobs":true}'},
  {completion, '{"prompt":["hello","world"],"max_tokens":4,"logprobs":1,"echo":true}'},
  {completion, '{"prompt":[[1,5,6],[7,8]],"max_tokens":2,"return_token_ids":true,"n":2,"temperature":0.5,"seed":1}'},
  {completion, '{"prompt":"hello","max_tokens":2,"prompt_logprobs":2}'},
  {completion, '{"prompt":"hello","max_tokens":0,"echo":true,"logprobs":0}'},
  {completion, '{"prompt":"hello","request_id":"mine","stop":["\\u0000"],"max_tokens":3}'},
  {completion, '{"prompt":"hello"}'},
  -- Refusals: code, param and message.
  {chat, "{" .. hello .. ',"model":"another"}'},
  {chat, '{"messages":[{"role":"user","content":"' .. long .. '"}]}'},
  {completion, '{"prompt":"' .. long .. '"}'},
  {completion, '{"prompt":"hello","temperature":-1}'},
  {completion, '{"prompt":"hello","n":"2"}'},
  {completion, '{"prompt":[]}'},
  {completion, '{"max_tokens":2}'},
  {chat, '{"messages":[]}'},
  {chat, "{" .. hello .. ',"response_format":{"type":"json_object"}}'},
  {completion, '{"prompt":"hello","policy":"none"}'},
  {completion, '{"prompt":"hello","suffix":"x"}'},
  {completion, '{"prompt":"hello",}'},
}

-- What depends on when and as which request a body was asked.
local function comparable(object)
  object.id, object.created = nil, nil
  if object.usage then object.usage.prompt_tokens_details = nil end
  return json.encode(object)
end

describe("a body", function()
  local answers = {}

  setup(function()
    local process = server.start("batch", dir .. " --served-model-name served")
    for i, case in ipairs(bodies) do
      local status, text = http.ask(process.port, "POST", case[1], case[2])
      answers[i] = {status = status, object = json.decode(text)}
    end
    assert.equal(0, server.stop(process))
  end)

  it("is answered in a batch file as over HTTP", function()
    local lines, input, output = {}, dir .. "/in.jsonl", dir .. "/out.jsonl"
    for i, case in ipairs(bodies) do
      lines[i] = ('{"custom_id":"%d","method":"POST","url":"%s","body":%s}\n'):format(i, case[1], case[2])
    end
    server.write(input, table.concat(lines))
    os.remove(output)
    local said = server.shell(("build/fp8llm batch %s %s --model %s --served-model-name served"):format(input, output,
      dir))
    assert.truthy(said:find(#bodies .. " requests, 0 done before, 12 failed", 1, true), said)
    local seen = 0
    for line in io.lines(output) do
      local object = json.decode(line)
      local i = tonumber(object.custom_id:match "%d+") -- the last one is no JSON: it has a name of ours
      seen = seen + 1
      assert.equal(answers[i].status, object.response.status_code, bodies[i][2])
      if i < #bodies then assert.equal(comparable(answers[i].object), comparable(object.response.body)) end
    end
    assert.equal(#bodies, seen)
  end)

  it("is answered by eng:submit as over HTTP, and refused as there", function()
    local model = assert(fp8llm.load(dir, {threads = 1, kv_tokens = 8192}))
    local eng = assert(model:engine {names = {"served"}})
    for i, case in ipairs(bodies) do
      local wanted = answers[i].object
      local kind = case[1] == chat and "chat" or "completion"
      local answer, message, _, param = eng:submit(case[2], kind)
      if answers[i].status ~= 200 then
        assert.equal(nil, answer)
        assert.equal(wanted.error.message, message)
        assert.equal(wanted.error.param, param or json.null)
      else
        local pieces = {}
        for piece, event in answer:pieces() do pieces[event.i + 1] = (pieces[event.i + 1] or "") .. piece end
        local object = assert(answer:response())
        for k, choice in ipairs(object.choices) do
          assert.equal(choice.text or choice.message.content, pieces[k])
        end
        assert.equal(comparable(wanted), comparable(object))
        answer:close()
      end
    end
    eng:close()
    model:close()
  end)

  it("that is greedy by the model's own defaults is so everywhere", function()
    local text = answers[1].object.choices[1].message.content
    local model = assert(fp8llm.load(dir, {threads = 1}))
    local eng = assert(model:engine())
    for _ = 1, 3 do
      local table_body = {messages = {{role = "user", content = "hello"}}, max_tokens = 6}
      assert.equal(text, assert(eng:submit(table_body, "chat")):response().choices[1].message.content)
    end
    eng:close()
    model:close()
  end)
end)
