--- What the server costs beside a real model: the same requests through HTTP and inside one process.
--
--   luajit spec/nginx/share.lua MODEL [TOKENS [STREAMS]]
dofile "spec/support/paths.lua" "build"
local fp8llm = require "fp8llm"
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"
local streams = require "spec.nginx.streams"

local dir, tokens, n = assert(arg[1], "MODEL is missing"), tonumber(arg[2]) or 64, tonumber(arg[3]) or 8
local function body(i)
  return {
    prompt = "Once upon a time number " .. i, max_tokens = tokens, ignore_eos = true, temperature = 0, stream = true,
  }
end

-- Tokens per second through HTTP; processor seconds of what serves, and of what computes.
local function through_http()
  local process = server.start("share", dir .. " --context 1024")
  local nginx = server.children(process.pid, "nginx: master")
  local workers, engine = server.children(nginx[1], ""), server.children(process.pid, "--listen")
  local function cpu()
    return server.cpu(workers, "nginx") + server.cpu(engine, "fp8%-io") + server.cpu(engine, "fp8%-worker"),
      server.cpu(engine, "fp8%-engine") + server.cpu(engine, "fp8%-compute")
  end
  local served, computed = cpu()
  local started, got, begin = 0, 0, fp8llm.clock()
  streams.run(process.port, n, function()
    started = started + 1
    return http.request("POST", "/v1/completions", json.encode(body(started)), {Connection = "close"}), {}
  end, function() end, function(_, text)
    if text:find("data: [DONE]", 1, true) then got = got + tokens end
  end, function() return started < n end)
  local took = fp8llm.clock() - begin
  local served_after, computed_after = cpu()
  server.stop(process)
  return got / took, served_after - served, computed_after - computed
end

local function in_process()
  local model = assert(fp8llm.load(dir, {threads = 1, context = 1024, kv_tokens = 4096}))
  local engine = assert(model:engine {})
  local begin, requests = fp8llm.clock(), {}
  for i = 1, n do
    local request = body(i)
    request.stream = nil
    requests[i] = assert(engine:submit(request))
  end
  for i = 1, n do assert(requests[i]:result()) end
  local took = fp8llm.clock() - begin
  engine:close()
  model:close()
  return n * tokens / took
end

local best_http, best_alone, served, computed = 0, 0, 0, 0
for _ = 1, 3 do
  local rate, s, c = through_http()
  best_http, served, computed = math.max(best_http, rate), served + s, computed + c
  best_alone = math.max(best_alone, in_process())
end
local share = served / (served + computed)
print(string.format("# %d streams of %d tokens: %.1f tokens/s through HTTP, %.1f in one process (best of 3); " ..
  "serving took %.2f %% of the processor time, %.1f us a token", n, tokens, best_http, best_alone, 100 * share,
  served / (3 * n * tokens) * 1e6))
server.report {{share < 0.05, "serving takes less than 5 % of the processor time"}}
