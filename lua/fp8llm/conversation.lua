--- A conversation: what has been said, and the model's answer to what is said next. What the model has read of it
-- already is found in its prefix cache, so each turn computes only what is new.
local class = require "fp8llm.class"
local json = require "fp8llm.json"
local misuse = require "fp8llm.misuse"

local conversation = {}

local function copy(list)
  local out = {}
  for i, v in ipairs(list) do out[i] = v end
  return out
end

function conversation:__tostring()
  return ("fp8llm.conversation: %d messages, %s"):format(#self.said, tostring(self.model))
end

-- The model's answer to all that has been said so far -> text | nil, message, code. given: fields of this turn.
local function answer(self, given)
  local request = {}
  for name, value in pairs(self.fields) do request[name] = value end
  for name, value in pairs(given) do request[name] = value end
  request.text, request[1] = nil, nil
  request.messages = self.said
  local stream, own, code = self.submit(request)
  if not stream then return nil, own, code end
  local result, message
  result, message, code = stream:read {on_piece = own.on_piece, wait = own.wait}
  stream:close()
  if not result then return nil, message, code end
  self.last = result
  self.said[#self.said + 1] = {role = "assistant", content = result.text}
  return result.text
end

local function is_last(self, role)
  local last = self.said[#self.said]
  return last and last.role == role
end

--- The answer to a text, or to {text, on_piece =, ...} | nil, message, code: then nothing has been said.
function conversation:say(given)
  if type(given) == "string" then given = {text = given} end
  if type(given) ~= "table" then
    misuse("conversation:say", "bad argument #1 (string or table expected, got %s)", type(given))
  end
  local words = given.text or given[1]
  if type(words) ~= "string" then misuse("conversation:say", "field 'text': string expected, got %s", type(words)) end
  if given.messages or given.system then misuse("conversation:say", "field 'messages' and 'system': it has its own") end
  local before = #self.said
  self.said[before + 1] = {role = "user", content = words}
  local fine, text, message, code = pcall(answer, self, given)
  if fine and text then return text end
  for i = #self.said, before + 1, -1 do self.said[i] = nil end
  if not fine then error(text, 0) end
  return nil, message, code
end

--- Another answer in place of the last one | nil, message, code: then the last one stays.
function conversation:again(given)
  if given ~= nil and type(given) ~= "table" then
    misuse("conversation:again", "bad argument #1 (table expected, got %s)", type(given))
  end
  if not is_last(self, "assistant") then return nil, "again: nothing has been answered", "ARG" end
  local old = table.remove(self.said)
  local fine, text, message, code = pcall(answer, self, given or {})
  if fine and text then return text end
  self.said[#self.said + 1] = old
  if not fine then error(text, 0) end
  return nil, message, code
end

--- Takes the last question and its answer back -> the question | nil: there is none.
function conversation:undo()
  if is_last(self, "assistant") then table.remove(self.said) end
  return is_last(self, "user") and table.remove(self.said).content or nil
end

--- Nothing has been said but what is the system's.
function conversation:reset() self.said = {} end

--- A copy of the list: {role =, content =}, oldest first, without the system's.
function conversation:messages() return copy(self.said) end

local function check_path(who, path)
  if type(path) ~= "string" then misuse(who, "bad argument #1 (string expected, got %s)", type(path)) end
end

--- Into a file, whole or not at all -> true | nil, message, code
function conversation:save(path)
  check_path("conversation:save", path)
  local half = path .. ".part"
  local file, message = io.open(half, "wb")
  if not file then return nil, message, "IO" end
  local object = {system = self.fields.system, messages = json.array(copy(self.said))}
  local ok
  ok, message = file:write(json.encode(object), "\n")
  if ok then ok, message = file:close() else file:close() end
  if ok then ok, message = os.rename(half, path) end
  if ok then return true end
  os.remove(half)
  return nil, message, "IO"
end

local function check(object)
  if type(object) ~= "table" or type(object.messages) ~= "table" then return "has no list of messages" end
  if object.system ~= nil and type(object.system) ~= "string" then return "system: string expected" end
  for i, message in ipairs(object.messages) do
    if type(message) ~= "table" or type(message.role) ~= "string" or message.content == nil then
      return ("messages[%d]: {role, content} expected"):format(i)
    end
  end
end

--- What save has written, in place of what has been said -> self | nil, message, code: then nothing has changed.
function conversation:load(path)
  check_path("conversation:load", path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message, "IO" end
  local words = file:read "*a"
  file:close()
  local object
  object, message = json.decode(words or "")
  message = object == nil and message or check(object)
  if message then return nil, path .. ": " .. message, "FORMAT" end
  self.said, self.fields.system = copy(object.messages), object.system
  return self
end

class("conversation", conversation)

--- fields: those of model:chat that all its turns have; submit(request) -> answer, hooks | nil, message, code
return function(model, fields, submit)
  local own = {}
  for name, value in pairs(fields) do own[name] = value end
  return setmetatable({model = model, fields = own, said = {}, submit = submit}, conversation)
end
