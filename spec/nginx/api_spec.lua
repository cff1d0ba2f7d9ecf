-- The OpenAI API as clients see it, through nginx.
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"

describe("fp8llm serve", function()
  local process, port

  setup(function()
    server.write("build/spec/shout.lua", "return function(step) step:accept(65) end\n")
    server.write("build/spec/rows.lua", [[
      return {logits = true, step = function(step)
        step.logits:add_at(66, 1000)
        step:sample()
      end}
    ]])
    server.write("build/spec/fails.lua", 'return function() error "on purpose" end\n')
    process = server.start("api", server.model "tiny" .. " --served-model-name tiny --served-model-name alias" ..
      " --metrics --policy shout=build/spec/shout.lua --policy rows=build/spec/rows.lua" ..
      " --policy fails=build/spec/fails.lua")
    port = process.port
  end)
  teardown(function() assert.equal(0, server.stop(process)) end)

  local function post(path, body)
    local status, text, headers = http.ask(port, "POST", path, type(body) == "string" and body or json.encode(body))
    return status, json.decode(text), headers, text
  end

  -- The data of all events, in order; comments are not events.
  local function events(path, body)
    local status, text, headers = http.ask(port, "POST", path, json.encode(body))
    assert.equal(200, status)
    assert.equal("text/event-stream; charset=utf-8", headers["content-type"])
    local list = {}
    for data in text:gmatch "data: ([^\n]+)\n\n" do list[#list + 1] = data end
    assert.equal("[DONE]", table.remove(list))
    for i, data in ipairs(list) do list[i] = json.decode(data) end
    return list
  end

  local hello = {{role = "user", content = "hello"}}

  it("completes a text", function()
    local status, r, headers = post("/v1/completions", {
      prompt = "hello", max_tokens = 4, temperature = 0, ignore_eos = true,
    })
    assert.equal(200, status)
    assert.equal("text_completion", r.object)
    assert.equal("tiny", r.model)
    assert.truthy(r.id:match "^cmpl%-%x+$")
    assert.equal(r.id:sub(6), headers["x-request-id"])
    assert.same({
      prompt_tokens = 3, completion_tokens = 4, total_tokens = 7, prompt_tokens_details = {cached_tokens = 0},
    }, r.usage)
    assert.equal("length", r.choices[1].finish_reason)
    assert.equal("string", type(r.choices[1].text))
    assert.equal(json.null, r.choices[1].logprobs)
  end)

  it("completes a text of 16 tokens unless told otherwise", function()
    local _, r = post("/v1/completions", {prompt = "hello", ignore_eos = true})
    assert.equal(16, r.usage.completion_tokens)
  end)

  it("streams the same text", function()
    local body = {prompt = "hello", max_tokens = 20, temperature = 0, n = 2, ignore_eos = true}
    local _, whole = post("/v1/completions", body)
    body.stream = true
    local text = {[0] = "", [1] = ""}
    for _, e in ipairs(events("/v1/completions", body)) do
      assert.equal("text_completion", e.object)
      assert.equal(nil, e.usage)
      local choice = e.choices[1]
      text[choice.index] = text[choice.index] .. choice.text
    end
    assert.equal(whole.choices[1].text, text[0])
    assert.equal(whole.choices[2].text, text[1])
  end)

  it("answers lists of texts and of ids in order", function()
    for _, prompt in ipairs {{"hello", "abc"}, {{256, 259, 111}, {97, 98, 99}}} do
      local _, r = post("/v1/completions", {
        prompt = prompt, max_tokens = 2, temperature = 0, echo = true, ignore_eos = true,
      })
      assert.equal("hello", r.choices[1].text:sub(1, 5))
      assert.equal("abc", r.choices[2].text:sub(1, 3))
      assert.equal(1, r.choices[2].index)
      assert.equal(6, r.usage.prompt_tokens)
    end
    local _, one = post("/v1/completions", {prompt = json.array {97, 98, 99}, max_tokens = 1})
    assert.equal(3, one.usage.prompt_tokens)
  end)

  it("gives log-probabilities as evaluation harnesses need them", function()
    local status, r, _, text = post("/v1/completions", {
      prompt = {{256, 259, 111}, {97}}, max_tokens = 1, echo = true, logprobs = 1, temperature = 0, seed = 1234,
    })
    assert.equal(200, status)
    local lp = r.choices[1].logprobs
    assert.equal(4, #lp.tokens)
    assert.same({"he", "ll", "o"}, {lp.tokens[1], lp.tokens[2], lp.tokens[3]})
    assert.equal(json.null, lp.token_logprobs[1])
    assert.equal(json.null, lp.top_logprobs[1])
    assert.same({0, 2, 4, 5}, lp.text_offset)
    for i = 2, 4 do
      assert.equal(lp.token_logprobs[i], lp.top_logprobs[i][lp.tokens[i]])
    end
    -- The same value has the same digits everywhere.
    local digits = text:match('"token_logprobs":%[null,(%-[%d.e-]+)')
    local _, count = text:gsub(digits:gsub("%p", "%%%0"), "")
    assert.equal(2, count)
    assert.equal(2, #r.choices[2].logprobs.tokens)
  end)

  it("echoes alone with max_tokens 0", function()
    local _, r = post("/v1/completions", {prompt = "hello", max_tokens = 0, echo = true, logprobs = 1})
    assert.equal("hello", r.choices[1].text)
    assert.equal(3, #r.choices[1].logprobs.tokens)
  end)

  it("gives ids and log-probabilities of the prompt to who asks", function()
    local body = {prompt = "hello", max_tokens = 2, prompt_logprobs = 1, return_token_ids = true, ignore_eos = true}
    local _, r = post("/v1/completions", body)
    local choice = r.choices[1]
    assert.same({256, 259, 111}, {choice.prompt_token_ids[1], choice.prompt_token_ids[2], choice.prompt_token_ids[3]})
    assert.equal(2, #choice.token_ids)
    assert.equal(json.null, choice.prompt_logprobs[1])
    assert.equal("o", choice.prompt_logprobs[3]["111"].decoded_token)
    body.stream = true
    local ids, scored = 0, 0
    for _, e in ipairs(events("/v1/completions", body)) do
      ids = ids + #e.choices[1].token_ids
      scored = scored + (e.choices[1].prompt_logprobs and 1 or 0)
    end
    assert.same({2, 1}, {ids, scored})
  end)

  it("names tokens by their ids to who asks", function()
    local body = {prompt = "hello", max_tokens = 3, logprobs = 2, echo = true, return_tokens_as_token_ids = true}
    local _, r = post("/v1/completions", body)
    local told = r.choices[1].logprobs
    assert.same({"token_id:256", "token_id:259", "token_id:111"}, {told.tokens[1], told.tokens[2], told.tokens[3]})
    assert.equal(told.token_logprobs[3], told.top_logprobs[3]["token_id:111"])
    assert.same({0, 2, 4}, {told.text_offset[1], told.text_offset[2], told.text_offset[3]})
    body = {
      messages = hello, max_tokens = 2, ignore_eos = true, logprobs = true, top_logprobs = 2,
      return_tokens_as_token_ids = true,
    }
    _, r = post("/v1/chat/completions", body)
    for _, token in ipairs(r.choices[1].logprobs.content) do
      assert.truthy(token.token:match "^token_id:%d+$")
      assert.truthy(token.top_logprobs[2].token:match "^token_id:%d+$")
    end
    body.stream = true
    local n = 0
    for _, e in ipairs(events("/v1/chat/completions", body)) do
      for _, token in ipairs(e.choices[1].logprobs ~= json.null and e.choices[1].logprobs.content or {}) do
        assert.truthy(token.token:match "^token_id:%d+$")
        n = n + 1
      end
    end
    assert.equal(2, n)
  end)

  it("chats", function()
    local status, r = post("/v1/chat/completions", {
      model = "alias", messages = hello, max_completion_tokens = 3, temperature = 0, logprobs = true, top_logprobs = 2,
      ignore_eos = true, user = "somebody", some_unknown_extra = {1},
    })
    assert.equal(200, status)
    assert.equal("chat.completion", r.object)
    assert.equal("alias", r.model)
    local choice = r.choices[1]
    assert.equal("assistant", choice.message.role)
    assert.equal(3, #choice.logprobs.content)
    local first = choice.logprobs.content[1]
    assert.equal(2, #first.top_logprobs)
    assert.equal(first.logprob, first.top_logprobs[1].logprob)
    assert.equal("number", type(first.bytes[1]))
  end)

  it("streams a chat: role, pieces, the reason it ended, usage", function()
    local list = events("/v1/chat/completions", {
      messages = hello, max_tokens = 5, temperature = 0, stream = true, ignore_eos = true,
      stream_options = {include_usage = true},
    })
    assert.same({role = "assistant", content = ""}, list[1].choices[1].delta)
    local last = list[#list]
    assert.equal(0, #last.choices)
    assert.equal(5, last.usage.completion_tokens)
    assert.equal("length", list[#list - 1].choices[1].finish_reason)
    assert.equal(json.null, list[2].usage)
    for _, e in ipairs(list) do assert.equal("chat.completion.chunk", e.object) end
  end)

  it("tells the usage in every event when asked", function()
    local list = events("/v1/completions", {
      prompt = "hello", max_tokens = 5, temperature = 0, stream = true, ignore_eos = true,
      stream_options = {include_usage = true, continuous_usage_stats = true},
    })
    local before = 0
    for _, e in ipairs(list) do
      assert.is_true(e.usage.completion_tokens >= before)
      before = e.usage.completion_tokens
    end
    assert.equal(5, before)
  end)

  it("streams log-probabilities", function()
    local tokens, offset = {}, 0
    for _, e in ipairs(events("/v1/completions", {
      prompt = "hello", max_tokens = 6, stream = true, logprobs = 1, ignore_eos = true, echo = true, seed = 3,
    })) do
      local lp = e.choices[1].logprobs
      for i, token in ipairs(lp.tokens) do
        tokens[#tokens + 1] = token
        assert.is_true(lp.text_offset[i] >= offset)
        offset = lp.text_offset[i]
      end
    end
    assert.equal(9, #tokens)
  end)

  it("hands a line of many MB on for less than it takes to write it", function()
    local nginx = server.children(process.pid, "nginx: master")
    local workers, engine = server.children(nginx[1], "worker"), server.children(process.pid, "--listen")
    local function cpu() return server.cpu(workers, "nginx"), server.cpu(engine, "fp8%-worker") end
    local nginx_before, engine_before = cpu()
    local status, text = http.ask(port, "POST", "/tokenize", json.encode {prompt = ("lorem ipsum "):rep(100000)})
    local nginx_after, engine_after = cpu()
    assert.equal(200, status)
    assert.is_true(#text > 3e6)
    local _, commas = text:gsub(",%d", "")
    assert.equal(tonumber(text:match '"count":(%d+)'), commas + 1)
    assert.is_true(nginx_after - nginx_before < engine_after - engine_before)
  end)

  it("goes on with the last message", function()
    local _, a = post("/v1/chat/completions", {
      messages = {hello[1], {role = "assistant", content = "abc"}}, continue_final_message = true,
      add_generation_prompt = false, max_tokens = 1,
    })
    local _, b = post("/tokenize", {
      messages = {hello[1], {role = "assistant", content = "abc"}}, continue_final_message = true,
    })
    assert.equal(b.count, a.usage.prompt_tokens)
    assert.equal(99, b.tokens[#b.tokens])
    -- What the template writes behind a message is no place to go on from.
    for _, text in ipairs {"", "e", "<|end|>", "\n"} do
      local _, whole = post("/tokenize", {
        messages = {hello[1], {role = "assistant", content = text .. "~"}}, continue_final_message = true,
      })
      _, b = post("/tokenize", {
        messages = {hello[1], {role = "assistant", content = text}}, continue_final_message = true,
      })
      table.remove(whole.tokens)
      assert.same(whole.tokens, b.tokens)
    end
  end)

  it("takes members that clients send empty", function()
    local null = json.null
    local bodies = {
      {top_logprobs = 0, logprobs = false}, {top_logprobs = 0}, {logprobs = null, top_logprobs = null},
      {stop = ""}, {stop = json.array {}}, {stop = json.array {""}}, {stop = null}, {stop_token_ids = json.array {}},
      {bad_words = json.array {}}, {logit_bias = {}}, {logit_bias = null}, {tools = json.array {}, tool_choice = null},
      {tools = null, tool_choice = "none"}, {functions = json.array {}, function_call = null},
      {function_call = ""}, {response_format = null}, {response_format = {}}, {stream_options = null},
      {stream_options = {}}, {n = null, seed = null, user = "", metadata = {}}, {model = ""},
      {max_tokens = null, max_completion_tokens = 2}, {chat_template = null}, {chat_template_kwargs = {}},
      {documents = json.array {}}, {request_id = ""}, {cache_salt = ""}, {modalities = json.array {}, audio = {}},
      {structured_outputs = {}, guided_json = null}, {suffix = ""}, {policy = ""}, {seed = -5}, {echo = null},
    }
    for _, body in ipairs(bodies) do
      body.messages = {hello[1]}
      body.max_tokens = body.max_tokens or 2
      local status, r = post("/v1/chat/completions", body)
      assert.equal(200, status, json.encode(body) .. " " .. json.encode(r))
      body.messages, body.prompt = nil, "hello"
      body.logprobs, body.top_logprobs, body.tools = nil, nil, nil
      status, r = post("/v1/completions", body)
      assert.equal(200, status, json.encode(body) .. " " .. json.encode(r))
    end
  end)

  it("takes messages as OpenAI's library sends them", function()
    local null = json.null
    local function count(message)
      local status, r = post("/tokenize", {messages = {hello[1], message, hello[1]}})
      assert.equal(200, status)
      return r.count
    end
    local bare = count {role = "assistant", content = ""}
    assert.equal(bare, count {role = "assistant", content = null})
    assert.equal(bare, count {role = "assistant"})
    assert.equal(bare, count {
      role = "assistant", content = null, refusal = null, audio = null, function_call = null,
      tool_calls = null, annotations = json.array {}, name = null,
    })
    assert.equal(bare, count {role = "assistant", content = null, tool_calls = json.array {}})
    for _, arguments in ipairs {null, "", "{not JSON", "{}"} do
      local call = {id = "1", type = "function", ["function"] = {name = "f", arguments = arguments}}
      assert.equal(bare, count {role = "assistant", content = null, tool_calls = {call}})
    end
    local status, r = post("/v1/chat/completions", {messages = {{role = "user", content = null}}, max_tokens = 1})
    assert.equal(400, status)
    assert.equal("messages", r.error.param)
    assert.is_true(r.error.message:find("messages[0]: content: null", 1, true) ~= nil)
  end)

  it("stops where it should and says why", function()
    local _, r = post("/v1/completions", {prompt = "hello", max_tokens = 200, policy = "shout", stop = "AAA"})
    assert.equal("stop", r.choices[1].finish_reason)
    assert.equal("AAA", r.choices[1].stop_reason)
    assert.equal("", r.choices[1].text)
    _, r = post("/v1/completions", {prompt = "hello", max_tokens = 200, policy = "shout", stop_token_ids = {65}})
    assert.equal(65, r.choices[1].stop_reason)
  end)

  it("lets a client choose an operator's policy, never more", function()
    local _, r = post("/v1/completions", {prompt = "hello", max_tokens = 4, policy = "shout"})
    assert.equal("AAAA", r.choices[1].text)
    _, r = post("/v1/completions", {prompt = "hello", max_tokens = 4, policy = "rows"})
    assert.equal("BBBB", r.choices[1].text)
    local body = json.encode {prompt = "hello", max_tokens = 1, policy = "rows"}
    for _ = 1, 70 do assert.equal(200, (post("/v1/completions", body))) end -- 64 rows can be lent at a time
    local status, refused = post("/v1/completions", {prompt = "hello", policy = "os.exit()"})
    assert.equal(400, status)
    assert.equal("policy", refused.error.param)
    status, refused = post("/v1/completions", {prompt = "hello", policy = "fails"})
    assert.is_true(status >= 500)
    assert.truthy(refused.error.message:find "policy")
    assert.truthy(server.read(process.log):find "on purpose")
  end)

  it("answers around the model", function()
    local status, text = http.ask(port, "GET", "/v1/models")
    assert.equal(200, status)
    local list = json.decode(text)
    assert.equal("tiny", list.data[1].id)
    assert.equal("alias", list.data[2].id)
    assert.equal(512, list.data[1].max_model_len)
    assert.equal(200, (http.ask(port, "GET", "/v1/models/alias")))
    assert.equal(404, (http.ask(port, "GET", "/v1/models/other")))
    local _, r = post("/tokenize", {prompt = "hello"})
    assert.same({256, 259, 111}, {r.tokens[1], r.tokens[2], r.tokens[3]})
    assert.equal(3, r.count)
    _, r = post("/detokenize", {tokens = {256, 259, 111}})
    assert.equal("hello", r.prompt)
    status, text = http.ask(port, "GET", "/tokenizer_info")
    assert.equal(200, status)
    assert.equal("<|end|>", json.decode(text).eos_token)
    status, text = http.ask(port, "GET", "/metrics")
    assert.equal(200, status)
    assert.truthy(text:find('fp8llm_up{model="tiny"} 1', 1, true))
    assert.truthy(text:find('fp8llm_generation_tokens_total{model="tiny"} %d+'))
    assert.equal(200, (http.ask(port, "GET", "/")))
    assert.equal(200, (http.ask(port, "HEAD", "/health")))
  end)

  it("keeps a client's request id when it is a plain word", function()
    local _, _, headers = http.ask(port, "GET", "/health", nil, {["X-Request-Id"] = "abc-1.2"})
    assert.equal("abc-1.2", headers["x-request-id"])
    _, _, headers = http.ask(port, "GET", "/health", nil, {["X-Request-Id"] = "a b<script>"})
    assert.truthy(headers["x-request-id"]:match "^%x+$")
    local _, r = post("/v1/completions", '{"prompt":"a","max_tokens":1,"request_id":"mine"}')
    assert.equal("cmpl-mine", r.id)
    local body = {messages = hello, max_tokens = 2, request_id = "mine", stream = true}
    for _, e in ipairs(events("/v1/chat/completions", body)) do
      assert.equal("chatcmpl-mine", e.id)
    end
    local status, refused = post("/v1/completions", '{"prompt":"a","request_id":7}')
    assert.same({400, "request_id"}, {status, refused.error.param})
  end)

  it("allows no other site's pages", function()
    local _, _, headers = http.ask(port, "GET", "/health", nil, {Origin = "http://elsewhere"})
    assert.equal(nil, headers["access-control-allow-origin"])
    assert.equal(405, (http.ask(port, "OPTIONS", "/v1/completions", nil, {Origin = "http://elsewhere"})))
  end)

  -- body, status, param, part of the message
  local refused = {
    {"/v1/completions", "{", 400, nil, "line 1"},
    {"/v1/completions", "", 400, nil, "JSON"},
    {"/v1/completions", '{"prompt":"a","temperature":-1}', 400, "temperature", "-1"},
    {"/v1/completions", '{"prompt":"a","n":1e99}', 400, "n", "integer"},
    {"/v1/completions", '{"prompt":"a","model":"gpt-9"}', 404, "model", "gpt-9"},
    {"/v1/completions", '{"prompt":"' .. ("x"):rep(600) .. '"}', 400, "prompt", "maximum context length is 512 tokens"},
    {"/v1/completions", '{"prompt":"a\255b"}', 400, nil, "UTF"},
    {"/v1/completions", ("["):rep(100000), 400, nil, "nested"},
    {"/v1/chat/completions", '{"messages":[]}', 400, "messages", "at least one"},
    {"/v1/chat/completions", '{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema"}}',
      400, "response_format", "text"},
    {"/v1/chat/completions",
      '{"messages":[{"role":"user","content":"a"}],"tool_choice":{"type":"function","function":{"name":"f"}}}', 400,
      "tool_choice", "auto and none"},
    {"/tokenize", "{}", 400, "prompt", "text"},
    {"/nothing", "{}", 404, nil, "no such path"},
  }
  for _, case in ipairs(refused) do
    it("refuses " .. case[2]:sub(1, 60):gsub("[^%g ]", "?") .. " at " .. case[1], function()
      local status, r, headers = post(case[1], case[2])
      assert.equal(case[3], status)
      assert.equal("application/json", headers["content-type"])
      assert.equal(case[4] or json.null, r.error.param)
      assert.truthy(r.error.message:find(case[5], 1, true), r.error.message)
      assert.equal("invalid_request_error", r.error.type)
    end)
  end

  it("answers only to its own names on a loopback address", function()
    for _, host in ipairs {"localhost", "LOCALHOST:" .. port, "127.0.0.1:1", "[::1]:9", "127.1.2.3", "localhost."} do
      assert.equal(200, (http.ask(port, "GET", "/health", nil, {Host = host})), host)
    end
    for _, host in ipairs {"evil.example", "localhost.evil.example:" .. port, "127.0.0.1.evil.example", "[::2]", "x"} do
      for _, path in ipairs {"/health", "/", "/v1/models", "/v1/completions"} do
        local status, text = http.ask(port, path:find "compl" and "POST" or "GET", path, path:find "compl" and
          '{"prompt":"a"}' or nil, {Host = host})
        assert.equal(403, status, host)
        assert.truthy(json.decode(text).error.message:find("--allowed-host", 1, true))
      end
    end
  end)

  it("takes bodies as application/json only, which no page may send unasked", function()
    local body = '{"prompt":"a","max_tokens":1}'
    for _, kind in ipairs {"application/json", "Application/JSON; charset=utf-8", "application/json;x"} do
      assert.equal(200, (http.ask(port, "POST", "/v1/completions", body, {["Content-Type"] = kind})), kind)
    end
    for _, kind in ipairs {"text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "x", "",
      "multipart/form-data", "application/jsonx"} do
      for _, path in ipairs {"/v1/completions", "/v1/chat/completions/", "/tokenize", "/detokenize"} do
        local status, text = http.ask(port, "POST", path, body, {["Content-Type"] = kind})
        assert.equal(415, status, kind)
        assert.equal("invalid_request_error", json.decode(text).error.type)
      end
    end
    local c = http.connect(port) -- none at all
    c:send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n" .. '{"prompt":"a"}')
    assert.equal(415, http.head(c).status)
    c:close()
  end)

  it("knows its paths with slashes at their ends", function()
    for _, path in ipairs {"/v1/models/", "/v1/models//", "/health/", "/v1/models/tiny/", "//health"} do
      assert.equal(200, (http.ask(port, "GET", path)), path)
    end
    assert.equal(200, (post("/v1/completions/", '{"prompt":"a","max_tokens":1}')))
    assert.equal(404, (http.ask(port, "GET", "/v1/")))
  end)

  it("answers in UTF-8 whatever a path holds", function()
    for _, path in ipairs {"/v1/models/%ff", "/%c3%28", "/v1/models/%00%1b[31m%f0%9f", "/v1/models/%c3%a4"} do
      local status, text = http.ask(port, "GET", path)
      assert.is_true(status == 404 or status == 400)
      assert.truthy(json.decode(text)) -- which wants valid UTF-8
    end
    local _, text = http.ask(port, "GET", "/v1/models/%ffx%c3%a4")
    assert.truthy(text:find("'\239\191\189x\195\164'", 1, true))
  end)

  it("takes no name for what stands before a NUL in it", function()
    local status, r = post("/v1/completions", '{"prompt":"a","model":"tiny\\u0000x"}')
    assert.same({404, "model"}, {status, r.error.param})
    status, r = post("/v1/completions", '{"prompt":"a","policy":"shout\\u0000x"}')
    assert.same({400, "policy"}, {status, r.error.param})
    assert.equal(200, (post("/v1/completions", '{"prompt":"a","max_tokens":1,"temperature\\u0000x":-7}')))
    assert.equal(400, (post("/v1/chat/completions",
      '{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"text\\u0000"}}')))
  end)

  it("has readers of JSON in C and Lua that take the same texts", function()
    local deep = function(n) return ("["):rep(n) .. "1" .. ("]"):rep(n) end
    for _, text in ipairs {
      "1", "01", "-", "-0", "-01", "1.", ".5", "1.5", "1e5", "1e",
      "1e+", "1E-2", "+1", "0x10", "1_0", "NaN", "Infinity",
      "-Infinity", "-NaN", "nan", "nulL", "null", "nullx", "true",
      "True", '"a"', '"\\u0000"', '"\\ud800"', '"\\u12g4"',
      '"\\x"', '"\255"', '"\237\160\128"', '"\195\164"', '"\1"', '"\127"', "[1,]", "[,1]", "[]", "{}",
      '{"a":1,}', '{"a" 1}',
      "{1:2}", '{"a":1,"a":2}', "[1 2]", "\v1", "\f", "1 ", deep(199), deep(200), deep(201), ("1"):rep(1000),
      ("1"):rep(1001), "1e999", "99999999999999999999", "'a'", "",
    } do
      local status = post("/v1/completions", '{"prompt":"a","max_tokens":1,"x":' .. text .. "}")
      local value = json.decode('{"x":' .. text .. "}")
      assert.equal(status == 200, value ~= nil, text:sub(1, 40) .. " " .. status)
    end
  end)

  it("streams to who speaks HTTP/1.0, as a stock proxy does", function()
    local c = http.connect(port)
    -- A chat: its role goes out before the first token, and from there on all may be kept for the end.
    local body = '{"messages":[{"role":"user","content":"hello"}],"max_tokens":40,"ignore_eos":true,"stream":true}'
    c:send("POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n" ..
      "Content-Length: " .. #body .. "\r\n\r\n" .. body)
    local text = c.sock:receive "*a"
    c:close()
    assert.truthy(text:find("200 OK", 1, true))
    assert.equal("data: [DONE]\n\n", text:sub(-14))
    assert.truthy(text:find('"finish_reason":"length"', 1, true))
  end)

  it("has workers that are not root", function()
    local nginx = server.children(process.pid, "nginx: master")[1]
    for _, worker in ipairs(server.children(nginx, "worker")) do
      assert.is_true(server.read("/proc/" .. worker .. "/status"):match "Uid:%s+(%d+)" ~= "0")
    end
  end)

  it("refuses a body that is too large, and headers that are", function()
    local status, text = http.ask(port, "POST", "/v1/completions", ("x"):rep(17 * 1024 * 1024))
    assert.equal(413, status)
    assert.equal("body: too large", json.decode(text).error.message)
    status, text = http.ask(port, "GET", "/v1/models", nil, {["X-Long"] = ("x"):rep(40000)})
    assert.equal(400, status)
    assert.equal("invalid_request_error", json.decode(text).error.type)
  end)
end)

describe("fp8llm serve with several models and keys", function()
  local process, port

  setup(function()
    server.write("build/spec/keys", "# staff\nsecret-a ann 100 0\nsecret-b bob 0 5\nsecret-c cid\n" ..
      "secret-e eve 0 0 parse_special=off\n")
    local dir = server.model "tiny"
    local other = server.model("other", "seed=2 layers=1 context=256")
    process = server.start("several", string.format("--model one=%s --model two=%s --api-keys build/spec/keys" ..
      " --allow-origin https://example.org", dir, other))
    port = process.port
  end)
  teardown(function() assert.equal(0, server.stop(process, "INT")) end)

  local function ask(key, body)
    return http.ask(port, "POST", "/v1/completions", body, {Authorization = key and "Bearer " .. key})
  end

  it("asks for a key where it matters", function()
    local status, text, headers = ask(nil, '{"prompt":"a"}')
    assert.equal(401, status)
    assert.equal("Bearer", headers["www-authenticate"])
    assert.truthy(text:find "api key")
    assert.equal(401, (ask("secret", '{"prompt":"a"}')))
    assert.equal(200, (ask("secret-c", '{"prompt":"a","model":"one"}')))
    assert.equal(200, (http.ask(port, "GET", "/health")))
    status, text = http.ask(port, "GET", "/metrics") -- closed to everybody, with a key or without
    assert.equal(403, status)
    assert.equal("metrics: closed; fp8llm serve --metrics, or metrics = true in configure, opens them",
      json.decode(text).error.message)
    assert.equal(403, (http.ask(port, "GET", "/metrics/", nil, {Authorization = "Bearer secret-a"})))
    assert.equal(401, (http.ask(port, "GET", "/v1/models")))
  end)

  it("sends a request to the model it names", function()
    for _, case in ipairs {{"one", 512}, {"two", 256}} do
      local body = json.encode {model = case[1], prompt = ("x"):rep(case[2])}
      local status, text = ask("secret-c", body)
      assert.equal(400, status)
      assert.truthy(text:find("maximum context length is " .. case[2] .. " tokens", 1, true))
      assert.equal("context_length_exceeded", json.decode(text).error.code)
    end
    assert.equal(404, (ask("secret-c", '{"model":"three","prompt":"a"}')))
  end)

  it("reads special tokens in prompts, but not for a key that is marked", function()
    local function tokens(key, more)
      local status, text = ask(key, '{"model":"one","prompt":"<|end|>","max_tokens":1' .. (more or "") .. "}")
      return status == 200 and json.decode(text).usage.prompt_tokens or text
    end
    assert.equal(1, tokens "secret-c")
    assert.equal(7, tokens("secret-c", ',"parse_special":false'))
    assert.equal(7, tokens "secret-e")
    assert.truthy(tokens("secret-e", ',"parse_special":true'):find "parse_special: not offered to 'eve'")
  end)

  it("finds the model's name wherever and however it is written", function()
    local rest = '"prompt":"a","max_tokens":1'
    for _, body in ipairs {
      '{"model":"two",' .. rest .. "}", "{" .. rest .. ',"model":"two"}',
      '{"x":{"model":"one"},"model":"two",' .. rest .. "}",
      '{"x":"\\"model\\":\\"one\\\\","model":"two",' .. rest .. "}", '{"model":"one","model":"two",' .. rest .. "}",
      '{ "m\\u006fdel" : "t\\u0077o" , ' .. rest .. " }", '{"x":[[["}"],{"a":"]"}]],"model":"two",' .. rest .. "}",
      "{" .. rest .. ',"x":"' .. ("\\n"):rep(200000) .. '","model":"two"}',
      "{" .. rest .. ',"x":[' .. ("[1],"):rep(30000) .. '1],"model":"two"}',
    } do
      local status, text = ask("secret-c", body)
      assert.equal(200, status, text)
      assert.equal("two", json.decode(text).model)
    end
    local status, text = ask("secret-c", '{"x":[' .. ("[],"):rep(2000000) .. '1],"model":"two"}')
    assert.equal(400, status)
    assert.truthy(text:find "more than a million")
  end)

  it("reads no body of many MB in plain Lua", function()
    local workers = server.children(server.children(process.pid, "nginx: master")[1], "worker")
    local before = server.cpu(workers, "nginx")
    local filler = ("lorem ipsum \\n"):rep(1000000)
    local status = ask("secret-c", '{"max_tokens":1,"x":"' .. filler .. '","prompt":"a","model":"two"}')
    local scan = server.cpu(workers, "nginx") - before
    assert.equal(200, status)
    local start = os.clock()
    json.decode('"' .. filler .. '"')
    assert.is_true(scan < os.clock() - start, scan)
  end)

  it("takes the word Bearer in any case", function()
    for _, word in ipairs {"Bearer", "BEARER", "bearer", "bEaReR"} do
      local status = http.ask(port, "GET", "/v1/models", nil, {Authorization = word .. "  secret-c"})
      assert.equal(200, status, word)
    end
    for _, value in ipairs {"Basic secret-c", "secret-c", "Bearer", "Bearersecret-c", "Bearer secret-c x"} do
      assert.equal(401, (http.ask(port, "GET", "/v1/models", nil, {Authorization = value})), value)
    end
  end)

  it("limits what a key runs at a time", function()
    local c = http.connect(port)
    c:send(http.request("POST", "/v1/completions", '{"prompt":"a","stream":true,"ignore_eos":true,"n":100}',
      {Authorization = "Bearer secret-a"}))
    assert.equal(200, http.head(c).status)
    local status, text, headers = ask("secret-a", '{"prompt":"a"}')
    assert.equal(429, status)
    assert.equal("1", headers["retry-after"])
    assert.equal("rate_limit_error", json.decode(text).error.type)
    assert.equal(429, (ask("secret-a", '{"prompt":["a","b"],"n":64}')))
    c:close()
    server.await("the key's slot", function() return ask("secret-a", '{"prompt":"a"}') == 200 end)
  end)

  it("limits the tokens of a minute", function()
    assert.equal(200, (ask("secret-b", '{"prompt":"a","max_tokens":4,"ignore_eos":true}')))
    local status, _, headers = ask("secret-b", '{"prompt":"a"}')
    assert.equal(429, status)
    local wait = tonumber(headers["retry-after"])
    assert.is_true(wait >= 1 and wait <= 61)
  end)

  it("lets one other site's pages in when told to", function()
    local status, _, headers = http.ask(port, "OPTIONS", "/v1/completions", nil, {Origin = "https://example.org"})
    assert.equal(204, status)
    assert.equal("https://example.org", headers["access-control-allow-origin"])
    local asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count"
    _, _, headers = http.ask(port, "OPTIONS", "/v1/chat/completions", nil, {
      Origin = "https://example.org", ["Access-Control-Request-Headers"] = asked,
    })
    assert.equal(asked, headers["access-control-allow-headers"])
    _, _, headers = http.ask(port, "OPTIONS", "/v1/models", nil, {["Access-Control-Request-Headers"] = "a\"b"})
    assert.truthy(headers["access-control-allow-headers"]:find "Authorization")
  end)

  it("says so also in what nginx itself refuses", function()
    local long = ("x"):rep(40000)
    for _, case in ipairs {
      {413, "POST", "/v1/completions", ("x"):rep(17 * 2 ^ 20)}, {414, "GET", "/" .. long},
      {400, "GET", "/health", nil, {["X-Long"] = long}}, {401, "GET", "/v1/models"}, {404, "GET", "/none"},
    } do
      local status, text, headers = http.ask(port, case[2], case[3], case[4], case[5])
      assert.equal(case[1], status)
      assert.equal("https://example.org", headers["access-control-allow-origin"], status)
      assert.truthy(headers["x-request-id"])
      assert.truthy(json.decode(text).error.message)
    end
  end)
end)
