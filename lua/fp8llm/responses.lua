--- OpenAI's Responses API (POST /v1/responses) as a translation of chat completions. Nothing is stored: what refers to
-- an earlier response is refused. Plain Lua, no HTTP in here.
local json = require "fp8llm.json"
local openai = require "fp8llm.openai"
local translation = require "fp8llm.translation"

local responses = {kind = "chat"}

-- Requests. ----------------------------------------------------------------------------------

-- Members that ask for what is not done here.
local not_offered = {
  {"previous_response_id", "responses are not stored; send the conversation as input"},
  {"conversation", "conversations are not stored; send the conversation as input"},
  {"prompt", "templates of prompts are not stored"},
  {"background", "not offered"},
}

-- Members that are translated, that say nothing to a model that does not reason or call tools of its own, or that a
-- chat would take for something else.
local own = {}
for name in ([[input instructions max_output_tokens text tools tool_choice store background include top_logprobs
  logprobs messages max_tokens max_completion_tokens response_format n metadata user reasoning truncation stream_options
  parallel_tool_calls max_tool_calls service_tier safety_identifier prompt_cache_key prompt_cache_retention
  previous_response_id conversation prompt]]):gmatch "%S+" do own[name] = true end

-- Members that the answer repeats as they were written, and what stands there for those that were not.
local repeated = {
  instructions = "null", max_output_tokens = "null", metadata = "{}", temperature = "null", top_p = "null",
  tools = "[]", tool_choice = '"auto"', user = "null", parallel_tool_calls = "true", reasoning = "null",
}

local function refuse(name, why) return nil, name .. ": " .. why, name end

local function is_empty(text)
  return text == nil or text == "false" or text == '""' or text:find "^{%s*}$" ~= nil
end

-- The engine reads these as Python does; most clients could not read the answer. All else is read there as JSON is.
local function has_no_number(text)
  if not (text:find("NaN", 1, true) or text:find("Infinity", 1, true)) then return false end
  return text:gsub("\\.", ""):gsub('"[^"]*"', ""):find "[NI]" ~= nil
end

local function check(t)
  local m = t.members
  for name in pairs(repeated) do
    if m[name] and has_no_number(m[name]) then return refuse(name, "NaN and Infinity are not JSON") end
  end
  for _, case in ipairs(not_offered) do
    if not is_empty(m[case[1]]) then return refuse(case[1], case[2]) end
  end
  if m.truncation and t.word(m.truncation) ~= "disabled" then
    return refuse("truncation", "only disabled is offered")
  end
  if m.n and m.n ~= "1" then return refuse("n", "a response has one output") end
  local text = t:object(m.text)
  if m.text and not text then return refuse("text", "need an object") end
  local format = text and text.format and text.format ~= "null" and t:object(text.format)
  if format and t.word(format.type) ~= "text" then
    return refuse("text.format", 'only {"type": "text"} is offered')
  end
  return true
end

-- Calls of functions are items of their own here, and members of the assistant's message in a chat.
local function call_text(item)
  return string.format('{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}', item.call_id or "null",
    item.name or "null", item.arguments or "null")
end

local function end_calls(t, pending)
  if not pending then return end
  local calls = pending.calls[1] and ',"tool_calls":[' .. table.concat(pending.calls, ",") .. "]" or ""
  t:message(pending.place, '{"role":"assistant","content":' .. (pending.content or "null") .. calls .. "}")
end

-- -> the assistant's message that calls may still be added to | nil | false, message
local function read_item(t, item, place, pending)
  local kind, role = t.word(item.type) or "message", t.word(item.role)
  if kind == "function_call" then
    pending = pending or {place = place, calls = {}}
    pending.calls[#pending.calls + 1] = call_text(item)
    return pending
  end
  end_calls(t, pending)
  if kind == "function_call_output" then
    t:message(place, string.format('{"role":"tool","tool_call_id":%s,"content":%s}', item.call_id or "null",
      item.output or "null"))
  elseif kind ~= "message" then
    return false, string.format("%s: type '%.40s' is not offered", place, kind)
  elseif role == "assistant" then
    return {place = place, content = item.content, calls = {}}
  else
    local name = role == "developer" and '"system"' or item.role or "null"
    t:message(place, '{"role":' .. name .. ',"content":' .. (item.content or "null") .. "}")
  end
end

local function read_input(t)
  local input = t.members.input
  if not input then return nil, "input: need a text or a list of items", "input" end
  if input:find '^"' then
    t:message("input", '{"role":"user","content":' .. input .. "}")
    return true
  end
  local items = t:list(input)
  if not items then return nil, "input: need a text or a list of items", "input" end
  local pending
  for i, text in ipairs(items) do
    local place = "input[" .. i - 1 .. "]"
    local item = t:object(text)
    if not item then return nil, place .. ": need an object", "input" end
    local why
    pending, why = read_item(t, item, place, pending)
    if pending == false then return nil, why, "input" end
  end
  end_calls(t, pending)
  return true
end

-- {"type": "function", "name", ...} -> {"type": "function", "function": {"name", ...}}
local function read_tools(t)
  local choice = t.members.tool_choice and t:object(t.members.tool_choice)
  if choice then
    t:set("tool_choice", '{"type":"function","function":{"name":' .. (choice.name or "null") .. "}}")
  elseif t.members.tool_choice then
    t:set("tool_choice", t.members.tool_choice)
  end
  if not t.members.tools then return true end
  local tools = t:list(t.members.tools)
  if not tools then return refuse("tools", "need a list") end
  for i, text in ipairs(tools) do
    local tool = t:object(text)
    local kind = tool and t.word(tool.type) or "?"
    if kind ~= "function" then
      return nil, string.format("tools[%d]: type '%.40s' is not offered, only functions", i - 1, kind), "tools"
    end
    local parts = {}
    for _, name in ipairs {"name", "description", "parameters", "strict"} do
      if tool[name] then parts[#parts + 1] = '"' .. name .. '":' .. tool[name] end
    end
    tools[i] = '{"type":"function","function":{' .. table.concat(parts, ",") .. "}}"
  end
  if tools[1] then t:set("tools", "[" .. table.concat(tools, ",") .. "]") end
  return true
end

local function read_logprobs(t)
  for _, text in ipairs(t.members.include and t:list(t.members.include) or {}) do
    if t.word(text) == "message.output_text.logprobs" then
      t:set("logprobs", "true")
      if t.members.top_logprobs then t:set("top_logprobs", t.members.top_logprobs) end
    end
  end
end

--- The request of a response, JSON text -> a translation with its body | nil, message, param
function responses.request(text)
  local t, message = translation.new(text, {max_output_tokens = "max_tokens", input = "messages"})
  if not t then return nil, message end
  local ok, param
  t:carry(own)
  ok, message, param = check(t)
  if ok and t.members.instructions then
    t:message("instructions", '{"role":"system","content":' .. t.members.instructions .. "}")
  end
  if ok then ok, message, param = read_input(t) end
  if ok then ok, message, param = read_tools(t) end
  if not ok then return nil, message, param end
  read_logprobs(t)
  return t
end

-- Objects. -----------------------------------------------------------------------------------

-- What a client gave is given back, as it was written but for line ends, which would end a line of a stream.
local function given(t, name, default)
  return t.members[name] and t.members[name]:gsub("[\r\n]", " ") or default
end

local function part_object(text, logprobs)
  return {type = "output_text", text = text, annotations = json.array {}, logprobs = logprobs or json.array {}}
end

local function item_object(id, status, part)
  return {
    id = "msg_" .. id, type = "message", role = "assistant", status = status, content = json.array {part},
  }
end

local function usage_object(u)
  return {
    input_tokens = u.prompt_tokens, input_tokens_details = {cached_tokens = u.cached_tokens or 0},
    output_tokens = u.completion_tokens, output_tokens_details = {reasoning_tokens = 0},
    total_tokens = u.prompt_tokens + u.completion_tokens,
  }
end

-- JSON text of the response. state: status, output (a list), usage, incomplete, message of a failure.
local function response_text(options, state)
  local t = options.request
  local own_members = json.encode {
    id = "resp_" .. options.id, object = "response", created_at = options.created, status = state.status,
    model = options.model_name, output = json.array(state.output or {}), store = false, truncation = "disabled",
    error = state.message and {code = "server_error", message = state.message} or json.null,
    incomplete_details = state.incomplete and {reason = state.incomplete} or json.null,
    usage = state.usage and usage_object(state.usage) or json.null, text = {format = {type = "text"}},
    previous_response_id = json.null, background = false,
  }
  local echoed = {}
  for name, default in pairs(repeated) do
    echoed[#echoed + 1] = '"' .. name .. '":' .. given(t, name, default)
  end
  return own_members:sub(1, -2) .. "," .. table.concat(echoed, ",") .. "}"
end

-- How a choice ended -> status, reason why it is incomplete
local function ended(event)
  if event.fin == "stop" then return "completed" end
  return "incomplete", "max_output_tokens"
end

local function logprobs_of(event, start)
  return event.lp and openai.chat_logprobs(event, start).content or nil
end

--- See openai.response; options.request: the translation. -> JSON text | nil, message, code
function responses.response(result, options)
  local event = result.choices[1]
  local message, code = openai.trouble(event)
  if message then return nil, message, code end
  local status, incomplete = ended(event)
  options.created = os.time()
  local part = part_object(event.d, logprobs_of(event, options.start))
  return response_text(options, {
    status = status, incomplete = incomplete, usage = result.usage, output = {item_object(options.id, status, part)},
  })
end

-- Streams. -----------------------------------------------------------------------------------

local stream = {}
stream.__index = stream

--- See openai.stream.
function responses.stream(start, options)
  options.created = os.time()
  return setmetatable({
    start = start, options = options, number = 0, texts = {}, logprobs = json.array {}, completion_tokens = 0,
  }, stream)
end

-- members: JSON text of the event's members but type and number.
function stream:event(name, members)
  local out = string.format('event: %s\ndata: {"type":"%s","sequence_number":%d,%s}\n\n', name, name, self.number,
    members)
  self.number = self.number + 1
  return out
end

function stream:response_event(name, state)
  return self:event("response." .. name, '"response":' .. response_text(self.options, state))
end

-- members: a table, of an event about the item, or its part.
function stream:item_event(name, members)
  members.output_index = 0
  return self:event("response." .. name, json.encode(members):sub(2, -2))
end

function stream:part_event(name, members)
  members.item_id, members.content_index = "msg_" .. self.options.id, 0
  return self:item_event(name, members)
end

function stream:opening()
  return self:response_event("created", {status = "in_progress"}) ..
    self:response_event("in_progress", {status = "in_progress"}) ..
    self:item_event("output_item.added", {item = item_object(self.options.id, "in_progress")}) ..
    self:part_event("content_part.added", {part = part_object ""})
end

function stream:usage()
  return {prompt_tokens = self.start.prompt_tokens, completion_tokens = self.completion_tokens}
end

function stream:ending(event)
  self.over = true
  local status, incomplete = ended(event)
  local part = part_object(table.concat(self.texts), self.logprobs)
  local item = item_object(self.options.id, status, part)
  return self:part_event("output_text.done", {text = part.text, logprobs = part.logprobs}) ..
    self:part_event("content_part.done", {part = part}) .. self:item_event("output_item.done", {item = item}) ..
    self:response_event(status, {status = status, incomplete = incomplete, usage = event.usage, output = {item}})
end

function stream:line(line)
  local event = json.decode(line)
  local message, code = openai.trouble(event)
  if message then return self:failure(message, code) end
  self.completion_tokens = self.completion_tokens + #event.t
  local out, logprobs = "", logprobs_of(event, self.start)
  for _, entry in ipairs(logprobs or {}) do self.logprobs[#self.logprobs + 1] = entry end
  if event.d ~= "" or logprobs then
    self.texts[#self.texts + 1] = event.d
    out = self:part_event("output_text.delta", {delta = event.d, logprobs = logprobs or json.array {}})
  end
  return event.usage and out .. self:ending(event) or out
end

stream.write = openai.write_lines

function stream:failure(message)
  self.over, self.failed = true, true
  return self:response_event("failed", {status = "failed", message = message})
end

return responses
