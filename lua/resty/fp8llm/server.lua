--- The OpenAI API in nginx, in front of one engine process for each model.
--
--   init_by_lua_block    { require("resty.fp8llm.server").configure {models = {{name = "m", socket = "unix:..."}}} }
--   access_by_lua_block  { require("resty.fp8llm.server").access() }
--   content_by_lua_block { require("resty.fp8llm.server").content() }
--
-- The body must be read in the access phase: read in content_by_lua, nginx no longer notices that the client has
-- left. Bodies go to the engine as they came; it checks them.
local client = require "resty.fp8llm"
local scan = require "fp8llm.body"
local json = require "fp8llm.json"
local messages = require "fp8llm.messages"
local metrics = require "fp8llm.metrics"
local openai = require "fp8llm.openai"
local responses = require "fp8llm.responses"

local ngx = ngx

local _M = {}
local config

-- Keys: one "key name max_running tokens_per_minute" a line, # begins a comment, 0 or nothing is no limit. Then
-- may come "parse_special=off": special tokens in this key's prompts are text.
local function read_keys(path)
  local keys, number = {}, 0
  for line in assert(io.lines(path)) do
    number = number + 1
    local words = {}
    for word in line:gsub("#.*", ""):gmatch "%S+" do words[#words + 1] = word end
    local plain = words[#words] == "parse_special=off"
    if plain then words[#words] = nil end
    local key, name, running, tokens = unpack(words)
    if key then
      running, tokens = tonumber(running or 0), tonumber(tokens or 0)
      if not (name and #name <= 128 and running and tokens and not words[5]) or running < 0 or tokens < 0 then
        error(string.format("%s: line %d: need: key name max_running tokens_per_minute [parse_special=off]", path,
          number), 0)
      end
      keys[key] = {name = name, max_running = math.floor(running), tokens_per_minute = math.floor(tokens)}
      if plain then keys[key].parse_special = false end
    end
  end
  return keys
end

local function read_file(path)
  local file = path and io.open(path, "rb")
  local text = file and file:read "*a"
  if file then file:close() end
  return text
end

--- options: models, a list of {name = or names =, socket =}; and optionally
-- api_keys: a file; allow_origin: for pages of other sites; page: a file for GET /;
-- keep_alive: seconds between comments in a silent stream (15); timeout: seconds for a request (3600), of which the
-- engine has at most 60 to take it; allowed_hosts: a list of what requests to a loopback address may have as Host
-- besides its own names, "*" for any; max_waiting_bytes: of bodies that no engine has taken yet (128 MiB);
-- metrics: true answers /metrics, without a key.
function _M.configure(options)
  config = {
    models = {}, by_name = {}, keys = options.api_keys and read_keys(options.api_keys),
    metrics = options.metrics, allow_origin = options.allow_origin, page = read_file(options.page),
    timeout = options.timeout or 3600,
    started = ngx.time(), hosts = {["localhost"] = true}, max_waiting_bytes = options.max_waiting_bytes or 128 * 2 ^ 20,
  }
  for _, name in ipairs(options.allowed_hosts or {}) do config.hosts[name:lower()] = true end
  for i, m in ipairs(options.models) do
    local names = m.names or {m.name}
    local model = {name = names[1], names = names, client = client.new {
      socket = m.socket, idle_timeout = 1000 * (options.keep_alive or 15),
      answer_timeout = 1000 * math.min(config.timeout, 60),
    }}
    config.models[i] = model
    for _, name in ipairs(names) do config.by_name[name] = model end
  end
end

-- Bodies that no engine has taken yet, as their requests' ngx.ctx -> bytes, of this worker. A request that is broken
-- off runs no more code: what it had is found by the garbage collector.
local waiting = setmetatable({}, {__mode = "k"})
local small = 65536 -- connections are limited, that is enough for these
local collected = 0

local function waiting_bytes()
  local sum = 0
  for _, n in pairs(waiting) do sum = sum + n end
  return sum
end

local function taken() waiting[ngx.ctx] = nil end

-- Answers. -----------------------------------------------------------------------------------

local function answer(text, content_type)
  taken()
  ngx.header["Content-Type"] = content_type or "application/json"
  ngx.header["Content-Length"] = #text
  ngx.print(text)
  return ngx.exit(ngx.OK)
end

local function fail(status, message, param, code)
  -- An answer that is sent before a body in chunks was read is lost when the chunks turn out to be malformed: nginx
  -- closes the connection. Read first, they are refused by nginx with a 400.
  if ngx.var.http_transfer_encoding and ngx.get_phase() == "access" then ngx.req.read_body() end
  ngx.status = status
  local api = ngx.ctx.route and ngx.ctx.route.api
  local object = (api and api.error_object or openai.error_object)(message, status, param, code)
  answer(json.encode(object) .. "\n")
  return ngx.exit(status)
end

--- End this request as the engine refuses one: {code =, message =, param =, retry_after =}, see openai.status.
function _M.refuse(refusal)
  local generation = ngx.ctx.generation
  if generation and generation.translation then refusal = generation.translation:refusal(refusal) end
  if refusal.retry_after then ngx.header["Retry-After"] = string.format("%d", refusal.retry_after) end
  return fail(openai.status(refusal.code, refusal.param), refusal.message, refusal.param, refusal.code)
end

local refuse = _M.refuse

local function answer_line(line, refusal)
  if not line then return refuse(refusal) end
  return answer(line .. "\n")
end

-- Generations. -------------------------------------------------------------------------------

-- Which engine: with several, the body's `model` tells. What is not known goes to the first, which refuses it.
local function choose_model(body)
  if not config.models[2] or not body then return config.models[1] end
  local members, trouble = scan.members(body, {"model"})
  if not members and trouble:find "^more" then return nil, fail(400, "body: " .. trouble) end
  local name = members and scan.value(members.model)
  return config.by_name[name or ""] or config.models[1]
end

local function timeout_message() return "timeout: no end within " .. config.timeout .. " s" end

-- An API of generations: `request` makes the engine's requests of its own (nil: they are), `choice` what is kept of an
-- event of an answer that is not streamed (nil: the event), `response` the answer of those, `stream` one that is
-- streamed. Others than OpenAI's first two are translations of chats.
local function plain(kind)
  return {
    kind = kind, stream = function(start, options) return openai.stream(kind, start, options) end,
    -- Each choice becomes text when it has come: as tables, those of an answer would take ten times their text.
    choice = function(event, options)
      local choice, message, code = openai.choice(kind, event, options.start)
      return choice and json.encode(choice), message, code
    end,
    response = function(result, options)
      local rest = json.encode(openai.response_object(kind, nil, result.usage, options))
      return '{"choices":[' .. table.concat(result.choices, ",") .. "]," .. rest:sub(2)
    end,
  }
end

local function whole(api, stream, options)
  local result, deadline = {choices = {}}, ngx.now() + config.timeout
  while not result.usage do
    local line, message = stream:line()
    if ngx.now() > deadline then
      stream:cancel()
      return fail(504, timeout_message())
    elseif line then
      local event = json.decode(line)
      local choice, trouble, code = event, nil, nil
      if event.error then return refuse(event.error) end
      if api.choice then choice, trouble, code = api.choice(event, options) end
      if not choice then
        stream:cancel()
        return refuse {code = code, message = trouble}
      end
      result.choices[event.i + 1], result.usage = choice, event.usage
    elseif message ~= "idle" then
      return refuse(client.unreachable(message))
    end
  end
  stream:finish()
  ngx.ctx.usage = result.usage
  local response, message, code = api.response(result, options)
  if not response then return refuse {code = code, message = message} end
  return answer(response .. "\n")
end

local function pieces(api, stream, options)
  local deadline = ngx.now() + config.timeout
  local sse = api.stream(stream.start, options)
  ngx.ctx.sse = sse
  ngx.header["Content-Type"] = "text/event-stream; charset=utf-8"
  ngx.header["Cache-Control"] = "no-cache"
  ngx.header["X-Accel-Buffering"] = "no"
  ngx.print(sse:opening())
  ngx.flush(true)
  while not sse.over do
    local lines, message = stream:read()
    if ngx.now() > deadline then
      ngx.print(sse:failure(timeout_message(), "CANCELLED"))
    elseif lines then
      ngx.print(sse:write(lines))
    elseif message ~= "idle" then
      ngx.print(sse:failure("engine: " .. message, "UNREACHABLE"))
    else
      ngx.print ": keep-alive\n\n"
    end
    if not stream:flush() then break end -- the client has gone, or does not read
  end
  if sse.over and not sse.failed then stream:finish() else stream:cancel() end
end

--- The body, after access() | nil when there is none.
function _M.body() return ngx.req.get_body_data() or read_file(ngx.req.get_body_file()) end

--- What this request will ask of the engine, after access(): {kind = "chat" or "completion", body = of OpenAI's
-- request, JSON text, which may be exchanged before content()}, whichever API the client speaks | nil, of other paths.
-- A request that cannot be read ends here.
function _M.generation()
  local api, body = ngx.ctx.route.api, _M.body()
  if not api or ngx.ctx.generation then return ngx.ctx.generation end
  if not body then return nil, fail(400, "body: need a JSON object") end
  local generation = {kind = api.kind, body = body}
  if api.request then
    local translation, message, param = api.request(body)
    if not translation then return nil, fail(400, message, param) end
    generation.translation, generation.body = translation, translation:body()
  end
  ngx.ctx.generation = generation
  return generation
end

local function generate()
  local generation, api = _M.generation(), ngx.ctx.route.api
  local model = generation and choose_model(generation.body)
  if not model then return end
  local stream, refusal = model.client[api.kind](model.client, generation.body, ngx.ctx.key)
  taken()
  if not stream then return refuse(refusal) end
  local options = {
    id = ngx.ctx.request_id, request = generation.translation, model_name = stream.start.model, start = stream.start,
  }
  return (stream.start.stream and pieces or whole)(api, stream, options)
end

-- The other routes. --------------------------------------------------------------------------

local function pass(op)
  return function(body)
    if not body and op ~= "tokenizer_info" then return fail(400, "body: need a JSON object") end
    local model = body and choose_model(body) or not body and config.by_name[ngx.var.arg_model or ""]
    if body and not model then return end
    model = model or config.models[1]
    return answer_line(model.client:ask(op, body, ngx.ctx.key))
  end
end

-- What a message of Anthropic's API would take.
local function count_message_tokens()
  local generation = _M.generation()
  local model = generation and choose_model(generation.body)
  if not model then return end
  local line, refusal = model.client:ask("tokenize", generation.body, ngx.ctx.key)
  if not line then return refuse(refusal) end
  return answer(json.encode {input_tokens = json.decode(line).count} .. "\n")
end

local function model_object(model, name)
  local line = model.client:ask "info"
  local info = line and json.decode(line) or {}
  return {
    id = name, object = "model", created = config.started, owned_by = "fp8llm", max_model_len = info.context,
    policies = info.policies and json.array(info.policies), sampling = info.sampling,
  }
end

local function list_models()
  local data = json.array {}
  for _, model in ipairs(config.models) do
    for _, name in ipairs(model.names) do data[#data + 1] = model_object(model, name) end
  end
  return answer(json.encode {object = "list", data = data} .. "\n")
end

local function one_model(name)
  local model = config.by_name[name]
  if not model then return fail(404, "model: '" .. name .. "' is not served here", "model") end
  return answer(json.encode(model_object(model, name)) .. "\n")
end

local function health()
  for _, model in ipairs(config.models) do
    local line, refusal = model.client:ask "health"
    if not line then
      local why = "loading, or its engine is down"
      -- Who has no key learns neither names nor paths.
      refusal.message = config.keys and why or model.name .. ": " .. why .. " (" .. refusal.message .. ")"
      return refuse(refusal)
    end
  end
  return answer '{"status":"ok"}\n'
end

-- They tell of all who use the models, and an address says nothing of who asks behind a proxy: closed by default.
local function show_metrics()
  if not config.metrics then
    return fail(403, "metrics: closed; fp8llm serve --metrics, or metrics = true in configure, opens them")
  end
  local stats = {}
  for i, model in ipairs(config.models) do
    local line = model.client:ask "stats"
    stats[i] = {name = model.name, stats = line and json.decode(line)}
  end
  return answer(metrics.text(stats), "text/plain; version=0.0.4")
end

local function show_page()
  if config.page then return answer(config.page, "text/html; charset=utf-8") end
  return answer("fp8llm: POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /health\n", "text/plain")
end

-- path -> {method, handler, open = no key is asked for, api = of generations}
local routes = {
  ["/v1/chat/completions"] = {"POST", generate, api = plain "chat"},
  ["/v1/completions"] = {"POST", generate, api = plain "completion"},
  ["/v1/responses"] = {"POST", generate, api = responses},
  ["/v1/messages"] = {"POST", generate, api = messages},
  ["/v1/messages/count_tokens"] = {"POST", count_message_tokens, api = messages.counting},
  ["/v1/models"] = {"GET", list_models},
  ["/tokenize"] = {"POST", pass "tokenize"},
  ["/detokenize"] = {"POST", pass "detokenize"},
  ["/tokenizer_info"] = {"GET", pass "tokenizer_info"},
  ["/health"] = {"GET", health, open = true},
  ["/metrics"] = {"GET", show_metrics, open = true},
  ["/"] = {"GET", show_page, open = true},
}

-- Phases. ------------------------------------------------------------------------------------

local function check_key()
  local scheme, key = (ngx.var.http_authorization or ""):match "^%s*(%a+)%s+(%S+)%s*$"
  if not scheme or scheme:lower() ~= "bearer" then key = ngx.var.http_x_api_key end -- as Anthropic's clients say it
  ngx.ctx.key = key and config.keys[key]
  if ngx.ctx.key then return end
  ngx.header["WWW-Authenticate"] = "Bearer"
  return fail(401, key and "api key: not known" or "api key: need a header Authorization: Bearer KEY, or x-api-key")
end

-- Headers of every answer, also of those that nginx makes.
local function open_answer()
  local id = ngx.var.http_x_request_id
  ngx.ctx.request_id = id and #id <= 128 and id:match "^[%w._-]+$" or ngx.var.request_id
  ngx.header["X-Request-Id"] = ngx.ctx.request_id
  if not config.allow_origin then return end
  ngx.header["Access-Control-Allow-Origin"] = config.allow_origin
  ngx.header["Access-Control-Expose-Headers"] = "X-Request-Id, Retry-After"
  ngx.header["Vary"] = "Origin"
end

-- Clients send headers of their own (x-stainless-os ...): what is asked for is allowed. Nothing here acts on headers
-- that it does not know.
local function preflight()
  if not config.allow_origin or ngx.req.get_method() ~= "OPTIONS" then return end
  local asked = ngx.var.http_access_control_request_headers
  asked = asked and #asked <= 4096 and asked:match "^[%w!#$%%&'*+.^_`|~, -]+$"
  ngx.header["Vary"] = "Origin, Access-Control-Request-Headers"
  ngx.header["Access-Control-Allow-Methods"] = "GET, POST"
  ngx.header["Access-Control-Allow-Headers"] = asked or "Authorization, Content-Type, X-Request-Id"
  ngx.header["Access-Control-Max-Age"] = "600"
  return ngx.exit(204)
end

-- The name in a Host header, without its port.
local function host_name(host)
  return (host:match "^%[[%x:.]+%]" or host:match "^[^:]*"):lower():gsub("%.$", "")
end

-- A page of any site can ask a loopback address under a name of its own, which it makes lead there. A browser tells
-- the name.
local function check_host()
  local address, host = ngx.var.server_addr or "", ngx.var.http_host
  if not (address:find "^127%." or address == "::1" or address:find "^::ffff:127%.") or not host then return end
  if config.hosts["*"] or config.hosts[host:lower()] then return end
  local name = host_name(host)
  if config.hosts[name] or name == "[::1]" or name:find "^127%.%d+%.%d+%.%d+$" then return end
  return fail(403, "host: '" .. host .. "' is no name of this address; fp8llm serve --allowed-host lets it in")
end

-- Other content types are those that a page of any site may send without being asked (CORS).
local function check_content_type()
  local given = ngx.var.content_type
  if given and given:match "^%s*([^;%s]*)":lower() == "application/json" then return end
  return fail(415, "Content-Type: need application/json, got " .. (given and "'" .. given .. "'" or "none"))
end

-- A path as the routes have it: without slashes at its end.
local function plain_path()
  local path = ngx.var.uri:gsub("/+$", "")
  return path == "" and "/" or path
end

local function find_route(path)
  local name = path:match "^/v1/models/(.+)$"
  if name then return {"GET", function() return one_model(name) end} end
  return routes[path]
end

-- Account for a body of n bytes, or end the request.
local function admit(n)
  if n <= small then return taken() end
  local limit = config.max_waiting_bytes / math.max(1, ngx.worker.count())
  if waiting_bytes() + n > limit and ngx.now() > collected + 0.5 then
    collectgarbage()
    collected = ngx.now()
  end
  local sum = waiting_bytes() - (waiting[ngx.ctx] or 0)
  if sum > 0 and sum + n > limit then
    return refuse {code = "NOMEM", retry_after = 1, message = string.format(
      "body: %d bytes, and %d of other bodies wait, limit %d; come again", n, sum, limit)}
  end
  waiting[ngx.ctx] = n
end

-- The bytes of a body that was read.
local function body_size()
  local data, path = ngx.req.get_body_data(), ngx.req.get_body_file()
  if data then return #data end
  local file = path and io.open(path, "rb")
  local size = file and file:seek "end" or 0
  if file then file:close() end
  return size
end

-- A body in chunks does not say how long it will be.
local function read_body()
  local length = tonumber(ngx.var.http_content_length)
  admit(length or ngx.var.http_transfer_encoding and 2 ^ 20 or 0)
  ngx.req.read_body()
  if not length then admit(body_size()) end
end

--- access_by_lua: may this request go on? Reads the body.
function _M.access()
  open_answer()
  check_host()
  preflight()
  ngx.ctx.path = plain_path()
  local route = find_route(ngx.ctx.path)
  if not route then return fail(404, ngx.var.uri .. ": no such path") end
  ngx.ctx.route = route
  if config.keys and not route.open then check_key() end
  local method = ngx.req.get_method()
  if method ~= route[1] and not (method == "HEAD" and route[1] == "GET") then
    ngx.header["Allow"] = route[1]
    return fail(405, ngx.var.uri .. ": need " .. route[1] .. ", got " .. method)
  end
  if method == "POST" then check_content_type() end
  read_body()
end

--- The path of the request as the API has it, after access().
function _M.path() return ngx.ctx.path end

--- content_by_lua
function _M.content() return ngx.ctx.route[2](_M.body()) end

--- For log_by_lua: what a generation took, {prompt_tokens =, completion_tokens =}; of a stream that was broken off
-- what had been sent. nil where nobody knows: an answer that is not streamed and was broken off, or no generation.
function _M.usage() return ngx.ctx.sse and ngx.ctx.sse:usage() or ngx.ctx.usage end

--- For error_page: what nginx itself refuses, as OpenAI's error object.
function _M.refused()
  local status = ngx.status
  local reasons = {
    [400] = "request: malformed", [404] = "request: no such path", [405] = "request: method not allowed",
    [408] = "request: not received in time", [413] = "body: too large", [414] = "request: line too long",
    [429] = "address: too many requests of it at a time", [494] = "request: headers too large",
    [500] = "server: failed; its log has the reason", [501] = "request: transfer encoding not known",
    [503] = "server: no room for the request", [505] = "request: HTTP version not known",
  }
  local server_fault = status == 500 or status > 501 and status < 505
  local ours = status < 400 or status == 494 or status >= 500 and not server_fault
  open_answer()
  if status == 429 or status == 503 then ngx.header["Retry-After"] = "1" end
  return fail(ours and 400 or status, reasons[status] or "request: refused with status " .. status)
end

return _M
