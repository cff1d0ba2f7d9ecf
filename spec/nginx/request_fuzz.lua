--- Requests that may be right or wrong in any field: every field alone, every pair of fields, and random sets of them,
-- with usual values, those at the limits, hostile ones and products of what is legal alone. Each is answered by a 2xx
-- that says what it should, a 4xx with a reason, or 503; memory stays bounded, and afterwards all is as it was.
--
--   luajit spec/nginx/request_fuzz.lua [SECONDS [SEED]]
--   luajit spec/nginx/request_fuzz.lua submit [SECONDS [SEED]]      the same bodies through eng:submit, in this process
dofile "spec/support/paths.lua" "build"
local fp8llm = require "fp8llm"
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"
local socket = require "socket"

local in_process = arg[1] == "submit"
if in_process then table.remove(arg, 1) end
local seconds, seed = tonumber(arg[1]) or 10, tonumber(arg[2]) or 1
local random = math.random
math.randomseed(seed)
local function pick(list) return list[random(#list)] end

local most_kib = 700 * 1024

-- Values, as JSON texts. -----------------------------------------------------------------------

local function times(n, text) return "[" .. (text .. ","):rep(n - 1) .. text .. "]" end
local function numbers(n, f)
  local out = {}
  for i = 1, n do out[i] = f(i) end
  return "[" .. table.concat(out, ",") .. "]"
end
local function object(n, f)
  local out = {}
  for i = 1, n do out[i] = '"' .. i .. '":' .. f(i) end
  return "{" .. table.concat(out, ",") .. "}"
end

local hostile = {
  "null", "true", "false", "0", "-0", "-1", "1", "0.5", "1e30", "-1e30", "1e400", "9223372036854775807",
  "9223372036854775808", "-9223372036854775809", '""', '"x"', '"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', "[]", "{}",
  "[[]]", "[{}]", '[""]', "[null]", '{"":""}', '{"a":{"a":[1]}}', times(3000, "1"), times(3000, '"ab"'),
  ("["):rep(150) .. ("]"):rep(150), '"' .. ("x"):rep(5000) .. '"', '"\\u001b[2J"', "1.0", "3.0",
  "NaN", '{"a":[-Infinity]}', "01", "1.", "[1,]", "[}", "{a:1}", "tru", "'x'", '"\\q"', '"\255"', '"a\nb"', '"\\u00"',
}

local ids = {"[65]", "[65,66,67]", "[0]", "[265]", "[266]", "[-1]", times(4096, "65"), times(4097, "65"),
  numbers(266, function(i) return i - 1 end), times(100000, "65"), "[1e30]", "[65.0]"}
local texts = {
  '"a"', '["a","b"]', times(32, '"ab"'), times(33, '"ab"'), '"' .. ("s"):rep(2000) .. '"', '["\\n","\\u0000"]',
  '"\\ud83d\\ude00"'}

-- By the type that the engine's table of fields tells, so that no field can be left out.
local by_type = {
  ["boolean"] = function() return {"true", "false"} end,
  ["string"] = function() return {'"x"', '"' .. ("x"):rep(256) .. '"', '"' .. ("x"):rep(257) .. '"'} end,
  ["list of ids"] = function() return ids end,
  ["string or list of strings"] = function() return texts end,
  ["list of stages"] = function() return {'["temperature"]', '["top_k","top_p","min_p","temperature"]', '["x"]'} end,
  ["object of id to bias"] = function()
    return {'{"65":1.5}', '{"65":100,"66":-100}', '{"65":101}', object(265, function(i) return i % 100 end),
      object(5000, function() return 1 end)}
  end,
  ["integer"] = function(f)
    return {"1", "2", "3", "7", ("%.0f"):format(f.min), ("%.0f"):format(f.max), ("%.0f"):format(f.max + 1),
      ("%.0f"):format(f.min - 1)}
  end,
  ["number"] = function(f)
    return {"0.5", "1", "0.9", ("%.17g"):format(f.min), ("%.17g"):format(f.max), ("%.17g"):format(f.max * 1.01),
      ("%.17g"):format(f.min - 0.01)}
  end,
}

local tools = '[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}]'

-- What only OpenAI's requests have.
local served = {
  model = {'"tiny"', '"other"'}, stream = {"true", "false"}, user = {'"u"'},
  stream_options = {'{"include_usage":true}', '{"include_usage":true,"continuous_usage_stats":true}'},
  best_of = {"1", "2"}, suffix = {'"s"'}, top_logprobs = {"0", "1", "20", "64", "65"},
  max_completion_tokens = {"1", "5", "600"}, tools = {tools, times(500, tools:sub(2, -2))},
  tool_choice = {'"auto"', '"none"', '"required"', '{"type":"function","function":{"name":"f"}}'},
  response_format = {'{"type":"text"}', '{"type":"json_object"}', '{"type":"json_schema","json_schema":{}}'},
  parse_special = {"true", "false"}, add_special_tokens = {"true", "false"}, return_token_ids = {"true", "false"},
  return_tokens_as_token_ids = {"true", "false"}, request_id = {'"abc"', '"' .. ("r"):rep(129) .. '"'},
  documents = {'[{"title":"t","text":"x"}]'}, chat_template_kwargs = {'{"a":1}'},
  add_generation_prompt = {"true", "false"}, continue_final_message = {"true", "false"},
  chat_template = {'"x"'}, functions = {"[]", '[{"name":"f"}]'}, guided_json = {"{}"}, policy = {'"echo"', '"none"'},
  instructions = {'"i"'}, include = {'["message.output_text.logprobs"]'}, text = {'{"format":{"type":"text"}}'},
  previous_response_id = {'"r"'}, store = {"true", "false"}, metadata = {'{"a":"b"}'}, system = {'"s"'},
  stop_sequences = {'["a"]', times(40, '"a"')}, max_output_tokens = {"1", "4", "600"},
  thinking = {'{"type":"disabled"}', '{"type":"enabled"}'}, tool_results = {"1"}, ids = {"[65]"},
}

local prompts = {'"hello"', '"a"', "[65,66]", '["a","b"]', "[[65],[66,67]]", '"<|end|>"', '"' .. ("x"):rep(400) .. '"',
  '"' .. ("y"):rep(600) .. '"', times(64, '"a"'), times(257, '"a"'), times(64, "[65]"), '"\\u0000\\ud800"', '""', "[]"}
local conversations = {
  '[{"role":"user","content":"hello"}]', '[{"role":"system","content":"s"},{"role":"user","content":"a"}]',
  '[{"role":"user","content":[{"type":"text","text":"a"}]}]',
  '[{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f",' ..
    '"arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"r"}]',
  times(100, '{"role":"user","content":"x"}'), '[{"role":"user","content":"' .. ("x"):rep(700) .. '"}]',
  '[{"role":"user","content":null}]', "[{}]", "[]"}

local fields = {
  prompt = prompts, messages = conversations, input = conversations, tokens = ids, nobody_knows_this = {"1"},
}
for _, f in ipairs(fp8llm.request_fields()) do
  fields[f.name] = assert(by_type[f.type], "no values for the type " .. f.type)(f)
end
for name, values in pairs(served) do fields[name] = values end

local function sorted_names(t)
  local list = {}
  for name in pairs(t) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- The members that readers of requests name, so that one added there is tried here as well: with hostile values, and
-- those of `served` where it has any.
local function read_names()
  local function read(path, pattern, wanted)
    local text, n = server.read(path), 0
    for found in text:gmatch(pattern) do
      for name in found:gmatch "[%l_]+" do
        if not wanted or wanted(name) then
          fields[name], n = fields[name] or {}, n + 1
        end
      end
    end
    assert(n > 0, path .. ": names no members")
  end
  local function openai_knows(name)
    local function known(kind) return not (fp8llm._misuse({[name] = json.null}, kind) or ""):find "unknown field" end
    return known "chat" or known "completion"
  end
  read("src/serve/openai_request.c", '"([%l_]+)"', openai_knows)
  read("src/engine/prompt.c", '"([%l_]+)"', openai_knows)
  read("src/serve/answers.c", 'member%(body, "([%l_]+)"%)')
  read("lua/fp8llm/responses.lua", "for name in %(%[%[(.-)%]%]%)")
  read("lua/fp8llm/messages.lua", "for name in %(%[%[(.-)%]%]%)")
end
read_names()
local names = sorted_names(fields)

-- Bodies. --------------------------------------------------------------------------------------

-- path, kind of eng:submit, members that make it a good request
local routes = {
  {"/v1/completions", "completion", {prompt = '"hello"', max_tokens = "3"}},
  {"/v1/chat/completions", "chat", {messages = conversations[1], max_tokens = "3"}},
  {"/v1/responses", nil, {input = '"hello"', max_output_tokens = "3"}},
  {"/v1/messages", nil, {messages = conversations[1], max_tokens = "3"}},
  {"/v1/messages/count_tokens", nil, {messages = conversations[1]}},
  {"/tokenize", nil, {prompt = '"hello"'}},
  {"/detokenize", nil, {tokens = "[65,66]"}},
}

local function value(name)
  if random(4) == 1 or not fields[name][1] then return pick(hostile) end
  return pick(fields[name])
end

local function body(members)
  local list = {}
  for name, text in pairs(members) do list[#list + 1] = '"' .. name .. '":' .. text end
  table.sort(list) -- so that a seed tells the request
  return "{" .. table.concat(list, ",") .. "}"
end

local function with(route, set)
  local members = {}
  for name, text in pairs(route[3]) do members[name] = text end
  for name, text in pairs(set) do members[name] = text end
  return {route, body(members)}
end

-- Legal alone, and much together.
local large = {
  prompt = {times(64, '"a"'), times(256, '"ab"')}, n = {"128", "16"}, logprobs = {"64", "20"}, echo = {"true"},
  prompt_logprobs = {"64"}, allowed_token_ids = {times(100000, "65"), numbers(266, function(i) return i - 1 end)},
  logit_bias = {object(265, function() return 1 end)}, stop = {times(32, '"abcdefgh"')}, stream = {"true"},
  stop_token_ids = {times(4096, "67")}, bad_words = {times(32, '"abc"')}, max_tokens = {"5", "100"},
  return_token_ids = {"true"}, ignore_eos = {"true"}, num_speculative_tokens = {"32"},
}
local large_names = sorted_names(large) -- pairs() has another order in every process

local function product()
  local set = {}
  for _, name in ipairs(large_names) do
    if random(2) == 1 then set[name] = pick(large[name]) end
  end
  return set
end

-- All fields alone, then all pairs of them, each on a route, then at random.
local function requests()
  return coroutine.wrap(function()
    for _, route in ipairs(routes) do
      for _, name in ipairs(names) do
        for _, text in ipairs(fields[name]) do coroutine.yield(with(route, {[name] = text})) end
        for _, text in ipairs(hostile) do coroutine.yield(with(route, {[name] = text})) end
      end
    end
    for _, a in ipairs(names) do
      for _, b in ipairs(names) do
        if a < b then coroutine.yield(with(routes[random(4)], {[a] = value(a), [b] = value(b)})) end
      end
    end
    while true do
      local set = random(5) == 1 and product() or {}
      for _ = 1, random(8) do
        local name = pick(names)
        set[name] = value(name)
      end
      coroutine.yield(with(pick(routes), set))
    end
  end)
end

-- Of a short run: a few of all.
local function sample(next_request)
  return function()
    for _ = 1, seconds < 60 and random(12) or 1 do next_request() end
    return next_request()
  end
end

-- Answers. -------------------------------------------------------------------------------------

local function wrong_usage(u)
  local before, made = u.prompt_tokens or u.input_tokens, u.completion_tokens or u.output_tokens
  return not (before and made) or u.total_tokens and u.total_tokens ~= before + made
end

-- json.decode takes NaN and Infinity, as Python does; clients in other languages do not.
local function has_no_number(text)
  local bare = text:gsub("\\.", ""):gsub('"[^"]*"', "")
  return bare:find "[nN]a[nN]" or bare:find "[iI]nf"
end

-- What is wrong with the object of a refusal | nil
local function wrong_refusal(r)
  local e = type(r) == "table" and r.error
  if type(e) ~= "table" then return "no error" end
  if type(e.message) ~= "string" or #e.message < 6 then return "no reason" end
  if type(e.type) ~= "string" then return "no type of the error" end
  if r.type == "error" then return nil end -- Anthropic's has no more
  if type(e.param) ~= "string" and e.param ~= json.null then return "no param" end
end

-- What is wrong with the object of an answer | nil. body: of the request.
local function wrong_object(r, body_of_it)
  if type(r) ~= "table" then return "no object" end
  local made
  if r.usage and r.usage ~= json.null and wrong_usage(r.usage) then return "usage does not add up" end
  for i, choice in ipairs(r.choices or {}) do
    if choice.index ~= i - 1 then return "index of a choice" end
    local text = choice.text or choice.message and choice.message.content
    if type(text) ~= "string" then return "no text" end
    if choice.finish_reason ~= "stop" and choice.finish_reason ~= "length" then return "finish_reason" end
    if choice.token_ids then made = (made or 0) + #choice.token_ids end
  end
  local echo = body_of_it:find('"echo":true', 1, true) -- its ids are among those of the choice
  if made and not echo and made ~= r.usage.completion_tokens then return "usage is not of the tokens given" end
end

local function wrong_stream(text, path)
  local last, finished = nil, 0
  for data in text:gmatch "data: ([^\n]+)\n" do
    if last == "[DONE]" then return "data after [DONE]" end
    local event = data ~= "[DONE]" and json.decode(data)
    if data ~= "[DONE]" and type(event) ~= "table" then return "no JSON: " .. data:sub(1, 100) end
    if event and event.error and path:find "completions$" and wrong_refusal(event) then return wrong_refusal(event) end
    local usage = event and event.usage ~= json.null and event.usage
    if usage and path:find "completions$" and wrong_usage(usage) then
      return "usage does not add up"
    end
    if event and event.choices and event.choices[1] and event.choices[1].finish_reason ~= json.null then
      finished = finished + 1
    end
    last = data
  end
  if path:find "completions$" then
    if last ~= "[DONE]" then return "no [DONE]" end
    if finished == 0 and not text:find '"error"' then return "nothing finished" end
  elseif not (text:find "response%.completed" or text:find "response%.incomplete" or text:find "message_stop") then
    return "no end"
  end
end

local function wrong_answer(status, text, headers, request)
  local path = request[1][1]
  if not status then return "no answer" end
  if status == 200 and has_no_number(text) then return "NaN or Infinity" end
  if status == 200 and headers["content-type"]:find "event%-stream" then return wrong_stream(text, path) end
  local r = json.decode(text)
  if status == 200 then return wrong_object(r, request[2]) end
  if not (status >= 400 and status < 500 or status == 503) then return "status" end
  return wrong_refusal(r)
end

-- Runs. ----------------------------------------------------------------------------------------

local next_request = sample(requests())
local deadline, count, bad, statuses = socket.gettime() + seconds, 0, 0, {}

local function note(status, trouble, request)
  count = count + 1
  statuses[status or "none"] = (statuses[status or "none"] or 0) + 1
  if not trouble then return end
  bad = bad + 1
  if bad > 10 then return end
  local path = ("build/spec/nginx/%s-%d.json"):format(in_process and "submit-fuzz" or "request-fuzz", bad)
  server.write(path, request[2])
  print(("# %s (%s): %s %s; the whole body is in %s"):format(trouble, tostring(status), request[1][1],
    request[2]:sub(1, 300), path))
end

local function summary()
  local list = {}
  for status, n in pairs(statuses) do list[#list + 1] = status .. ": " .. n end
  table.sort(list)
  print(("# seed %d, %d requests: %s"):format(seed, count, table.concat(list, ", ")))
end

local function submit_all()
  local dir = server.model("fuzzed", "context=512 vocab=266")
  local model = assert(fp8llm.load(dir))
  local engine = assert(model:engine {names = {"tiny"}})
  while socket.gettime() < deadline do
    local request = next_request()
    local kind = request[1][2]
    if kind then
      local ok, answer, message, code = pcall(engine.submit, engine, request[2], kind)
      local trouble = not ok and "raised: " .. tostring(answer)
      if ok and answer then
        local response, why = answer:response()
        trouble = response and wrong_object(response, request[2]) or
          not response and type(why) ~= "string" and "no reason"
        answer:close()
      elseif ok and not (type(message) == "string" and code) then
        trouble = "no reason"
      end
      note(ok and (answer and "answered" or code) or "raised", trouble or nil, request)
    end
  end
  summary()
  engine:close()
  server.report {{bad == 0 and count > 100, "each body is answered or refused with a reason"}}
end

if in_process then return submit_all() end

local dir = server.model("fuzzed", "context=512 vocab=266")
server.write("build/spec/nginx/echo.lua", "return function(step) step:accept(65) end\n")
local process = server.start("fuzzed", dir .. " --served-model-name tiny --metrics" ..
  " --policy echo=build/spec/nginx/echo.lua")
local pids = server.children(process.pid, "")
for _, worker in ipairs(server.children(server.children(process.pid, "nginx: master")[1], "")) do
  pids[#pids + 1] = worker
end

local function usual()
  local _, text = http.ask(process.port, "POST", "/v1/completions",
    '{"prompt":"the usual","max_tokens":20,"temperature":0,"ignore_eos":true}')
  return json.decode(text).choices[1].text
end

http.patience = 600 -- answers of many completions that are not streamed come late, on a busy machine
local before, slowest = usual(), 0
while socket.gettime() < deadline do
  local request = next_request()
  local began = socket.gettime()
  local connected, status, text, headers = pcall(http.ask, process.port, "POST", request[1][1], request[2])
  local trouble = not connected and tostring(status) or wrong_answer(status, text, headers, request)
  note(connected and status or nil, trouble, request)
  slowest = math.max(slowest, socket.gettime() - began)
  if not connected then break end
end
summary()
local most = server.memory(pids, "VmHWM") -- each at its worst, if not at one time
print(("# at most %d MiB, now %d MiB; the slowest took %.1f s"):format(most / 1024, server.memory(pids) / 1024,
  slowest))
local stats = server.stats(process.run .. "/engine-1.sock")
local _, metrics = http.ask(process.port, "GET", "/metrics")
server.report {
  {bad == 0, "each request is answered as it should be, refused with a reason, or told to come again"},
  {most < most_kib, "memory is bounded"},
  {metrics:find "fp8llm_requests_running{[^}]*} 0\n" ~= nil, "nothing is left running"},
  {stats.kv_pages_used == 0 and stats.generations == 0, "no page is lost"},
  {usual() == before, "afterwards a usual request is answered as before"},
  {server.stop(process) == 0, "the server ends as it should"},
}
