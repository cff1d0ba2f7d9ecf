--- Hours in minutes: 16 streams of all kinds with clients that leave when they like; memory must stay flat and no
-- page of the KV pool may be lost. (A worker grows by steps for a while: LuaJIT's allocator keeps what its largest
-- moment took.)
--
--   luajit spec/nginx/soak.lua SECONDS [SEED]
dofile "spec/support/paths.lua" "build"
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"
local socket = require "socket"
local streams = require "spec.nginx.streams"

local seconds, random = tonumber(arg[1]) or 60, math.random
math.randomseed(tonumber(arg[2]) or 1)
local dir = server.model("soak", "vocab=266 layers=1 hidden=32 ffn=32 heads=2 kv_heads=1 context=2048")
local process = server.start("soak", dir .. " --kv-tokens 12000 --max-running 24")
local pids = server.children(process.pid, "")
for _, worker in ipairs(server.children(server.children(process.pid, "nginx: master")[1], "")) do
  pids[#pids + 1] = worker
end
local engine = process.run .. "/engine-1.sock"

local counts = {ended = 0, aborted = 0, wrong = 0}
local prefix = ("the same beginning of many prompts "):rep(8)

local function start()
  local stream, chat = random(4) > 1, random(3) == 1
  local text = (random(2) == 1 and prefix or "") .. ("x"):rep(random(200))
  local body = {
    stream = stream, max_tokens = random(300), n = random(6) == 1 and random(4) or 1, ignore_eos = random(2) == 1,
    logprobs = random(5) == 1 and not chat and 2 or nil, stop = random(5) == 1 and "ab" or nil,
    echo = random(8) == 1 and not chat or nil, temperature = random(), top_p = 0.9,
  }
  if chat then body.messages = {{role = "user", content = text}} else body.prompt = text end
  local path = chat and "/v1/chat/completions" or "/v1/completions"
  return http.request("POST", path, json.encode(body), {Connection = "close"}),
    {stream = stream, leave = random(3) == 1 and random(30000)}
end

local function on_data(about, bytes)
  about.bytes = (about.bytes or 0) + #bytes
  if about.leave and about.bytes > about.leave then return "abort" end
end

local function on_end(about, text, ended)
  counts[ended] = counts[ended] + 1
  if ended == "aborted" then return end
  local status = tonumber(text:match "^HTTP/1.1 (%d+)")
  local whole = not about.stream or text:find("data: [DONE]", 1, true)
  if status == 200 and whole and not text:find('"error"', 1, true) then return end
  counts.wrong = counts.wrong + 1
  if counts.wrong < 5 then print("# " .. text:sub(1, 500)) end
end

local begin, warm = socket.gettime(), nil
streams.run(process.port, 16, start, on_data, on_end, function()
  local now = socket.gettime() - begin
  if not warm and now > math.min(seconds / 3, 60) then warm = server.memory(pids) end
  return now < seconds
end)
local memory = server.memory(pids)
local stats = server.await("idle engine", function()
  local s = server.stats(engine)
  return s.generations == 0 and s.running == 0 and s
end)
print(string.format("# %d requests, %d left early, %d preemptions, %d tokens; memory %d KiB, then %d KiB",
  counts.ended + counts.aborted, counts.aborted, stats.preemptions, stats.output_tokens, warm, memory))
server.report {
  {counts.wrong == 0, counts.ended .. " requests whose clients stayed were answered whole"},
  {counts.aborted > 0, counts.aborted .. " clients left"},
  {memory - warm < 4096 + warm / 10, "memory stays flat"},
  {stats.kv_pages_used == 0, "no page is lost: " .. stats.kv_pages_used .. " of " .. stats.kv_pages .. " in use"},
  {server.stop(process) == 0, "the server ends as it should"},
}
