--- What other APIs of chats have in common when they are made of OpenAI's chat completions: members of a request are
-- carried over as the JSON text that they are, and a refusal names what the client wrote.
local json = require "fp8llm.json"
local scan = require "fp8llm.body"

local translation = {}
translation.__index = translation

-- Of names and kinds, which are short; longer ones are nothing that is known here.
local short = 256

--- A request to translate. text: its JSON text; names: {their name of a member = that of a chat's member}, for those
-- that only differ in name. -> translation with members {name = JSON text} | nil, message
function translation.new(text, names)
  local work = scan.work()
  local members, last = scan.members(text, nil, work)
  if not members then return nil, "body: " .. last end
  if not text:find("^}%s*$", last) then return nil, "body: not valid JSON" end
  for name, value in pairs(members) do
    if value == "null" then members[name] = nil end
  end
  return setmetatable({
    work = work, members = members, names = names, messages = {}, places = {}, out = {}, rest = {},
  }, translation)
end

--- The members of an object, and the items of a list, nil of anything else.
function translation:object(text) return scan.members(text or "", nil, self.work) end
function translation:list(text) return scan.items(text or "", nil, self.work) end

--- A short string | nil, of anything else.
function translation.word(text)
  local value = scan.value(text, short)
  return type(value) == "string" and value or nil
end

--- A message more of the chat: JSON text. place: what the client calls it.
function translation:message(place, text)
  self.messages[#self.messages + 1], self.places[#self.places + 1] = text, place
end

--- Set a member of the chat's request: JSON text.
function translation:set(name, text) self.out[name] = text end

-- A member that the chat's request has for those that mean nothing there: the engine reads all of it, and so refuses
-- what is not JSON, before an answer repeats it.
local rest_name = "not_of_a_chat"

--- Carry over all members but those in `own`, {name = true}, of which the ones in `names` go under their new name.
function translation:carry(own)
  for name, value in pairs(self.members) do
    if not own[name] and name ~= rest_name then
      self:set(name, value)
    elseif not self.names[name] and name ~= "messages" then
      self.rest[#self.rest + 1] = value
    end
  end
  for theirs, ours in pairs(self.names) do
    if self.members[theirs] then self:set(ours, self.members[theirs]) end -- `messages` is set anew by body
  end
end

--- The chat's request: JSON text.
function translation:body()
  self:set("messages", "[" .. table.concat(self.messages, ",") .. "]")
  if self.rest[1] then self:set(rest_name, "[" .. table.concat(self.rest, ",") .. "]") end
  local parts = {}
  for name, value in pairs(self.out) do parts[#parts + 1] = json.encode(name) .. ":" .. value end
  return "{" .. table.concat(parts, ",") .. "}"
end

--- A refusal of the chat in the words of the client.
function translation:refusal(refusal)
  local theirs = {}
  for name, ours in pairs(self.names) do theirs[ours] = name end
  local message = refusal.message:gsub("^messages%[(%d+)%]", function(i) return self.places[i + 1] end)
  return {
    code = refusal.code, retry_after = refusal.retry_after, param = theirs[refusal.param] or refusal.param,
    message = (message:gsub("^[%a_]+", theirs)),
  }
end

return translation
