--- What eng:submit gives for the body of an OpenAI request: its answer, as the lines say it with which a socket's
-- clients are answered (src/serve/serve.h). Events are those of the lines; null in them is json.null.
local json = require "fp8llm.json"
local openai = require "fp8llm.openai"

local answer = {}
answer.__index = answer

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

--- true when poll would not say false; waits for that, at most ms.
function answer:wait(ms) return self.at <= #self.lines or self.exchange:wait(ms) end

--- for piece, event in answer:pieces() do: the text of each event as it comes.
function answer:pieces()
  return function()
    self:wait()
    local event, message = self:poll()
    if message then error(message, 0) end
    if event then return event.d, event end
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
  local result, message, code = self:result()
  if not result then return nil, message, code end
  local name = self.start.model ~= "" and self.start.model or nil
  options = options or {}
  return openai.response(self.kind, result, {
    start = self.start, id = options.id, model_name = name or options.model_name,
  })
end

function answer:cancel() self.exchange:cancel() end

function answer:close() self.exchange:close() end

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
