--- What the engine makes -> OpenAI's response objects and streams. Plain Lua, no HTTP in here. (Requests are read by
-- src/serve/openai_request.c.)
local json = require "fp8llm.json"

local openai = {kinds = {["/v1/chat/completions"] = "chat", ["/v1/completions"] = "completion"}}

local function given(v) return v ~= nil and v ~= json.null end

-- Texts of tokens are strings, or lists of bytes where they are no UTF-8.

local function token_text(s)
  if type(s) == "string" then return s end
  local out = {}
  for i, byte in ipairs(s) do out[i] = string.format("\\x%02x", byte) end
  return "bytes:" .. table.concat(out)
end

local function token_bytes(s)
  if type(s) ~= "string" then return s end
  local out = json.array {}
  for i = 1, #s do out[i] = s:byte(i) end
  return out
end

local function characters(s)
  local _, continued = s:gsub("[\128-\191]", "")
  return #s - continued
end

-- What a token is called in log-probabilities.
local function token_name(id, s, start)
  return start and start.return_tokens_as_token_ids == true and "token_id:" .. id or token_text(s)
end

--- The log-probabilities of an event as a chat has them: {content = {{token, logprob, bytes, top_logprobs}, ...}}
function openai.chat_logprobs(event, start)
  local function describe(id, logprob, s)
    return {token = token_name(id, s, start), logprob = logprob, bytes = token_bytes(s)}
  end
  local content = json.array {}
  for i, s in ipairs(event.s) do
    local entry = describe(event.t[i], event.lp[i], s)
    entry.top_logprobs = json.array {}
    for k, alternative in ipairs(event.top and event.top[i] or {}) do
      entry.top_logprobs[k] = describe(alternative[1], alternative[2], alternative[3])
    end
    content[i] = entry
  end
  return {content = content}
end

-- offset: characters of the choice before this event; returned as it is after it.
local function completion_logprobs(event, start, offset)
  local out = {
    tokens = json.array {}, token_logprobs = json.array {}, top_logprobs = json.array {}, text_offset = json.array {},
  }
  for i, s in ipairs(event.s) do
    local name = token_name(event.t[i], s, start)
    out.tokens[i], out.token_logprobs[i], out.text_offset[i] = name, event.lp[i], offset
    offset = offset + characters(token_text(s))
    out.top_logprobs[i] = json.null
    if given(event.lp[i]) then
      local top = {}
      for _, alternative in ipairs(event.top and event.top[i] or {}) do
        top[token_name(alternative[1], alternative[3], start)] = alternative[2]
      end
      top[name] = event.lp[i] -- last: two tokens may have the same text
      out.top_logprobs[i] = top
    end
  end
  return out, offset
end

-- Ended by time: what there is counts as cut off.
local finish_reasons = {stop = "stop", length = "length", timeout = "length"}

--- Why an event ends its answer otherwise than an answer ends: message, code | nil, it does not.
function openai.trouble(event)
  if event.error then return event.error.message, event.error.code end
  if event.fin and not finish_reasons[event.fin] then
    return event.message or "ended by " .. event.fin, event.code or "CANCELLED"
  end
end

local function stop_reason(event)
  return event.fin == "timeout" and "timeout" or event.reason or json.null
end

local function logprobs_of(kind, event, start, offset)
  if not event.lp then return json.null, offset end
  if kind == "chat" then return openai.chat_logprobs(event, start), offset end
  return completion_logprobs(event, start, offset)
end

-- vLLM's form: for each token of the prompt {id: {logprob, decoded_token}} of itself and the alternatives.
local function prompt_logprobs(prompt)
  local out = json.array {}
  for i, id in ipairs(prompt.t) do
    out[i] = json.null
    if given(prompt.lp[i]) then
      out[i] = {[tostring(id)] = {logprob = prompt.lp[i], decoded_token = token_text(prompt.s[i])}}
      for rank, alternative in ipairs(prompt.top and prompt.top[i] or {}) do
        out[i][tostring(alternative[1])] = {
          logprob = alternative[2], rank = rank, decoded_token = token_text(alternative[3]),
        }
      end
    end
  end
  return out
end

-- Members of a choice that only those get who asked for them.
local function extras(event, start)
  local more, prompt = {}, event.prompt
  if start and start.return_token_ids == true then
    more.token_ids = json.array(event.t)
    more.prompt_token_ids = prompt and json.array(prompt.t)
  end
  if prompt and prompt.lp then more.prompt_logprobs = prompt_logprobs(prompt) end
  return more
end

local function usage_object(u)
  return {
    prompt_tokens = u.prompt_tokens, completion_tokens = u.completion_tokens,
    total_tokens = u.prompt_tokens + u.completion_tokens,
    prompt_tokens_details = {cached_tokens = u.cached_tokens or 0},
  }
end

local function object_id(kind, options, start)
  local own = start and given(start.request_id) and start.request_id
  return (kind == "chat" and "chatcmpl-" or "cmpl-") .. (own or options.id or "0")
end

--- A whole event -> its choice in the response | nil, message, code. start: of the generation's first line.
function openai.choice(kind, event, start)
  local message, code = openai.trouble(event)
  if message then return nil, message, code end
  local choice = {index = event.i, finish_reason = finish_reasons[event.fin], stop_reason = stop_reason(event)}
  choice.logprobs = logprobs_of(kind, event, start, 0)
  for name, value in pairs(extras(event, start)) do choice[name] = value end
  if kind == "chat" then
    choice.message = {role = "assistant", content = event.d}
  else
    choice.text = event.d
  end
  return choice
end

--- The response object of some choices, a list of json.array; nil: without them.
-- options: model_name; id; start, of the generation's first line.
function openai.response_object(kind, choices, usage, options)
  return {
    id = object_id(kind, options, options.start), object = kind == "chat" and "chat.completion" or "text_completion",
    created = os.time(), model = options.model_name, choices = choices, usage = usage_object(usage),
  }
end

--- The events of all choices, each whole, and the usage -> a response object | nil, message, code.
function openai.response(kind, result, options)
  local choices = json.array {}
  for _, event in ipairs(result.choices) do
    local choice, message, code = openai.choice(kind, event, options.start)
    if not choice then return nil, message, code end
    choices[event.i + 1] = choice
  end
  return openai.response_object(kind, choices, result.usage, options)
end

-- Streams. -----------------------------------------------------------------------------------

local stream = {}
stream.__index = stream

local done = "data: [DONE]\n\n"

-- Of a chunk with one choice: what its text follows, and what follows its text.
local before = {chat = '"choices":[{"index":%s,"delta":{"content":', completion = '"choices":[{"index":%s,"text":'}
local after = {
  chat = '},"logprobs":%s,"finish_reason":%s%s}]%s}\n\n',
  completion = ',"logprobs":%s,"finish_reason":%s%s}]%s}\n\n',
}

--- What turns the lines of a generation into server-sent events. start: of its first line, see src/serve/serve.h;
-- options: model_name, id.
function openai.stream(kind, start, options)
  local head = string.format('data: {"id":%s,"object":"%s","created":%d,"model":%s,',
    json.encode(object_id(kind, options, start)), kind == "chat" and "chat.completion.chunk" or "text_completion",
    os.time(), json.encode(options.model_name))
  local self = setmetatable({
    kind = kind, head = head, start = start, offsets = {}, completion_tokens = 0,
    usual = not (start.return_token_ids or start.continuous_usage_stats),
  }, stream)
  -- The usual chunk, but for its text: by the index of the choice as the engine writes it.
  self.heads = setmetatable({}, {__index = function(heads, i)
    heads[i] = head .. before[kind]:format(i)
    return heads[i]
  end})
  self.tail = after[kind]:format("null", "null", "", self:usage_member(0))
  return self
end

--- What comes before the first token.
function stream:opening()
  if self.kind ~= "chat" then return "" end
  local out = {}
  local role = '"choices":[{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,' ..
    '"finish_reason":null}]%s}\n\n'
  for i = 0, self.start.choices - 1 do
    out[#out + 1] = self.head .. role:format(i, self:usage_member(0))
  end
  return table.concat(out)
end

--- The tokens of this answer so far: {prompt_tokens =, completion_tokens =}
function stream:usage()
  return {prompt_tokens = self.start.prompt_tokens, completion_tokens = self.completion_tokens}
end

-- The member `usage` of a chunk, after n more tokens.
function stream:usage_member(n)
  self.completion_tokens = self.completion_tokens + n
  if not self.start.continuous_usage_stats then return self.start.include_usage and ',"usage":null' or "" end
  return ',"usage":' .. json.encode(usage_object(self:usage()))
end

-- An event that is more than new text.
function stream:event(line)
  local event = json.decode(line)
  local message, code = openai.trouble(event)
  if message then return self:failure(message, code) end
  local logprobs
  logprobs, self.offsets[event.i] = logprobs_of(self.kind, event, self.start, self.offsets[event.i] or 0)
  local finish, stop = "null", ""
  if event.fin then
    finish = '"' .. finish_reasons[event.fin] .. '"'
    stop = ',"stop_reason":' .. json.encode(stop_reason(event))
  end
  for name, value in pairs(extras(event, self.start)) do stop = stop .. ',"' .. name .. '":' .. json.encode(value) end
  local out = self.heads[event.i] .. json.encode(event.d) ..
    after[self.kind]:format(json.encode(logprobs), finish, stop, self:usage_member(#event.t))
  if not event.usage then return out end
  self.over = true
  if self.start.include_usage then
    out = out .. self.head .. '"choices":[],"usage":' .. json.encode(usage_object(event.usage)) .. "}\n\n"
  end
  return out .. done
end

local function count_ids(ids)
  if not ids:find(",", 1, true) then return ids == "" and 0 or 1 end -- nearly always
  local _, commas = ids:gsub(",", "")
  return commas + 1
end

function stream:line(line)
  if not self.usual then return self:event(line) end
  local i, ids, text = line:match '^{"i":(%d+),"t":%[([%d,]*)%],"d":(".*")}$' -- new text only, and it is JSON already
  if not i then return self:event(line) end
  self.completion_tokens = self.completion_tokens + count_ids(ids)
  if text == '""' then return "" end -- the beginning of a character, or of what may become a stop text
  return self.heads[i] .. text .. self.tail
end

--- A stream's method `write`. Lines of the engine, each with its line end -> text for the client; self.over when that
-- was all. Streams of other APIs have it, too, over their own `line`.
function openai.write_lines(self, lines)
  if lines:find("\n", 1, true) == #lines then return self:line(lines:sub(1, -2)) end
  local out, n = {}, 0
  for line in lines:gmatch "[^\n]+" do
    n = n + 1
    out[n] = self:line(line)
    if self.over then break end
  end
  return table.concat(out)
end

stream.write = openai.write_lines

--- The end of a stream that cannot go on.
function stream:failure(message, code)
  self.over, self.failed = true, true
  return "data: " .. json.encode(openai.error_object(message, openai.status(code))) .. "\n\n" .. done
end

-- Refusals. ----------------------------------------------------------------------------------

local statuses = {
  ARG = 400, FORMAT = 400, UNSUPPORTED = 400, LIMIT = 400, BUSY = 429, NOMEM = 503, CANCELLED = 503, UNREACHABLE = 503,
}

--- The HTTP status for the code of a refusal.
function openai.status(code, param)
  if code == "ARG" and param == "model" then return 404 end
  return statuses[code] or 500
end

local prompts = {prompt = true, messages = true, input = true}

local function error_code(status, code, param)
  if status == 404 and param == "model" then return "model_not_found" end
  if code == "LIMIT" and prompts[param] then return "context_length_exceeded" end
  return json.null
end

local function error_type(status)
  if status == 429 then return "rate_limit_error" end
  if status == 503 then return "unavailable_error" end
  return status < 500 and "invalid_request_error" or "server_error"
end

--- OpenAI's error object. param: the field at fault; code: that of a refusal.
function openai.error_object(message, status, param, code)
  return {error = {
    message = message, type = error_type(status), param = param or json.null, code = error_code(status, code, param),
  }}
end

return openai
