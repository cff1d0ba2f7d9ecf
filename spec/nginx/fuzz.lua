--- Malformed requests: every one must get a 4xx with a reason, and no process may grow.
--
--   luajit spec/nginx/fuzz.lua [COUNT [SEED]]
dofile "spec/support/paths.lua" "build"
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"

local count, seed = tonumber(arg[1]) or 500, tonumber(arg[2]) or 1
local random = math.random
math.randomseed(seed)
local function pick(list) return list[random(#list)] end

local process = server.start("fuzz", server.model "tiny" .. " --served-model-name tiny")
local port = process.port

-- Bodies ---------------------------------------------------------------------------------------

local wrong = {
  "-1", "1e400", "-1e400", "99999999999999999999999", "NaN", "Infinity", '"x"', '""', "{}", "[{}]", "true",
  '{"a":{"a":{"a":1}}}', '"\\ud800"', "[[[[1]]]]", '[1,"a"]', "[1.5]", '[""]', "[null]", "-0.5",
}
-- What a member may not be; nothing here is right for it. Empty texts, lists and objects are not among them: clients
-- send them by default.
local members = {
  temperature = wrong, top_p = wrong, min_p = wrong, n = wrong, max_tokens = wrong,
  top_k = {"1.5", "-2", '"x"', "[]", "{}", "true", "1e30"},
  seed = {"1.5", '"x"', "[]", "{}", "1e300", "true"},
  stop = {"1", "{}", "[1]", "true"},
  presence_penalty = {"-3", "2.1", '"x"', "[]", "true", "1e400"},
  frequency_penalty = {"-3", "2.1", '"x"', "[]"},
  repetition_penalty = {"0", "-1", '"x"', "[]", "1e400"},
  logit_bias = {"1", '"x"', "[1]", '{"x":1}', '{"1":"a"}', '{"999999":1}'},
  stream = {"1", '"x"', "[]", "{}"},
  stream_options = {"1", '["x"]', '{"include_usage":1}'},
  stop_token_ids = {"1", '["a"]', "[-1]", "[1e30]", "[99999]", "{}"},
  ignore_eos = {"1", '"x"', "[]"},
  model = {'"other"', "1", "[]", "{}", '"' .. ("m"):rep(5000) .. '"'},
  policy = {'"p"', "1", "true", "[]", "{}"},
  response_format = {"1", '{"type":"json_object"}', '{"type":1}', '["x"]'},
  cache_salt = {"1", "[]", '"' .. ("s"):rep(300) .. '"'},
  truncate_prompt_tokens = {"0", "-1", '"x"', "[]"},
  min_tokens = {"-1", '"x"', "1e30", "[]"},
  order = {'["x"]', "1", "[]"},
  allowed_token_ids = {"[]", "[-1]", '["a"]', "1", "[99999]"},
  bad_words = {"1", "[1]", '{"x":1}'},
  add_special_tokens = {"1", '"x"'},
  timeout_ms = {"0", "-1", '"x"', "[]"},
  suffix = {'"x"', "1"},
}
local names = {}
for name in pairs(members) do names[#names + 1] = name end
table.sort(names)

local bad_prompts = {
  "1", "null", "{}", "[]", '""', "true", "[-1]", "[99999]", "[1.5]", '[1,"a"]', '["a",1]', "[[]]", '[[1],["a"]]',
  "[[[1]]]",
  '"' .. ("x"):rep(3000) .. '"', "[" .. ("1,"):rep(2999) .. "1]", '"a\255"', '"\237\160\128"',
}
local bad_messages = {
  "1", "[]", '"x"', "{}", "[1]", "[[]]", '[{"role":"user","content":[{"type":"image_url"}]}]',
  '[{"role":"user","content":[1]}]',
  '[{"role":"user","content":"' .. ("x"):rep(3000) .. '"}]', "[null]", '[{"role":"user","content":"\255"}]',
}

local function good_body(chat)
  if chat then return '{"messages":[{"role":"user","content":"hello"}],"max_tokens":2' end
  return '{"prompt":"hello","max_tokens":2'
end

local function wrong_member(chat)
  local name = pick(names)
  if chat and (name == "suffix" or name == "add_special_tokens") then name = "n" end
  return good_body(chat) .. string.format(',"%s":%s}', name, pick(members[name]))
end

local function wrong_prompt(chat)
  if chat then return '{"messages":' .. pick(bad_messages) .. "}" end
  return '{"prompt":' .. pick(bad_prompts) .. "}"
end

local function broken_json(chat)
  local body = good_body(chat) .. "}"
  local kind = random(7)
  if kind == 1 then return body:sub(1, random(#body) - 1) end
  if kind == 2 then return body .. pick {"}", "]", "x", ",", "{}", "\0", "null"} end
  if kind == 3 then return (pick {"[", '{"a":', '[{"a":'}):rep(random(201, 20000)) end
  if kind == 4 then return body:gsub(":", pick {"", "=", "::", " "}, 1) end
  if kind == 5 then return body:gsub('"', pick {"'", "", "\\"}, 1) end
  if kind == 6 then
    local bytes = {}
    for i = 1, random(200) do bytes[i] = string.char(random(0, 255)) end
    return "\1" .. table.concat(bytes)
  end
  return pick {
    "", " ", "null", "1", '"x"', "[]", "true", "\239\187\191{}", "{'a':1}", "{,}", '{"a"}', "[1,]", "{\"a\":1,}",
  }
end

-- Requests -------------------------------------------------------------------------------------

local function post(path, body) return http.request("POST", path, body, {["Content-Type"] = "application/json"}) end

-- Requests that are wrong before anybody looks at the body.
local function abuse()
  local path = "/v1/completions"
  return pick {
    function() return http.request(pick {"GET", "PUT", "DELETE", "PATCH"}, path) end,
    function() return post("/" .. pick {"v1", "v1/", "v2/completions", "%2e%2e/x", "v1/models/x/y"}, "{}") end,
    function() return http.request("POST", path, "{}", {["X-Long"] = ("h"):rep(40000)}) end,
    function() return "POST /" .. ("p"):rep(40000) .. " HTTP/1.1\r\nHost: x\r\n\r\n" end,
    function() return "POST " .. path .. " HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n" end,
    function() return "POST " .. path .. " HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n" end,
    function() return "POST " .. path .. " HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{" end,
    function() return "POST " .. path .. " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: magic\r\n\r\n" end,
    function() return "POST " .. path .. " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" end,
    function() return "POST " .. path .. " HTTP/1.1\r\n\r\n" end, -- no Host
    function() return "POST " .. path .. " HTTP/9.9\r\nHost: x\r\n\r\n" end,
    function() return "POST\0 " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n" end,
    function() return "nonsense\r\n\r\n" end,
    function() return "POST " .. path .. " HTTP/1.1\r\nHost: x\r\n: x\r\nx\r\nContent-Length: 0\r\n\r\n" end,
    function() return "\22\3\1\2\0\1\0\1\252\3\3" .. ("\0"):rep(60) .. "\r\n\r\n" end, -- TLS to a port without it
  }()
end

local function request()
  local chat = random(2) == 1
  local path = chat and "/v1/chat/completions" or "/v1/completions"
  local kind = random(10)
  if kind <= 3 then return post(path, (wrong_member(chat))) end
  if kind <= 5 then return post(path, (wrong_prompt(chat))) end
  if kind <= 7 then return post(path, (broken_json(chat))) end
  if kind == 8 then
    return post("/tokenize", pick {"{}", "[]", '{"prompt":1}', '{"messages":1}', "{", '{"prompt":null}'})
  end
  if kind == 9 then
    return post("/detokenize", pick {"{}", '{"tokens":1}', '{"tokens":[-1]}', '{"tokens":["a"]}', "x"})
  end
  return abuse()
end

-- Everything that serves: nginx's master and workers, and the engine.
local pids = server.children(process.pid, "")
for _, worker in ipairs(server.children(server.children(process.pid, "nginx: master")[1], "")) do
  pids[#pids + 1] = worker
end

local function answer_to(text)
  local c = http.connect(port)
  c:send(text)
  local head = http.head(c)
  local body = head and http.body(c, head)
  c:close()
  return head and head.status, body
end

local statuses, bad = {}, 0
local function judge(text)
  local status, body = answer_to(text)
  local object = body and json.decode(body)
  local reason = type(object) == "table" and type(object.error) == "table" and object.error.message
  statuses[status or "none"] = (statuses[status or "none"] or 0) + 1
  if status and status >= 400 and status < 500 and type(reason) == "string" and #reason > 5 then return end
  bad = bad + 1
  if bad <= 10 then
    print(string.format("# status %s, %q, to %q", tostring(status), tostring(body):sub(1, 200), text:sub(1, 300)))
  end
end

for _ = 1, math.min(count, 300) do judge(request()) end
local before = server.memory(pids)
for _ = 1, count - math.min(count, 300) do judge(request()) end
local after = server.memory(pids)
local served = answer_to(post("/v1/completions", '{"prompt":"hello","max_tokens":2}')) == 200
local list = {}
for status, n in pairs(statuses) do list[#list + 1] = status .. ": " .. n end
table.sort(list)
print("# " .. table.concat(list, ", ") .. string.format("; memory %d KiB, then %d KiB", before, after))
server.report {
  {bad == 0, count .. " malformed requests: each gets a 4xx with a reason"},
  {after - before < 8 * 1024, "memory stays flat"},
  {served, "a good request is served afterwards"},
  {server.stop(process) == 0, "the server ends as it should"},
}
