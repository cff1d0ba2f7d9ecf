-- Before a chat is answered, the model itself is asked whether its last message belongs here. An operator's policy,
-- yes_no.lua, leaves it no other answers than yes and no. guard.conf shows how to use it.
local json = require "fp8llm.json"
local server = require "resty.fp8llm.server"

local guard = {}

-- Content is a text, or a list of parts.
local function text_of(message)
  local content = type(message) == "table" and message.content
  if type(content) ~= "table" then return tostring(content or "") end
  local texts = {}
  for _, part in ipairs(content) do texts[#texts + 1] = type(part) == "table" and part.text or nil end
  return table.concat(texts, "\n")
end

--- access_by_lua; options: engine, question, and otherwise: what a client is told whose message is not let in.
function guard.access(options)
  server.access()
  local request = json.decode(server.body() or "")
  local messages = type(request) == "table" and request.messages
  if type(messages) ~= "table" or not messages[1] then return end -- the server will say what is wrong with it
  local stream, refusal = options.engine:chat({
    policy = "yes_no",
    messages = {{role = "user", content = options.question .. "\n\n" .. text_of(messages[#messages])}},
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
