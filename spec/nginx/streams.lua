--- Many requests at a time, in one loop over their connections.
local http = require "spec.nginx.http"
local socket = require "socket"

local streams = {}

--- Keep `n` requests going until more() says no. start() -> the bytes of a request, which must ask to close the
-- connection after it, and a table about it; on_data(about, bytes) may return "abort"; on_end(about, text) gets all
-- that came, aborted or not.
function streams.run(port, n, start, on_data, on_end, more)
  local open, list = {}, {}
  local function finish(sock, ended)
    local r = open[sock]
    open[sock] = nil
    for i, s in ipairs(list) do
      if s == sock then table.remove(list, i) break end
    end
    sock:close()
    on_end(r.about, table.concat(r.pieces), ended)
  end
  local function begin()
    local request, about = start()
    local c = http.connect(port)
    c:send(request)
    c.sock:settimeout(0)
    open[c.sock] = {about = about, pieces = {}}
    list[#list + 1] = c.sock
  end
  while true do
    while #list < n and more() do begin() end
    if #list == 0 then return end
    for _, sock in ipairs((socket.select(list, nil, 1))) do
      local r = open[sock]
      local got, trouble, part = sock:receive(65536)
      got = got or part
      if got ~= "" then
        r.pieces[#r.pieces + 1] = got
        if on_data(r.about, got) == "abort" then finish(sock, "aborted") end
      end
      if trouble == "closed" and open[sock] then finish(sock, "ended") end
    end
  end
end

return streams
