--- What eng:submit gives for the body of an OpenAI request: its answer, as the lines say it with which a socket's
-- clients are answered (src/serve/serve.h). Events are those of the lines; null in them is json.null.
local class = require "fp8llm.class"
local json = require "fp8llm.json"
local misuse = require "fp8llm.misuse"
local openai = require "fp8llm.openai"

local answer = {}

function answer:__tostring()
  if self.closed then return "fp8llm.answer: closed" end
  return ("fp8llm.answer: %s, %d completions"):format(self.kind, self.start and self.start.choices or 0)
end

-- The next line as a table | false, none has come yet | nil, there is none | nil, message, code
local function next_line(self)
  while true do
    local line, next_at = self.lines:match("^([^\n]*)\n()", self.at)
    if line then
      self.at = next_at
      return assert(json.decode(line))
    end
    if self.over then return nil end
    local lines, over, code = self.exchange:read()
    if not lines then return nil, over, code end
    self.lines, self.at, self.over = lines, 1, over
    if lines == "" and not over then return false end
  end
end

--- The next event | false, none has come yet | nil, all have been read | nil, message, code
function answer:poll() return next_line(self) end

-- Raises for an argument that is there and of another type, and for members of it that are not in `types`.
local function check(who, value, want, types)
  if value == nil then return end
  if type(value) ~= want then misuse(who, "bad argument #1 (%s expected, got %s)", want, type(value)) end
  for name, member in pairs(types and value or {}) do
    if not types[name] then misuse(who, "unknown option '%s'", tostring(name)) end
    if type(member) ~= types[name] then
      misuse(who, "option '%s': %s expected, got %s", name, types[name], type(member))
    end
  end
end

--- true when poll would not say false; waits for that, at most ms.
function answer:wait(ms)
  check("answer:wait", ms, "number")
  return self.at <= #self.lines or self.exchange:wait(ms)
end

--- A file descriptor that is readable while poll would not say false.
function answer:fd() return self.exchange:fd() end

-- The next event, for which wait(self) is called as long as there is none | nil | nil, message, code
local function await(self, wait)
  while true do
    local event, message, code = self:poll()
    if event ~= false then return event, message, code end
    if wait then wait(self) else self:wait() end
  end
end

--- The text of the next event, and the event; nothing at the end. What goes wrong raises.
function answer:next_piece(wait)
  check("answer:next_piece", wait, "function")
  local event, message = await(self, wait)
  if message or (event and event.fin == "error") then error(message or event.message, 0) end
  if event then return event.d, event end
end

--- for piece, event in answer:pieces() do: the text of each event as it comes.
function answer:pieces()
  return function() return self:next_piece() end
end

local function tell(self, on_piece, event)
  local fine, go_on = pcall(on_piece, event.d, event)
  if not fine or go_on == false then self:cancel() end
  if not fine then error(go_on, 0) end
  return go_on ~= false
end

-- Texts, ids and the last event of a single completion -> what read gives | nil, message, code
local function sum_up(texts, ids, last, stopped)
  if last.fin == "error" then return nil, last.message, last.code end
  if last.fin == "cancelled" and not stopped then return nil, "the request was cancelled", "CANCELLED" end
  local u = last.usage
  return {
    text = table.concat(texts), ids = ids,
    finish_reason = stopped and "cancelled" or last.fin, stop_reason = last.reason,
    prompt_tokens = u.prompt_tokens, cached_tokens = u.cached_tokens, completion_tokens = u.completion_tokens,
    prompt_seconds = u.first_token_s, decode_steps = math.max(0, u.completion_tokens - 1),
    decode_seconds = math.max(0, u.total_s - u.first_token_s),
  }
end

--- Everything that is to come of a single completion, as it comes. hooks: on_piece(piece, event), which ends it by
-- returning false; wait(self), called while there is nothing yet. -> {text =, ids =, finish_reason =, ...}
-- | nil, message, code
function answer:read(hooks)
  check("answer:read", hooks, "table", {on_piece = "function", wait = "function"})
  hooks = hooks or {}
  local texts, ids, stopped = {}, {}, false
  while true do
    local event, message, code = await(self, hooks.wait)
    if message then return nil, message, code end
    if not event then return nil, "the completion has been read before", "ARG" end
    texts[#texts + 1] = event.d
    for _, id in ipairs(event.t) do ids[#ids + 1] = id end
    local shown = hooks.on_piece and (event.d ~= "" or event.fin) and not stopped
    if shown and not tell(self, hooks.on_piece, event) then stopped = true end
    if event.fin then return sum_up(texts, ids, event, stopped) end
  end
end

--- Waits for the end -> {choices = {event, ...}, usage =}, each completion whole, whatever has been read before
-- | nil, message, code
function answer:result()
  self.exchange:rewind()
  self.lines, self.at, self.over = "", 1, false
  local result = {choices = {}}
  repeat
    self:wait()
    local event, message, code = self:poll()
    if message then return nil, message, code end
    if event then result.choices[event.i + 1], result.usage = event, event.usage or result.usage end
  until event == nil
  return result
end

--- The same as OpenAI's response object. options: model_name, for requests that name none; id.
-- | nil, message, code, when it ended by anything but its own end
function answer:response(options)
  check("answer:response", options, "table", {model_name = "string", id = "string"})
  local result, message, code = self:result()
  if not result then return nil, message, code end
  local name = self.start.model ~= "" and self.start.model or nil
  options = options or {}
  return openai.response(self.kind, result, {
    start = self.start, id = options.id, model_name = name or options.model_name,
  })
end

function answer:cancel() self.exchange:cancel() end

function answer:close()
  self.closed = true
  self.exchange:close()
end

class("answer", answer)

--- exchange: see src/binding/l_exchange.c; kind: "chat" or "completion" -> answer | nil, message, code, param
return function(exchange, kind)
  local self = setmetatable({exchange = exchange, kind = kind, lines = "", at = 1}, answer)
  local first, message, code = next_line(self)
  if not first then return nil, message, code end
  if first.error then
    exchange:close()
    return nil, first.error.message, first.error.code, first.error.param
  end
  self.start = first.start
  return self
end
