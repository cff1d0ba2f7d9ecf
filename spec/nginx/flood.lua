--- One key floods the server with large bodies while another one streams: the stream and /health must hardly notice,
-- memory must stay bounded, and the flood is refused. The engine makes 200 tokens a second (spec/nginx/paced.c).
--
--   luajit spec/nginx/flood.lua [BODIES [MB [SECONDS]]]      (default 40 bodies of 15 MB, 20 s before it and beside it)
dofile "spec/support/paths.lua" "build"
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"
local socket = require "socket"

-- The other process: sends all bodies at once and says which statuses came, "none" for a closed connection.
if arg[1] == "send" then
  local port, bodies, mb = tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4])
  local body = '{"stream":true,"prompt":"' .. ("many words of a long text "):rep(mb * 40000) .. '"}'
  local request = http.request("POST", "/v1/completions", body,
    {Connection = "close", Authorization = "Bearer greedy"})
  local open, counts = {}, {}
  for i = 1, bodies do
    local sock = assert(socket.connect("127.0.0.1", port))
    sock:settimeout(0)
    open[i] = {sock = sock, sent = 0, said = ""}
  end
  local function finish(i)
    local status = open[i].said:match "^HTTP/1.1 (%d+)" or "none"
    counts[status] = (counts[status] or 0) + 1
    open[i].sock:close()
    table.remove(open, i)
  end
  while #open > 0 do
    local reads, writes = {}, {}
    for _, c in ipairs(open) do
      reads[#reads + 1] = c.sock
      if c.sent < #request then writes[#writes + 1] = c.sock end
    end
    local ready, room = socket.select(reads, writes, 1)
    for i = #open, 1, -1 do
      local c, ended = open[i], false
      if room[c.sock] then
        local last, trouble, part = c.sock:send(request, c.sent + 1, math.min(#request, c.sent + 262144))
        c.sent = last or part or c.sent
        if trouble == "closed" then c.sent = #request end -- refused before all was sent: the answer is there
      end
      if ready[c.sock] then
        local got, trouble, part = c.sock:receive(65536)
        c.said = c.said .. (got or part or "")
        ended = trouble == "closed"
      end
      if ended then finish(i) end
    end
  end
  io.write(json.encode(counts), "\n")
  return
end

local bodies, mb, seconds = tonumber(arg[1]) or 40, tonumber(arg[2]) or 15, tonumber(arg[3]) or 20
local dir = server.model("flood", "vocab=266 layers=1 hidden=32 ffn=32 heads=2 kv_heads=1 context=1024")
server.write("build/spec/nginx/flood.keys", "steady steady 0 0\ngreedy greedy 4 100000\n")
local process = server.start("flood", dir .. " --served-model-name tiny --kv-tokens 60000 --api-keys build/spec/nginx/"
  .. "flood.keys", server.paced)
local pids = server.children(process.pid, "")
for _, worker in ipairs(server.children(server.children(process.pid, "nginx: master")[1], "")) do
  pids[#pids + 1] = worker
end

local function open(request)
  local sock = assert(socket.connect("127.0.0.1", process.port))
  assert(sock:send(request))
  sock:settimeout(0)
  return sock
end

local stream_request = http.request("POST", "/v1/completions",
  json.encode {prompt = "a", max_tokens = 900, ignore_eos = true, stream = true, temperature = 0},
  {Connection = "close", Authorization = "Bearer steady"})
local health_request = http.request("GET", "/health", nil, {Connection = "close"})

-- The 99th percentile of the stream's gaps and of the time /health takes, in ms, and the most memory in KiB, while
-- going() is true.
local function watch(going)
  local gaps, healths, most, whole = {}, {}, 0, true
  local stream, last, health, asked = open(stream_request), nil, nil, 0
  while going() do
    local now = socket.gettime()
    if not health and now - asked > 0.005 then
      health, asked = open(health_request), now
      most = math.max(most, server.memory(pids))
    end
    for _, sock in ipairs((socket.select(health and {stream, health} or {stream}, nil, 0.05))) do
      local got, trouble, part = sock:receive(65536)
      now = socket.gettime()
      if sock == health then
        whole = whole and (got or part):find("^HTTP/1.1 200") ~= nil
        healths[#healths + 1] = (now - asked) * 1000
        health:close()
        health = nil
      elseif trouble == "closed" then
        stream:close()
        stream, last = open(stream_request), nil
      else
        if last then gaps[#gaps + 1] = (now - last) * 1000 end
        last = now
      end
    end
  end
  stream:close()
  if health then health:close() end
  table.sort(gaps)
  table.sort(healths)
  local function p99(list) return list[math.max(1, math.ceil(#list * 0.99))] or 0 end
  return {gap = p99(gaps), health = p99(healths), worst = gaps[#gaps], memory = most, whole = whole, n = #gaps}
end

local function for_seconds()
  local deadline = socket.gettime() + seconds
  return function() return socket.gettime() < deadline end
end

local before = watch(for_seconds())
local send = "luajit spec/nginx/flood.lua send %d %d %g"
local sender = server.spawn("flood-sender", send:format(process.port, bodies, mb))
local least = for_seconds()
local beside = watch(function() return least() or server.alive(sender.pid) end)
local counts = json.decode(server.read(sender.log)) or {}
local after = watch(for_seconds())
local statuses = {}
local refused, others = 0, 0
for status, n in pairs(counts) do
  statuses[#statuses + 1] = status .. ": " .. n
  if status == "429" or status == "503" or status == "400" or status == "413" then refused = refused + n
  else others = others + n end
end
table.sort(statuses)
for name, w in pairs {before = before, beside = beside, after = after} do
  print(("# %-6s gap p99 %.2f ms (worst %.1f, %d tokens), /health p99 %.2f ms, memory %d MiB"):format(name, w.gap,
    w.worst or 0, w.n, w.health, w.memory / 1024))
end
print("# the flood: " .. table.concat(statuses, ", "))
-- On a machine that is busy with other things a short run also passes.
local times = seconds >= 20 and 3 or 30
server.report {
  {beside.gap <= times * before.gap, ("the stream's gaps are within %d times"):format(times)},
  {beside.health <= times * before.health, ("/health takes at most %d times as long"):format(times)},
  {beside.whole and before.whole and after.whole, "/health answers 200"},
  {refused == bodies and others == 0, "each body of the flood is refused with a status"},
  {beside.memory < 1.2 * 2 ^ 20, "engine and nginx have less than 1.2 GiB"},
  {after.gap <= times * before.gap, "afterwards all is as before"},
  {server.stop(process) == 0, "the server ends as it should"},
}
