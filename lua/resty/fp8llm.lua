--- Client of an fp8llm engine for nginx with its Lua module: nonblocking, over the engine's unix socket.
-- It loads no C module. One connection is one generation; closing it, or losing it in any way, cancels it.
--
--   local fp8llm = require("resty.fp8llm").new {socket = "unix:/run/fp8llm/model.sock"}
--   local stream, refusal = fp8llm:chat {messages = {{role = "user", content = "Hello"}}, stream = true}
--   for event in stream:events() do ngx.print(event.d or event.error.message) stream:flush() end
--
-- The events are those of src/serve/serve.h, a request's members those of the OpenAI API.
local json = require "fp8llm.json"

-- Of an OpenAI request: what is a list even when a table of another JSON library holds nothing.
local lists = {}
for name in ([[messages tools tool_calls content documents prompt stop stop_token_ids allowed_token_ids bad_words
  required enum anyOf allOf oneOf tokens]]):gmatch "%a[%w_]*" do lists[name] = true end

local tcp = ngx.socket.tcp
local concat, find, sub = table.concat, string.find, string.sub

local client = {}
client.__index = client
local stream = {}
stream.__index = stream

local _M = {}

--- options: socket; and in milliseconds connect_timeout, send_timeout, answer_timeout (of the first line, looked at
-- when idle), idle_timeout (how long read waits before it says "idle"), keepalive; pool_size.
function _M.new(options)
  return setmetatable({
    socket = options.socket,
    connect_timeout = options.connect_timeout or 1000,
    send_timeout = options.send_timeout or 10000,
    answer_timeout = options.answer_timeout or 60000,
    idle_timeout = options.idle_timeout or 15000,
    keepalive = options.keepalive or 30000,
    pool_size = options.pool_size or 256,
  }, client)
end

--- The refusal in place of an answer of an engine that cannot be reached.
function _M.unreachable(message)
  return {code = "UNREACHABLE", message = "engine: " .. tostring(message), retry_after = 1}
end
local unreachable = _M.unreachable

-- The first line of an answer -> line | nil, message. An engine that hangs still takes requests.
local function first_line(s, deadline)
  repeat
    local line, message = s:line()
    if line or message ~= "idle" then return line, message end
  until ngx.now() >= deadline
  s:cancel()
  return nil, string.format("no answer within %g s", s.client.answer_timeout / 1000)
end

-- Connect and send. A pooled connection may have died with an engine that was restarted: then again.
local function open(self, request)
  local message
  local deadline = ngx.now() + self.answer_timeout / 1000
  for _ = 0, self.pool_size do -- all that a former engine left may be stale; then one is new
    local sock = tcp()
    sock:settimeouts(self.connect_timeout, self.send_timeout, self.idle_timeout)
    local connected, sent
    connected, message = sock:connect(self.socket, nil, {pool_size = self.pool_size})
    if not connected then return nil, unreachable(message) end
    local reused = sock:getreusedtimes() > 0
    sent, message = sock:send(request)
    if sent then
      local s = setmetatable({sock = sock, client = self, lines = ""}, stream)
      local first
      first, message = first_line(s, deadline)
      if first then return s, first end
    end
    sock:close()
    if not reused or ngx.now() >= deadline then return nil, unreachable(message) end
  end
  return nil, unreachable(message)
end

--- Send an operation with a body, the bytes of a JSON text or nil. key: {name=, max_running=,
-- tokens_per_minute=, parse_special=} or nil. Returns a stream and its first line | nil, refusal {code, message, ...}.
function client:send(op, body, key)
  local head = {op = op, key = key}
  if not body then return open(self, json.encode(head) .. "\n") end
  return open(self, {tostring(#body), " ", json.encode(head), "\n", body})
end

--- An operation with one answer -> the answer as it came | nil, refusal.
function client:ask(op, body, key)
  local s, line = self:send(op, body, key)
  if not s then return nil, line end
  s:finish()
  if find(line, '^{"error":') then return nil, json.decode(line).error end
  return line
end

local function generate(self, op, request, key)
  local body = type(request) == "string" and request or json.encode(request, lists)
  local s, line = self:send(op, body, key)
  if not s then return nil, line end
  local first = json.decode(line)
  if first.error then
    s:finish()
    return nil, first.error
  end
  s.start = first.start
  return s
end

--- request: a table, or the bytes of a JSON text -> a stream | nil, refusal.
function client:chat(request, key) return generate(self, "chat", request, key) end
function client:completion(request, key) return generate(self, "completion", request, key) end

--- The number of tokens of a text, as a completion counts them -> count | nil, refusal. options:
-- add_special_tokens, parse_special (both default true).
function client:count(text, options)
  local line, refusal = self:ask("tokenize", json.encode {
    prompt = text, add_special_tokens = options and options.add_special_tokens,
    parse_special = options and options.parse_special,
  })
  if not line then return nil, refusal end
  return json.decode(line).count
end

-- Whole lines, when none are left -> true | nil, "idle" | nil, message
-- The pieces of a line wait in a list: nginx hands out a few KB at a time, and a line may have many MB.
local function receive(self)
  while self.lines == "" do
    local more, message = self.sock:receiveany(65536)
    if not more then
      if message == "timeout" then return nil, "idle" end
      self:cancel()
      return nil, message
    end
    local _, last = find(more, "^.*\n")
    if last then
      local ended = sub(more, 1, last)
      self.lines = self.parts and concat(self.parts) .. ended or ended
      self.parts = last < #more and {sub(more, last + 1)} or nil
    elseif self.parts then
      self.parts[#self.parts + 1] = more
    else
      self.parts = {more}
    end
  end
  return true
end

--- Everything that has come, as lines: "...\n...\n" | nil, "idle" | nil, message
function stream:read()
  local ok, message = receive(self)
  if not ok then return nil, message end
  local lines = self.lines
  self.lines = ""
  return lines
end

--- The next line, without its end; otherwise as read.
function stream:line()
  local ok, message = receive(self)
  if not ok then return nil, message end
  local at = find(self.lines, "\n", 1, true)
  local line = sub(self.lines, 1, at - 1)
  self.lines = sub(self.lines, at + 1)
  return line
end

--- Iterator over events as tables; ends after the last one. When the engine is lost, an event with `error`.
function stream:events()
  local over = false
  return function()
    if over then return nil end
    local line, message
    repeat line, message = self:line() until line or message ~= "idle"
    local event = line and json.decode(line) or {error = unreachable(message)}
    over = event.error ~= nil or event.usage ~= nil
    if event.usage then self:finish() end
    return event
  end
end

--- Send the client what was printed -> true | nil when it has gone, or does not read: the generation is cancelled.
-- nginx may keep what was printed for a client that speaks HTTP/1.0 (lua_http10_buffering) until the handler ends.
function stream:flush()
  local sent, why = ngx.flush(true)
  if sent or why == "buffering" or why == "header only" then return true end
  self:cancel()
end

--- The answer has been read to its end: the connection may serve the next one.
function stream:finish()
  if self.sock then self.sock:setkeepalive(self.client.keepalive, self.client.pool_size) end
  self.sock = nil
end

--- Stop the generation.
function stream:cancel()
  if self.sock then self.sock:close() end
  self.sock = nil
end

return _M
