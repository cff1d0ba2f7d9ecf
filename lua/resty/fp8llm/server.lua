--- The OpenAI API in nginx, in front of one engine process for each model.
--
--   init_by_lua_block    { require("resty.fp8llm.server").configure {models = {{name = "m", socket = "unix:..."}}} }
--   access_by_lua_block  { require("resty.fp8llm.server").access() }
--   content_by_lua_block { require("resty.fp8llm.server").content() }
--
-- The body must be read in the access phase: read in content_by_lua, nginx no longer notices that the client has
-- left. Bodies go to the engine as they came; it checks them.
local client = require "resty.fp8llm"
local json = require "fp8llm.json"
local metrics = require "fp8llm.metrics"
local openai = require "fp8llm.openai"

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
-- engine has at most 60 to take it.
function _M.configure(options)
  config = {
    models = {}, by_name = {}, keys = options.api_keys and read_keys(options.api_keys),
    allow_origin = options.allow_origin, page = read_file(options.page), timeout = options.timeout or 3600,
    started = ngx.time(),
  }
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

-- Answers. -----------------------------------------------------------------------------------

local function answer(text, content_type)
  ngx.header["Content-Type"] = content_type or "application/json"
  ngx.header["Content-Length"] = #text
  ngx.print(text)
  return ngx.exit(ngx.OK)
end

local function fail(status, message, param, code)
  ngx.status = status
  answer(json.encode(openai.error_object(message, status, param, code)) .. "\n")
  return ngx.exit(status)
end

--- End this request as the engine refuses one: {code =, message =, param =, retry_after =}, see openai.status.
function _M.refuse(refusal)
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
  local object = json.decode(body)
  return type(object) == "table" and config.by_name[object.model] or config.models[1]
end

local function timeout_message() return "timeout: no end within " .. config.timeout .. " s" end

local function whole(kind, stream, options)
  local result, deadline = {choices = {}}, ngx.now() + config.timeout
  while not result.usage do
    local line, message = stream:line()
    if ngx.now() > deadline then
      stream:cancel()
      return fail(504, timeout_message())
    elseif line then
      local event = json.decode(line)
      if event.error then return refuse(event.error) end
      result.choices[#result.choices + 1], result.usage = event, event.usage
    elseif message ~= "idle" then
      return refuse(client.unreachable(message))
    end
  end
  stream:finish()
  ngx.ctx.usage = result.usage
  local response, message, code = openai.response(kind, result, options)
  if not response then return refuse {code = code, message = message} end
  return answer(json.encode(response) .. "\n")
end

local function pieces(kind, stream, options)
  local deadline = ngx.now() + config.timeout
  local sse = openai.stream(kind, stream.start, options)
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
    if not ngx.flush(true) then break end -- the client has gone, or does not read
  end
  if sse.over and not sse.failed then stream:finish() else stream:cancel() end
end

local function generation(kind)
  return function(body)
    if not body then return fail(400, "body: need a JSON object") end
    local model = choose_model(body)
    local stream, refusal = model.client[kind](model.client, body, ngx.ctx.key)
    if not stream then return refuse(refusal) end
    local options = {id = ngx.ctx.request_id, model_name = stream.start.model, start = stream.start}
    return (stream.start.stream and pieces or whole)(kind, stream, options)
  end
end

-- The other routes. --------------------------------------------------------------------------

local function pass(op)
  return function(body)
    if not body and op ~= "tokenizer_info" then return fail(400, "body: need a JSON object") end
    local model = body and choose_model(body) or config.by_name[ngx.var.arg_model] or config.models[1]
    return answer_line(model.client:ask(op, body, ngx.ctx.key))
  end
end

local function model_object(model, name)
  local line = model.client:ask "info"
  local info = line and json.decode(line) or {}
  return {
    id = name, object = "model", created = config.started, owned_by = "fp8llm", max_model_len = info.context,
    policies = info.policies and json.array(info.policies),
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
      refusal.message = model.name .. ": loading, or its engine is down (" .. refusal.message .. ")"
      return refuse(refusal)
    end
  end
  return answer '{"status":"ok"}\n'
end

local function show_metrics()
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

-- path -> {method, handler, open = no key is asked for}
local routes = {
  ["/v1/chat/completions"] = {"POST", generation "chat"},
  ["/v1/completions"] = {"POST", generation "completion"},
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
  local key = (ngx.var.http_authorization or ""):match "^[Bb]earer%s+(%S+)$"
  ngx.ctx.key = key and config.keys[key]
  if ngx.ctx.key then return end
  ngx.header["WWW-Authenticate"] = "Bearer"
  return fail(401, key and "api key: not known" or "api key: need a header Authorization: Bearer KEY")
end

local function cross_origin()
  if not config.allow_origin then return end
  ngx.header["Access-Control-Allow-Origin"] = config.allow_origin
  ngx.header["Vary"] = "Origin"
  if ngx.req.get_method() ~= "OPTIONS" then return end
  ngx.header["Access-Control-Allow-Methods"] = "GET, POST"
  ngx.header["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Request-Id"
  return ngx.exit(204)
end

local function find_route(path)
  local name = path:match "^/v1/models/(.+)$"
  if name then return {"GET", function() return one_model(name) end} end
  return routes[path]
end

--- access_by_lua: may this request go on? Reads the body.
function _M.access()
  local id = ngx.var.http_x_request_id
  ngx.ctx.request_id = id and #id <= 128 and id:match "^[%w._-]+$" or ngx.var.request_id
  ngx.header["X-Request-Id"] = ngx.ctx.request_id
  cross_origin()
  local route = find_route(ngx.var.uri)
  if not route then return fail(404, ngx.var.uri .. ": no such path") end
  if config.keys and not route.open then check_key() end
  local method = ngx.req.get_method()
  if method ~= route[1] and not (method == "HEAD" and route[1] == "GET") then
    ngx.header["Allow"] = route[1]
    return fail(405, ngx.var.uri .. ": need " .. route[1] .. ", got " .. method)
  end
  ngx.ctx.route = route
  ngx.req.read_body()
end

--- The body, after access() | nil when there is none.
function _M.body() return ngx.req.get_body_data() or read_file(ngx.req.get_body_file()) end

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
    [494] = "request: headers too large",
    [501] = "request: transfer encoding not known", [505] = "request: HTTP version not known",
  }
  local ours = status < 400 or status == 494 or status > 500
  return fail(ours and 400 or status, reasons[status] or "request: refused with status " .. status)
end

return _M
