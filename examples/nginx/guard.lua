-- Before a chat is answered, the model itself is asked whether its last message belongs here. An operator's policy,
-- yes_no.lua, leaves it no other answers than yes and no. guard.conf shows how to use it.
local json = require "fp8llm.json"
local scan = require "fp8llm.body"
local server = require "resty.fp8llm.server"

local guard = {}

-- Longer messages are not let in.
local most = 65536

-- Content is a text, or a list of parts, which are texts or hold one.
local function text_of(content)
  if type(content) ~= "table" then return tostring(content or "") end
  local texts = {}
  for _, part in ipairs(content) do
    if type(part) == "table" then part = part.text end
    texts[#texts + 1] = type(part) == "string" and part or nil
  end
  return table.concat(texts, "\n")
end

-- The last of the body's messages, found without reading all of it -> text | nil: the server will say what is wrong.
local function last_message(body)
  local members, trouble = scan.members(body, {"messages"})
  local last
  if members and members.messages then last, trouble = scan.last(members.messages) end
  if trouble and trouble:find "^more" then
    return server.refuse {code = "ARG", param = "messages", message = "messages: " .. trouble}
  end
  if not last then return nil end
  local message, why = scan.value(last, most)
  if why and why:find "^longer" then
    return server.refuse {code = "ARG", param = "messages", message = "messages: the last is " .. why}
  end
  local content = type(message) == "table" and message.content
  return text_of(content ~= json.null and content or "")
end

--- access_by_lua; options: engine, question, and otherwise: what a client is told whose message is not let in.
function guard.access(options)
  server.access()
  local generation = server.generation()
  if not generation then return end -- no generation
  if generation.kind ~= "chat" then return server.refuse {code = "ARG", message = "path: chats only"} end
  local text = last_message(generation.body)
  if not text then return end
  local stream, refusal = options.engine:chat({
    policy = "yes_no",
    messages = {{role = "user", content = options.question .. "\n\n" .. text}},
  }, ngx.ctx.key)
  if not stream then return server.refuse(refusal) end
  local answer
  for event in stream:events() do
    if event.error then return server.refuse(event.error) end
    answer = event.d
  end
  if answer ~= "yes" then
    return server.refuse {code = "ARG", param = "messages", message = "messages: " .. options.otherwise}
  end
end

return guard
