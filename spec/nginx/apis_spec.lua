-- The APIs that are translations of chats: each answers what the chat of the same messages does.
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"

describe("other APIs of chats", function()
  local process

  setup(function()
    server.write("build/spec/nginx/apis.keys", "secret one 0 0\n")
    process = server.start("apis", server.model "tiny" ..
      " --served-model-name tiny --api-keys build/spec/nginx/apis.keys")
  end)
  teardown(function() assert.equal(0, server.stop(process)) end)

  local bearer = {Authorization = "Bearer secret"}

  local function post(path, body, headers)
    body = type(body) == "string" and body or json.encode(body)
    local status, text, answered = http.ask(process.port, "POST", path, body, headers or bearer)
    return status, json.decode(text), text, answered
  end

  local greedy = '"temperature":0,"ignore_eos":true'

  -- The chat's answer to a list of messages, and more members, as JSON texts.
  local function chat(messages, more, n)
    local status, r = post("/v1/chat/completions",
      ('{"messages":%s,"max_tokens":%d,%s%s}'):format(messages, n or 5, greedy, more or ""))
    assert.equal(200, status)
    return r.choices[1].message.content, r.usage
  end

  local function response(input, more)
    local status, r, text = post("/v1/responses",
      ('{"input":%s,"max_output_tokens":5,%s%s}'):format(input, greedy, more or ""))
    assert.equal(200, status, text)
    assert.equal("output_text", r.output[1].content[1].type)
    return r.output[1].content[1].text, r.usage, r
  end

  local function message(messages, more)
    local status, r, text = post("/v1/messages",
      ('{"model":"tiny","messages":%s,"max_tokens":5,%s%s}'):format(messages, greedy, more or ""),
      {["x-api-key"] = "secret", ["anthropic-version"] = "2023-06-01"})
    assert.equal(200, status, text)
    return r.content[1].text, r.usage, r
  end

  -- A stream's events: {name, data}
  local function events(path, body, headers)
    local status, text = http.ask(process.port, "POST", path, body, headers or bearer)
    assert.equal(200, status, text)
    local list = {}
    for name, data in text:gmatch "event: ([^\n]+)\ndata: ([^\n]+)\n\n" do
      list[#list + 1] = {name, json.decode(data)}
    end
    return list, text
  end

  local tools = '[{"type":"function","function":{"name":"f","description":"d","parameters":{"b":1,"a":2}}}]'
  local called = '{"role":"user","content":"u"},{"role":"assistant","content":%s,"tool_calls":[{"id":"c1",' ..
    '"type":"function","function":{"name":"f","arguments":"{\\"x\\": 1}"}}]},' ..
    '{"role":"tool","tool_call_id":"c1","content":"42"}'

  -- input of a response, more members; the messages of the chat, more members
  local inputs = {
    {'"hello"', "", '[{"role":"user","content":"hello"}]', ""},
    {'"hello"', ',"instructions":"be\\nbrief"',
      '[{"role":"system","content":"be\\nbrief"},{"role":"user","content":"hello"}]', ""},
    {'[{"role":"developer","content":"s"},' ..
      '{"type":"message","role":"user","content":[{"type":"input_text","text":"a"}]}]',
      "", '[{"role":"system","content":"s"},{"role":"user","content":"a"}]', ""},
    {'[{"role":"user","content":"a"},{"id":"msg_1","type":"message","status":"completed","role":"assistant",' ..
      '"content":[{"type":"output_text","text":"b","annotations":[]}]},{"role":"user","content":"c"}]', "",
      '[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]', ""},
    {'[{"role":"user","content":"u"},{"type":"function_call","call_id":"c1","name":"f","arguments":"{\\"x\\": 1}"},' ..
      '{"type":"function_call_output","call_id":"c1","output":"42"}]',
      ',"tools":[{"type":"function","name":"f","description":"d","parameters":{"b":1,"a":2}}]',
      "[" .. called:format "null" .. "]", ',"tools":' .. tools},
    {'"hello"', ',"seed":3,"top_k":1,"metadata":{"k":"v"},"store":true,"reasoning":{"effort":"low"},' ..
      '"text":{"format":{"type":"text"}},"user":"u","include":[],"previous_response_id":null',
      '[{"role":"user","content":"hello"}]', ""},
  }
  for i, case in ipairs(inputs) do
    it("answers response " .. i .. " as the chat", function()
      local text, usage = chat(case[3], case[4])
      local ours, counted, r = response(case[1], case[2])
      assert.equal(text, ours)
      assert.equal(usage.prompt_tokens, counted.input_tokens)
      assert.equal(usage.total_tokens, counted.total_tokens)
      assert.equal("incomplete", r.status)
      assert.equal("max_output_tokens", r.incomplete_details.reason)
      assert.equal(false, r.store)
      assert.truthy(r.id:find "^resp_%x+$")
    end)
  end

  local conversations = {
    {'[{"role":"user","content":"hello"}]', "", '[{"role":"user","content":"hello"}]', ""},
    {'[{"role":"user","content":[{"type":"text","text":"hello","cache_control":{"type":"ephemeral"}}]}]',
      ',"system":[{"type":"text","text":"s"}],"metadata":{"user_id":"u"},"thinking":{"type":"disabled"}',
      '[{"role":"system","content":"s"},{"role":"user","content":"hello"}]', ""},
    {'[{"role":"user","content":"u"},{"role":"assistant","content":[{"type":"text","text":"t"},{"type":"tool_use",' ..
      '"id":"c1","name":"f","input":{"x": 1}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1",' ..
      '"content":[{"type":"text","text":"42"}]},{"type":"text","text":"go on"}]}]',
      ',"tools":[{"name":"f","description":"d","input_schema":{"b":1,"a":2}}],"tool_choice":{"type":"auto"}',
      "[" .. called:format '"t"' .. ',{"role":"user","content":"go on"}]', ',"tools":' .. tools},
    {'[{"role":"user","content":"u"},{"role":"assistant","content":"The answer"}]', "",
      '[{"role":"user","content":"u"},{"role":"assistant","content":"The answer"}]',
      ',"continue_final_message":true,"add_generation_prompt":false'},
  }
  for i, case in ipairs(conversations) do
    it("answers message " .. i .. " as the chat", function()
      local text, usage = chat(case[3], case[4])
      local ours, counted, r = message(case[1], case[2])
      assert.equal(text, ours)
      assert.equal(usage.prompt_tokens, counted.input_tokens + counted.cache_read_input_tokens)
      assert.equal(usage.completion_tokens, counted.output_tokens)
      assert.equal("max_tokens", r.stop_reason)
      local _, count = post("/v1/messages/count_tokens", ('{"model":"tiny","messages":%s%s}'):format(case[1], case[2]))
      assert.equal(usage.prompt_tokens, count.input_tokens)
    end)
  end

  it("says why an answer ended", function()
    local text = chat '[{"role":"user","content":"hello"}]'
    local stop = text:match "^[%z\1-\127\194-\244][\128-\191]*(.[\128-\191]*)"
    local _, _, r = message('[{"role":"user","content":"hello"}]', ',"stop_sequences":[' .. json.encode(stop) .. "]")
    assert.equal("stop_sequence", r.stop_reason)
    assert.equal(stop, r.stop_sequence)
    _, r = post("/v1/messages", '{"model":"tiny","messages":[{"role":"user","content":"hello"}],"max_tokens":500,' ..
      '"stop_token_ids":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20],"allowed_token_ids":[7,8]}')
    assert.equal("end_turn", r.stop_reason)
    assert.equal(json.null, r.stop_sequence)
    _, r = post("/v1/responses", '{"input":"hello","allowed_token_ids":[7,8],"stop_token_ids":[7,8]}')
    assert.equal("completed", r.status)
    assert.equal(json.null, r.incomplete_details)
  end)

  it("streams a response: numbered events, the whole of it at the end", function()
    local text = chat('[{"role":"user","content":"hello"}]', "", 20)
    local list = events("/v1/responses", '{"input":"hello","max_output_tokens":20,"stream":true,"tools":[\n],' ..
      '"include":["message.output_text.logprobs"],"top_logprobs":2,' .. greedy .. "}")
    local names, deltas, logprobs = {}, {}, 0
    for i, e in ipairs(list) do
      assert.equal(e[1], e[2].type)
      assert.equal(i - 1, e[2].sequence_number)
      if e[1] == "response.output_text.delta" then
        deltas[#deltas + 1] = e[2].delta
        logprobs = logprobs + #e[2].logprobs
      else
        names[#names + 1] = e[1]
      end
    end
    assert.equal(text, table.concat(deltas))
    assert.equal(20, logprobs)
    assert.same({"response.created", "response.in_progress", "response.output_item.added",
      "response.content_part.added", "response.output_text.done", "response.content_part.done",
      "response.output_item.done", "response.incomplete"}, names)
    local final = list[#list][2].response
    assert.equal(text, final.output[1].content[1].text)
    assert.equal(20, #final.output[1].content[1].logprobs)
    assert.equal(2, #final.output[1].content[1].logprobs[1].top_logprobs)
    assert.equal(20, final.usage.output_tokens)
    assert.equal(list[1][2].response.id, final.id)
  end)

  it("streams a message", function()
    local text, usage = chat('[{"role":"user","content":"hello"}]', "", 20)
    local list = events("/v1/messages",
      '{"messages":[{"role":"user","content":"hello"}],"max_tokens":20,"stream":true,' .. greedy .. "}")
    local names, deltas = {}, {}
    for _, e in ipairs(list) do
      assert.equal(e[1], e[2].type)
      if e[1] == "content_block_delta" then
        deltas[#deltas + 1] = e[2].delta.text
      else
        names[#names + 1] = e[1]
      end
    end
    assert.equal(text, table.concat(deltas))
    assert.same({"message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"}, names)
    assert.equal(usage.prompt_tokens, list[1][2].message.usage.input_tokens)
    assert.equal("max_tokens", list[#list - 1][2].delta.stop_reason)
    assert.equal(20, list[#list - 1][2].usage.output_tokens)
  end)

  -- path, body, status, beginning of the message, param
  local user = '"messages":[{"role":"user","content":"x"}]'
  local refused = {
    {"/v1/responses", "{", 400, "body: not valid JSON"},
    {"/v1/responses", "[1]", 400, "body: need an object"},
    {"/v1/responses", "{}", 400, "input: need a text or a list of items", "input"},
    {"/v1/responses", '{"input":3}', 400, "input: need a text or a list of items", "input"},
    {"/v1/responses", '{"input":[3]}', 400, "input%[0%]: need an object", "input"},
    {"/v1/responses", '{"input":[]}', 400, "input: need a list of at least one", "input"},
    {"/v1/responses", '{"input":[{"role":"user","content":[{"type":"input_image"}]}]}', 400,
      "input%[0%]: content%[0%]: type 'input_image' is not text", "input"},
    {"/v1/responses", '{"instructions":3,"input":"x"}', 400, "instructions: content: need a text", "input"},
    {"/v1/responses", '{"input":[{"type":"item_reference","id":"x"}]}', 400, "input%[0%]: type 'item_reference'",
      "input"},
    {"/v1/responses", '{"input":"x","previous_response_id":"resp_1"}', 400, "previous_response_id: responses are not",
      "previous_response_id"},
    {"/v1/responses", '{"input":"x","background":true}', 400, "background: not offered", "background"},
    {"/v1/responses", '{"input":"x","truncation":"auto"}', 400, "truncation: only disabled", "truncation"},
    {"/v1/responses", '{"input":"x"} x', 400, "body: not valid JSON"},
    {"/v1/responses", '{"input":"x","user":tru}', 400, "body: line 1"},
    {"/v1/responses", '{"input":"x","metadata":[}}', 400, "body: line 1"},
    {"/v1/responses", '{"input":"x","not_of_a_chat":01}', 400, "body: line 1"},
    {"/v1/responses", '{"input":"x","reasoning":{"effort":NaN}}', 400, "reasoning: NaN and Inf", "reasoning"},
    {"/v1/messages", '{"max_tokens":3,"service_tier":01,' .. user .. "}", 400, "body: line 1"},
    {"/v1/responses", '{"input":"x","n":2}', 400, "n: a response has one output", "n"},
    {"/v1/responses", '{"input":"x","text":{"format":{"type":"json_object"}}}', 400, "text.format: only",
      "text.format"},
    {"/v1/responses", '{"input":"x","tools":[{"type":"web_search"}]}', 400, "tools%[0%]: type 'web_search'", "tools"},
    {"/v1/responses", '{"input":"x","max_output_tokens":-1}', 400, "max_output_tokens: need an integer",
      "max_output_tokens"},
    {"/v1/responses", '{"input":"x","temperature":"hot"}', 400, "temperature: ", "temperature"},
    {"/v1/responses", '{"input":"x","model":"other"}', 404, "model: 'other' is not served here", "model"},
    {"/v1/messages", "{" .. user .. "}", 400, "max_tokens: need"},
    {"/v1/messages", '{"max_tokens":3}', 400, "messages: need a list"},
    {"/v1/messages", '{"max_tokens":3,"messages":[{"role":"system","content":"x"}]}', 400,
      "messages%[0%]: role: need user"},
    {"/v1/messages", '{"max_tokens":3,"messages":[{"role":"user","content":[{"type":"image"}]}]}', 400,
      "messages%[0%]%.content%[0%]: type 'image' is not offered"},
    {"/v1/messages", '{"max_tokens":3,"messages":[{"role":"user"}]}', 400, "messages%[0%]: content: null"},
    {"/v1/messages", '{"max_tokens":3,"thinking":{"type":"enabled","budget_tokens":9},' .. user .. "}", 400,
      "thinking: only"},
    {"/v1/messages", '{"max_tokens":3,"output_config":{"format":{"type":"json_schema"}},' .. user .. "}", 400,
      "output_config.format: not offered"},
    {"/v1/messages", '{"max_tokens":3,"stop_sequences":3,' .. user .. "}", 400, "stop_sequences: "},
    {"/v1/messages", '{"max_tokens":3,"model":"other",' .. user .. "}", 404, "model: 'other' is not served here"},
    {"/v1/messages/count_tokens", '{"messages":[]}', 400, "messages: "},
  }
  for _, case in ipairs(refused) do
    it("refuses " .. case[2]:sub(1, 60) .. " at " .. case[1], function()
      local status, r, text = post(case[1], case[2])
      assert.equal(case[3], status, text)
      assert.truthy(r.error.message:find("^" .. case[4]), text)
      if case[1] == "/v1/responses" then
        assert.equal(case[5], r.error.param ~= json.null and r.error.param or nil, text)
      else
        assert.equal("error", r.type)
        assert.equal(status == 404 and "not_found_error" or "invalid_request_error", r.error.type)
      end
    end)
  end

  it("asks for a key as each API says it", function()
    local status, r = post("/v1/messages", "{}", {["x-api-key"] = "wrong"})
    assert.equal(401, status)
    assert.equal("authentication_error", r.error.type)
    status, r = post("/v1/responses", "{}", {["X-Other"] = "x"})
    assert.equal(401, status)
    assert.equal("invalid_request_error", r.error.type)
  end)

  it("translates a conversation of many messages while others have their turn", function()
    local items = {}
    for i = 1, 20000 do items[i] = '{"role":"user","content":"' .. ("x"):rep(100) .. '"}' end
    local body = '{"input":[' .. table.concat(items, ",") .. "]}"
    local status, r = post("/v1/responses", body)
    assert.equal(400, status)
    assert.equal("context_length_exceeded", r.error.code)
    status, r = post("/v1/responses", '{"input":[' .. ("{},"):rep(600000) .. "{}]}")
    assert.equal(400, status)
    assert.equal("body: more than a million values, brackets and escapes", r.error.message)
  end)
end)
