--- Anthropic's Messages API (POST /v1/messages) as a translation of chat completions. Plain Lua, no HTTP in here.
local json = require "fp8llm.json"
local openai = require "fp8llm.openai"
local translation = require "fp8llm.translation"

local messages = {kind = "chat"}

-- Requests. ----------------------------------------------------------------------------------

-- Members that are translated, that say nothing here, or that a chat would take for something else.
local own = {}
for name in ([[messages system stop_sequences max_tokens tools tool_choice metadata service_tier thinking
  stop max_completion_tokens n logprobs top_logprobs response_format container context_management mcp_servers
  betas output_config inference_geo]]):gmatch "%S+" do own[name] = true end

local not_offered = {"container", "mcp_servers", "context_management"}

local function is_empty(text) return text == nil or text == '""' or text:find "^[%[{]%s*[%]}]$" ~= nil end

local function check(t, needs_length)
  local m = t.members
  for _, name in ipairs(not_offered) do
    if not is_empty(m[name]) then return nil, name .. ": not offered", name end
  end
  local thinking = t:object(m.thinking)
  if m.thinking and not (thinking and t.word(thinking.type) == "disabled") then
    return nil, 'thinking: only {"type": "disabled"} is offered', "thinking"
  end
  local output = t:object(m.output_config)
  if output and output.format and output.format ~= "null" then
    return nil, "output_config.format: not offered", "output_config"
  end
  if not m.messages then return nil, "messages: need a list of at least one message", "messages" end
  if needs_length and not m.max_tokens then return nil, "max_tokens: need how many tokens to generate at most",
    "max_tokens" end
  return true
end

local function texts(parts)
  return parts[1] and '"content":[' .. table.concat(parts, ",") .. "]" or '"content":null'
end

-- A string as JSON writes the JSON text of an object.
local function as_string(text) return json.encode(text or "{}") end

-- What the blocks of one message are in a chat: results of tools first, each a message of its own, then one message.
local function read_blocks(t, role, blocks, place)
  local parts, calls, results = {}, {}, 0
  for i, text in ipairs(blocks) do
    local block = t:object(text)
    if not block then return nil, place .. ".content[" .. i - 1 .. "]: need an object" end
    local kind = t.word(block.type) or "?"
    if kind == "text" then
      parts[#parts + 1] = '{"type":"text","text":' .. (block.text or "null") .. "}"
    elseif kind == "tool_use" and role == "assistant" then
      calls[#calls + 1] = string.format('{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}',
        block.id or "null", block.name or "null", as_string(block.input))
    elseif kind == "tool_result" and role == "user" then
      results = results + 1
      t:message(place, string.format('{"role":"tool","tool_call_id":%s,"content":%s}', block.tool_use_id or "null",
        block.content or '""'))
    else
      return nil, string.format("%s.content[%d]: type '%.40s' is not offered", place, i - 1, kind)
    end
  end
  if parts[1] or calls[1] or results == 0 then
    local tail = calls[1] and ',"tool_calls":[' .. table.concat(calls, ",") .. "]" or ""
    t:message(place, '{"role":"' .. role .. '",' .. texts(parts) .. tail .. "}")
  end
  return true
end

local function read_messages(t)
  local list = t:list(t.members.messages)
  if not list or not list[1] then return nil, "messages: need a list of at least one message", "messages" end
  local role
  for i, text in ipairs(list) do
    local place = "messages[" .. i - 1 .. "]"
    local message = t:object(text)
    role = message and t.word(message.role)
    if role ~= "user" and role ~= "assistant" then
      return nil, place .. (message and ": role: need user or assistant" or ": need an object"), "messages"
    end
    local blocks = message.content and t:list(message.content)
    if blocks then
      local ok, why = read_blocks(t, role, blocks, place)
      if not ok then return nil, why, "messages" end
    else
      t:message(place, '{"role":"' .. role .. '","content":' .. (message.content or "null") .. "}")
    end
  end
  if role == "assistant" then -- the answer goes on where the last message ends
    t:set("continue_final_message", "true")
    t:set("add_generation_prompt", "false")
  end
  return true
end

local choices = {auto = '"auto"', none = '"none"', any = '"required"'}

local function read_tools(t)
  local choice = t:object(t.members.tool_choice)
  if choice then
    local kind = t.word(choice.type) or "?"
    t:set("tool_choice", choices[kind] or '{"type":"function","function":{"name":' .. (choice.name or "null") .. "}}")
  end
  if is_empty(t.members.tools) then return true end
  local tools = t:list(t.members.tools)
  if not tools then return nil, "tools: need a list", "tools" end
  for i, text in ipairs(tools) do
    local tool = t:object(text)
    local kind = tool and (tool.type and t.word(tool.type) or "custom") or "?"
    if kind ~= "custom" then
      return nil, string.format("tools[%d]: type '%.40s' is not offered", i - 1, kind), "tools"
    end
    tools[i] = string.format('{"type":"function","function":{"name":%s,"description":%s,"parameters":%s}}',
      tool.name or "null", tool.description or '""', tool.input_schema or "{}")
  end
  t:set("tools", "[" .. table.concat(tools, ",") .. "]")
  return true
end

local function read(text, needs_length)
  local t, message = translation.new(text, {stop_sequences = "stop", max_tokens = "max_tokens"})
  if not t then return nil, message end
  t:carry(own)
  local ok, param
  ok, message, param = check(t, needs_length)
  if ok and not is_empty(t.members.system) then
    t:message("system", '{"role":"system","content":' .. t.members.system .. "}")
  end
  if ok then ok, message, param = read_messages(t) end
  if ok then ok, message, param = read_tools(t) end
  if not ok then return nil, message, param end
  return t
end

--- The request of a message, JSON text -> a translation with its body | nil, message, param
function messages.request(text) return read(text, true) end


-- Objects. -----------------------------------------------------------------------------------

local function usage_object(u)
  local cached = u.cached_tokens or 0
  return {
    input_tokens = u.prompt_tokens - cached, cache_read_input_tokens = cached, cache_creation_input_tokens = 0,
    output_tokens = u.completion_tokens,
  }
end

-- Why a choice ended -> stop_reason, stop_sequence
local function ended(event)
  if event.fin ~= "stop" then return "max_tokens", json.null end
  if type(event.reason) == "string" then return "stop_sequence", event.reason end
  return "end_turn", json.null
end

local function message_object(options, content, usage, reason, sequence)
  return {
    id = "msg_" .. options.id, type = "message", role = "assistant", model = options.model_name, content = content,
    stop_reason = reason or json.null, stop_sequence = sequence or json.null, usage = usage,
  }
end

--- See openai.response. -> JSON text | nil, message, code
function messages.response(result, options)
  local event = result.choices[1]
  local trouble, code = openai.trouble(event)
  if trouble then return nil, trouble, code end
  local content = json.array {{type = "text", text = event.d}}
  return json.encode(message_object(options, content, usage_object(result.usage), ended(event)))
end

local types = {
  [400] = "invalid_request_error", [401] = "authentication_error", [403] = "permission_error",
  [404] = "not_found_error", [413] = "request_too_large", [429] = "rate_limit_error", [503] = "overloaded_error",
}

--- The object of a refusal. status: of HTTP.
function messages.error_object(message, status)
  local kind = types[status] or (status < 500 and "invalid_request_error" or "api_error")
  return {type = "error", error = {type = kind, message = message}}
end

--- The same API for requests that only count their tokens, with the engine's operation `tokenize`.
messages.counting = {
  kind = "chat", error_object = messages.error_object, request = function(text) return read(text, false) end,
}

-- Streams. -----------------------------------------------------------------------------------

local stream = {}
stream.__index = stream

local function event_text(data)
  return "event: " .. data.type .. "\ndata: " .. json.encode(data) .. "\n\n"
end

--- See openai.stream.
function messages.stream(start, options)
  return setmetatable({start = start, options = options, completion_tokens = 0}, stream)
end

function stream:usage()
  return {prompt_tokens = self.start.prompt_tokens, completion_tokens = self.completion_tokens}
end

function stream:opening()
  return event_text {
    type = "message_start", message = message_object(self.options, json.array {}, usage_object(self:usage())),
  } .. event_text {type = "content_block_start", index = 0, content_block = {type = "text", text = ""}}
end

function stream:ending(event)
  self.over = true
  local reason, sequence = ended(event)
  return event_text {type = "content_block_stop", index = 0} .. event_text {
    type = "message_delta", delta = {stop_reason = reason, stop_sequence = sequence}, usage = usage_object(event.usage),
  } .. event_text {type = "message_stop"}
end

function stream:line(line)
  local event = json.decode(line)
  local message, code = openai.trouble(event)
  if message then return self:failure(message, code) end
  self.completion_tokens = self.completion_tokens + #event.t
  local out = ""
  if event.d ~= "" then
    out = event_text {type = "content_block_delta", index = 0, delta = {type = "text_delta", text = event.d}}
  end
  return event.usage and out .. self:ending(event) or out
end

stream.write = openai.write_lines

function stream:failure(message, code)
  self.over, self.failed = true, true
  return event_text(messages.error_object(message, openai.status(code)))
end

return messages
