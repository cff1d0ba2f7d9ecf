-- A client in plain Lua: asks a server (fp8llm serve) over HTTP and writes the answer as it comes. Needs LuaSocket.
--     luajit examples/client.lua [URL] [QUESTION]
local http, ltn12 = require "socket.http", require "ltn12"
local json = require "fp8llm.json"

local url = arg[1] or "http://127.0.0.1:8000"
local body = json.encode {
  messages = {{role = "user", content = arg[2] or "What is the capital of France?"}},
  stream = true, temperature = 0, max_tokens = 200,
}

-- A line of the answer: an event, "data: {...}"; nothing; or, when the request is refused, {"error": {...}}.
local function on_line(line)
  local text = line:match "^data: (.*)" or line
  local object = text:find "^{" and json.decode(text)
  if not object then return end
  if object.error then error(object.error.message, 0) end
  for _, choice in ipairs(object.choices) do io.write(choice.delta.content or "") end
  io.flush()
end

-- Lines come in pieces of any length.
local rest = ""
local function sink(piece)
  rest = rest .. (piece or "")
  rest = rest:gsub("([^\n]*)\n", function(line)
    on_line(line)
    return ""
  end)
  return true
end

assert(http.request {
  url = url .. "/v1/chat/completions", method = "POST", source = ltn12.source.string(body), sink = sink,
  headers = {["Content-Type"] = "application/json", ["Content-Length"] = #body},
})
print()
