--- The tests' HTTP client: slow, rude or broken on purpose where they want it.
local socket = require "socket"

local http = {patience = 20} -- seconds of silence after which reads give up

local connection = {}
connection.__index = connection
function connection:send(text) return self.sock:send(text) end
function connection:line() return self.sock:receive "*l" end
function connection:bytes(n) return self.sock:receive(n) end
function connection:close() self.sock:close() end

--- A connection; its reads give up after http.patience seconds of silence.
function http.connect(port)
  local sock = assert(socket.connect("127.0.0.1", port))
  sock:settimeout(http.patience)
  return setmetatable({sock = sock}, connection)
end

--- The bytes of a request.
function http.request(method, path, body, headers)
  local lines = {method .. " " .. path .. " HTTP/1.1"}
  if not (headers and headers.Host) then lines[2] = "Host: localhost" end
  for name, value in pairs(headers or {}) do lines[#lines + 1] = name .. ": " .. value end
  if body and not (headers and headers["Content-Type"]) then lines[#lines + 1] = "Content-Type: application/json" end
  if body then lines[#lines + 1] = "Content-Length: " .. #body end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. (body or "")
end

--- The head of the answer: {status =, headers = {lower case = value}} | nil when the connection ended.
function http.head(c)
  local line = c:line()
  if not line then return nil end
  local head = {status = tonumber(line:match "^HTTP/1.1 (%d+)"), headers = {}}
  for text in function() return c:line() end do
    if text == "" then return head end
    local name, value = text:match "^([^:]+):%s*(.*)$"
    head.headers[name:lower()] = value
  end
end

--- The next piece of a chunked body | nil at its end or when the connection ended: then also false.
function http.chunk(c)
  local size = c:line()
  if not size then return nil, false end
  local n = tonumber(size, 16)
  local piece = c:bytes(n)
  c:line()
  if n == 0 or not piece then return nil, n == 0 end
  return piece
end

--- The whole body of an answer with this head.
function http.body(c, head)
  local length = tonumber(head.headers["content-length"])
  if length then return c:bytes(length) end
  local pieces = {}
  for piece in function() return (http.chunk(c)) end do pieces[#pieces + 1] = piece end
  return table.concat(pieces)
end

--- One request on a connection of its own -> status, body, headers.
function http.ask(port, method, path, body, headers)
  local c = http.connect(port)
  c:send(http.request(method, path, body, headers))
  local head = http.head(c)
  if not head then
    c:close()
    return nil
  end
  local text = method ~= "HEAD" and head.status ~= 204 and http.body(c, head) or ""
  c:close()
  return head.status, text, head.headers
end

return http
