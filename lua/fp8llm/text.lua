--- Text in, text out: the methods of a model that take a question and give an answer, over one engine that the model
-- gets on first use. Requests are read by the code that serves HTTP; what is added to their fields here is described
-- in lua/fp8llm/meta.lua.
local conversation = require "fp8llm.conversation"
local defaults = require "fp8llm.defaults"
local fp8llm = require "fp8llm"
local misuse = require "fp8llm.misuse"

local text = {}

local engines = setmetatable({}, {__mode = "k"}) -- [model]

local function engine_of(model, who)
  local open, message = pcall(function() return model:config() end)
  if not open and not tostring(message):find "model:config" then
    misuse(who, "bad self (fp8llm.model expected, got %s; is it called with a colon?)", type(model))
  end
  if not open then misuse(who, "%s", (message:gsub("^.-model:config: ", ""))) end
  if not engines[model] then
    local engine, trouble, code = model:engine {}
    if not engine then return nil, trouble, code end
    engines[model] = engine
  end
  return engines[model]
end

local hooks = {on_piece = "function", wait = "function"}
local chat_words = {text = "string", system = "string"}

local function check_type(who, name, value, want)
  if value ~= nil and type(value) ~= want then
    misuse(who, "field '%s': %s expected, got %s", name, want, type(value))
  end
end

-- What the caller gave -> a copy of its fields for the engine, {on_piece =, wait =, text =, system =}
local function split(who, given, first)
  if type(given) == "string" then given = {given} end
  if type(given) ~= "table" then misuse(who, "bad argument #1 (string or table expected, got %s)", type(given)) end
  local fields, own = {}, {}
  for name, value in pairs(given) do
    local want = hooks[name] or chat_words[name]
    if want then
      check_type(who, name, value, want)
      own[name] = value
    elseif name == 1 then
      if given[first] ~= nil then misuse(who, "field '%s' and element 1: only one of them", first) end
      if type(value) ~= "string" then misuse(who, "element 1: string expected, got %s", type(value)) end
      if first == "text" then own.text = value else fields[first] = value end
    else
      fields[name] = value
    end
  end
  return fields, own
end

local function check_fields(who, fields, kind)
  local wrong = fp8llm._misuse(fields, kind)
  if wrong then misuse(who, "%s", wrong) end
end

local function chat_request(who, model, given)
  local fields, own = split(who, given, "text")
  check_fields(who, fields, "chat")
  if own.text and fields.messages then misuse(who, "field 'text' and 'messages': only one of them") end
  if not own.text and not fields.messages then misuse(who, "field 'text' or 'messages' expected") end
  local messages = {}
  if own.system then messages[1] = {role = "system", content = own.system} end
  for _, message in ipairs(fields.messages or {{role = "user", content = own.text}}) do
    messages[#messages + 1] = message
  end
  fields.messages = messages
  return defaults.fill(fields, model:generation_config(), defaults.chat_tokens), own
end

local function text_request(who, model, given)
  local fields, own = split(who, given, "prompt")
  for name in pairs(chat_words) do
    if own[name] then misuse(who, "unknown field '%s'", name) end
  end
  check_fields(who, fields, "completion")
  if fields.prompt == nil then misuse(who, "field 'prompt' expected") end
  return defaults.fill(fields, model:generation_config(), defaults.text_tokens), own
end

-- -> answer, hooks | nil, message, code
local function submit(who, model, given, kind)
  if not kind then kind = type(given) == "table" and given.prompt ~= nil and "completion" or "chat" end
  local engine, message, code = engine_of(model, who)
  local request, own = (kind == "chat" and chat_request or text_request)(who, model, given)
  if not engine then return nil, message, code end
  local answer
  answer, message, code = engine:submit(request, kind)
  if not answer then return nil, message, code end
  answer.owner = engine -- it lives as long as its answers do
  return answer, own
end

-- One text, whole | nil, message, code
local function ask(who, model, given, kind)
  local answer, own, code = submit(who, model, given, kind)
  if not answer then return nil, own, code end
  if answer.start.choices ~= 1 then
    answer:close()
    return nil, ("%s: %d completions; model:submit gives more than one"):format(who, answer.start.choices), "ARG"
  end
  local result, message
  result, message, code = answer:read {on_piece = own.on_piece, wait = own.wait}
  answer:close()
  if not result then return nil, message, code end
  return result.text
end

function text.chat(model, given) return ask("model:chat", model, given, "chat") end

function text.generate(model, given) return ask("model:generate", model, given, "completion") end

function text.submit(model, given) return submit("model:submit", model, given) end

function text.stream(model, given)
  local answer, own = submit("model:stream", model, given)
  return function()
    if not answer then error("model:stream: " .. own, 2) end
    return answer:next_piece(own.wait)
  end
end

function text.conversation(model, given)
  local who = "model:conversation"
  if given == nil then given = {} end
  if type(given) ~= "table" then misuse(who, "bad argument #1 (table expected, got %s)", type(given)) end
  local probe = {text = ""} -- its fields are checked now rather than when something is said
  for name, value in pairs(given) do probe[name] = value end
  if given.text or given.messages then misuse(who, "field 'text' and 'messages': they are said later") end
  engine_of(model, who)
  chat_request(who, model, probe)
  return conversation(model, given, function(request) return submit("conversation:say", model, request, "chat") end)
end

return text
