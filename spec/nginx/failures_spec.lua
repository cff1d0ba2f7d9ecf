-- What goes wrong between a client and an engine: everybody may leave, crash, lag or be replaced at any time.
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"
local socket = require "socket"

local shell, await = server.shell, server.await
local model = server.model("paced", "vocab=266 layers=1 hidden=32 ffn=32 heads=2 kv_heads=1 context=4096")
  .. " --served-model-name tiny --kv-tokens 400000"
local path = "/v1/completions"

local function body_of(tokens, more)
  local body = {prompt = "a", max_tokens = tokens, ignore_eos = true, stream = true}
  for key, value in pairs(more or {}) do body[key] = value end
  return json.encode(body)
end

-- A stream whose head has been read.
local function open_stream(port, tokens, more)
  local c = http.connect(port)
  c:send(http.request("POST", path, body_of(tokens, more)))
  local head = http.head(c)
  assert.equal(200, head and head.status)
  return c
end

-- Read to the end: number of tokens, how it ended ("DONE", "error" or "cut").
local function drain(c)
  local text, tokens = {}, 0
  local whole
  for piece in function()
    local got, ended = http.chunk(c)
    whole = ended
    return got
  end do text[#text + 1] = piece end
  c:close()
  text = table.concat(text)
  for times in text:gmatch '"text":"([%d ]*)"' do tokens = tokens + select(2, times:gsub("%d+", "")) end
  if text:find('data: {"error"', 1, true) then return tokens, "error" end
  return tokens, whole ~= false and text:find("data: [DONE]", 1, true) and "DONE" or "cut"
end

describe("an engine and nginx, each with its own life", function()
  local engine, nginx, port

  setup(function()
    engine = server.engine("engine", model .. " --max-running 64 --max-queued 40", server.paced)
    nginx = server.nginx("front", engine.path)
    port = nginx.port
    server.ready(nginx)
  end)
  teardown(function()
    assert.equal(0, server.stop(nginx, "QUIT"))
    assert.equal(0, server.stop(engine))
  end)

  local function stats() return server.stats(engine.path) end
  local function idle() return stats().generations == 0 and stats().running == 0 end

  -- Seconds until nothing runs any more.
  local function seconds_to_idle()
    local start = socket.gettime()
    await("idle engine", idle, 5)
    return socket.gettime() - start
  end

  it("frees the slot of a client that leaves, at every phase", function()
    local phases = {
      ["before its body is there"] = function()
        local c = http.connect(port)
        c:send("POST " .. path .. " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"prompt")
        return c
      end,
      ["as soon as it has asked"] = function()
        local c = http.connect(port)
        c:send(http.request("POST", path, body_of(4000)))
        return c
      end,
      ["while its prompt of many tokens is computed"] = function()
        local c = http.connect(port)
        c:send(http.request("POST", path, body_of(100, {prompt = ("x"):rep(3900)})))
        await("prefill", function() return stats().running > 0 end)
        return c
      end,
      ["while it waits for the whole answer"] = function()
        local c = http.connect(port)
        c:send(http.request("POST", path, body_of(4000, {stream = false, n = 4})))
        await("running", function() return stats().running == 4 end)
        return c
      end,
      ["in the middle of a stream"] = function()
        local c = open_stream(port, 4000, {n = 4})
        for _ = 1, 10 do assert(http.chunk(c)) end
        return c
      end,
    }
    for name, begin in pairs(phases) do
      local c = begin()
      c:close()
      local took = seconds_to_idle()
      assert.is_true(took < 0.5, name .. ": " .. took)
    end
  end)

  it("frees them also when the body is larger than a header's buffer", function()
    for _, size in ipairs {10, 900, 3000, 20000, 200000} do
      local c = http.connect(port)
      c:send(http.request("POST", path, body_of(4000, {stream = false, user = ("u"):rep(size)})))
      await("running", function() return stats().running == 1 end)
      c:close()
      assert.is_true(seconds_to_idle() < 0.5, size)
    end
  end)

  it("loses no stream of 32 in a reload of nginx", function()
    local streams = {}
    for i = 1, 32 do streams[i] = open_stream(port, 300) end
    shell("kill -HUP " .. nginx.pid)
    await("new workers", function() return http.ask(port, "GET", "/health") == 200 end)
    for i = 1, 32 do
      local tokens, ending = drain(streams[i])
      assert.same({300, "DONE"}, {tokens, ending})
    end
  end)

  it("a worker that is killed takes only its own streams along", function()
    await("the old workers' end", function() return #server.children(nginx.pid, "worker process") == 2 end)
    local streams = {}
    for i = 1, 32 do streams[i] = open_stream(port, 300) end
    shell("kill -9 " .. server.children(nginx.pid, "worker process")[1])
    await("the killed worker's slots", function() return stats().generations < 32 end, 1)
    socket.sleep(0.2)
    local alive = stats().generations
    local complete = 0
    for i = 1, 32 do
      local tokens, ending = drain(streams[i])
      if ending == "DONE" then complete = complete + 1 end
      assert.equal(ending == "DONE", tokens == 300)
    end
    assert.equal(alive, complete)
    await("another worker", function() return #server.children(nginx.pid, "worker process") == 2 end)
    assert.equal(200, (http.ask(port, "POST", path, body_of(1))))
    assert.is_true(idle())
  end)

  it("tells everybody when the engine is killed, and goes on with a new one", function()
    local streams = {}
    for i = 1, 8 do streams[i] = open_stream(port, 4000) end
    local waiting = http.connect(port)
    waiting:send(http.request("POST", path, body_of(4000, {stream = false})))
    await("running", function() return stats().generations == 9 end)
    assert.equal(137, server.stop(engine, "KILL"))
    for i = 1, 8 do
      local _, ending = drain(streams[i])
      assert.equal("error", ending)
    end
    assert.equal(503, http.head(waiting).status)
    waiting:close()
    local status, text, headers = http.ask(port, "POST", path, body_of(1))
    assert.equal(503, status)
    assert.equal("1", headers["retry-after"])
    assert.equal("unavailable_error", json.decode(text).error.type)
    assert.equal(503, (http.ask(port, "GET", "/health")))
    assert.truthy(select(2, http.ask(port, "GET", "/metrics")):find('fp8llm_up{model="tiny"} 0', 1, true))
    engine = server.engine("engine", model .. " --max-running 64 --max-queued 40", server.paced)
    for _ = 1, 4 do assert.equal(200, (http.ask(port, "POST", path, body_of(1)))) end
    assert.equal(200, (http.ask(port, "GET", "/health")))
  end)

  it("a new engine takes over while the old one finishes its streams", function()
    local old, streams = engine, {}
    for i = 1, 8 do streams[i] = open_stream(port, 400) end
    shell("cp " .. engine.log .. " " .. engine.log .. ".old")
    engine = server.engine("engine2", model .. " --max-running 64 --max-queued 40", server.paced)
    shell(string.format("mv %s %s", engine.path, old.path))
    engine.path = old.path
    shell("kill -TERM " .. old.pid)
    assert.equal(200, (http.ask(port, "POST", path, body_of(1))))
    for i = 1, 8 do
      local tokens, ending = drain(streams[i])
      assert.same({400, "DONE"}, {tokens, ending})
    end
    assert.equal(0, server.wait(old))
    assert.equal(200, (http.ask(port, "POST", path, body_of(1))))
  end)

  it("says come again when the queue is full", function()
    local streams = {open_stream(port, 4000, {n = 64})}
    await("running", function() return stats().running == 64 end)
    for i = 2, 41 do
      streams[i] = http.connect(port)
      streams[i]:send(http.request("POST", path, body_of(10)))
    end
    await("a full queue", function() return stats().queued == 40 end)
    local status, text, headers = http.ask(port, "POST", path, body_of(1))
    assert.equal(429, status)
    assert.equal("1", headers["retry-after"])
    assert.truthy(json.decode(text).error.message:find "queue")
    for i = 1, 41 do streams[i]:close() end
    seconds_to_idle()
  end)

  it("does not hoard what slow readers leave", function()
    local pids = server.children(nginx.pid, "worker process")
    pids[#pids + 1] = engine.pid
    local before, streams = server.memory(pids), {}
    for i = 1, 2 do streams[i] = open_stream(port, 4000, {n = 16, logprobs = 5}) end
    socket.sleep(2)
    local grown = server.memory(pids) - before
    assert.is_true(grown < 64 * 1024, grown .. " KiB")
    assert.equal(200, (http.ask(port, "POST", path, body_of(1))))
    assert.equal(32, stats().running)
    for i = 1, 2 do streams[i]:close() end
    seconds_to_idle()
  end)

  it("keeps silent streams alive, and ends them when their time is over", function()
    local impatient = server.nginx("impatient", engine.path, {timeout = 1, keep_alive = 0.2})
    server.ready(impatient)
    local running = open_stream(port, 4000, {n = 64}) -- the others wait for a slot
    await("running", function() return stats().running == 64 end)
    local waiting = open_stream(impatient.port, 10)
    local text = ""
    for piece in function() return (http.chunk(waiting)) end do text = text .. piece end
    waiting:close()
    assert.truthy(text:find(": keep-alive\n\n", 1, true))
    assert.truthy(text:find("timeout: no end within 1 s", 1, true))
    assert.equal("data: [DONE]\n\n", text:sub(-14))
    local status, whole = http.ask(impatient.port, "POST", path, body_of(10, {stream = false}))
    assert.equal(504, status)
    assert.truthy(whole:find "timeout")
    running:close()
    local tokens, ending = drain(open_stream(impatient.port, 1000)) -- not silent, but too long
    assert.equal("error", ending)
    assert.is_true(tokens > 10)
    assert.equal(0, server.stop(impatient, "QUIT"))
    seconds_to_idle()
  end)

  it("takes no more of bodies at a time than its bound", function()
    local bound = server.nginx("bound", engine.path, {workers = 1, max_waiting_bytes = 2 ^ 20})
    server.ready(bound)
    local function body(n) return '{"max_tokens":1,"prompt":"a"' .. (" "):rep(n - 29) .. "}" end
    local half = http.connect(bound.port)
    assert(half:send((http.request("POST", path, body(400000)):sub(1, 300000))))
    socket.sleep(0.1)
    local status, text, headers = http.ask(bound.port, "POST", path, body(700000))
    assert.equal(503, status)
    assert.equal("1", headers["retry-after"])
    assert.equal("body: 700000 bytes, and 400000 of other bodies wait, limit 1048576; come again",
      json.decode(text).error.message)
    assert.equal(200, (http.ask(bound.port, "POST", path, body(600000))))
    assert.equal(200, (http.ask(bound.port, "POST", path, body(1000))))
    half:close()
    await("the end of the half-sent body", function()
      return http.ask(bound.port, "POST", path, body(700000)) == 200
    end)
    assert.equal(200, (http.ask(bound.port, "POST", path, body(2000000)))) -- alone, any body that nginx takes
    assert.equal(0, server.stop(bound, "QUIT"))
  end)

  it("gives an engine up that takes requests and is silent", function()
    local impatient = server.nginx("impatient", engine.path, {timeout = 1, keep_alive = 0.2})
    server.ready(impatient)
    shell("kill -STOP " .. engine.pid)
    local answers = {}
    for _ = 1, 2 do -- on a connection that is there, and on a new one
      answers[#answers + 1] = {http.ask(impatient.port, "GET", "/health")}
      answers[#answers + 1] = {http.ask(impatient.port, "POST", path, body_of(1))}
    end
    shell("kill -CONT " .. engine.pid)
    for i = 1, 4 do
      local status, text, headers = answers[i][1], answers[i][2], answers[i][3]
      assert.equal(503, status)
      assert.equal("1", headers["retry-after"])
      assert.truthy(text:find("no answer within 1 s", 1, true))
    end
    assert.equal(200, (http.ask(port, "POST", path, body_of(1))))
    assert.equal(0, server.stop(impatient, "QUIT"))
    seconds_to_idle()
  end)

  it("sleeps when there is nothing to do", function()
    local function switches()
      local n = 0
      local pids = server.children(nginx.pid, "worker process")
      pids[#pids + 1] = engine.pid
      for _, pid in ipairs(pids) do
        for text in shell("cat /proc/" .. pid .. "/task/*/status"):gmatch "ctxt_switches:%s*(%d+)" do
          n = n + tonumber(text)
        end
      end
      return n
    end
    socket.sleep(0.3)
    local before = switches()
    socket.sleep(2)
    assert.equal(before, switches())
  end)
end)

describe("the command", function()
  local function status_of(words, options)
    local process = server.start("command", words, {loading = true, command = options and options.command})
    return server.wait(process, 20), server.read(process.log), process
  end

  it("ends with 1 when a model cannot be loaded", function()
    local status, said = status_of "build/spec/nothing-here"
    assert.equal(1, status)
    assert.truthy(said:find "nothing%-here")
  end)

  it("ends with 1 when the engine cannot start, and leaves no nginx", function()
    shell("mkdir -p build/spec/broken && cp " .. server.model "tiny" .. "/config.json build/spec/broken")
    local status, said, process = status_of "build/spec/broken"
    assert.equal(1, status)
    assert.truthy(said:find "the engine of broken ended with status 1")
    assert.equal(nil, (socket.connect("127.0.0.1", process.port)))
  end)

  it("ends with 2 when called wrongly", function()
    assert.equal(2, (status_of "--model nonsense"))
    assert.equal(2, (status_of "x --listen /no/prefix"))
    local tiny = server.model "tiny"
    for option, word in pairs {port = "65536", host = "'a;b'", timeout = "0", drain = "-1"} do
      local status, said = status_of(tiny .. " --" .. option .. " " .. word)
      assert.equal(2, status)
      assert.truthy(said:find("--" .. option, 1, true), said)
    end
    local status, said = status_of(tiny .. " --api-keys build/spec/no-keys")
    assert.equal(1, status)
    assert.truthy(said:find "build/spec/no%-keys")
  end)

  it("takes any directory to run in, and the interfaces of IPv6", function()
    local run, port = "build/spec/nginx/a b{c", server.port()
    local probe = socket.bind("::1", 0) -- not every machine has it
    local host, shown = probe and "::1" or "127.0.0.1", probe and "[::1]" or "127.0.0.1"
    if probe then probe:close() end
    local command = "build/fp8llm serve %s --port %d --host %s --run-dir '%s' --threads 1"
    local process = server.spawn("odd", command:format(server.model "tiny", port, host, run))
    local answer = server.await("health of " .. server.read(process.log), function()
      local sock = socket.connect(host, port)
      if not sock then return nil end
      sock:send "GET /health HTTP/1.0\r\n\r\n"
      local text = sock:receive "*a"
      sock:close()
      return text and text:find("200 OK", 1, true) and text
    end)
    assert.truthy(answer:find('"ok"', 1, true))
    assert.truthy(server.read(process.log):find("ready: http://" .. shown .. ":" .. port, 1, true))
    assert.equal(0, server.stop(process))
  end)

  it("ends with 1 when nginx dies, or the engine", function()
    for _, part in ipairs {"nginx: master", "--listen"} do
      local process = server.start("command", server.model "tiny")
      shell("kill -9 " .. server.children(process.pid, part)[1])
      assert.equal(1, server.wait(process, 20))
      assert.equal(nil, (socket.connect("127.0.0.1", process.port))) -- not even by a worker of nginx
    end
  end)

  it("says that it is ready, and ends with 1 before it loads anything when the port is taken", function()
    local process = server.start("command", server.model "tiny")
    assert.truthy(server.read(process.log):find(
      "^loading; files in [^\n]+\n.*ready: http://127.0.0.1:" .. process.port .. ", model tiny\n"))
    local second = server.spawn("second", string.format("build/fp8llm serve %s --port %d --run-dir %s",
      server.model "tiny", process.port, "build/spec/second.run"))
    assert.equal(1, server.wait(second, 20))
    local said = server.read(second.log)
    assert.truthy(said:find("127.0.0.1 port " .. process.port .. ": Address already in use", 1, true), said)
    assert.equal(nil, said:find "loading")
    assert.equal(0, server.stop(process))
    local status
    status, said = status_of(server.model "tiny" .. " --host no.such.name.invalid")
    assert.equal(1, status)
    assert.truthy(said:find "no.such.name.invalid port %d+: ", said)
  end)

  it("leaves nothing running when it is killed itself", function()
    local process = server.start("command", server.model "tiny")
    local nginx = server.children(process.pid, "nginx: master")[1]
    local engine = server.children(process.pid, "--listen")[1]
    assert.equal(137, server.stop(process, "KILL"))
    await("the end of nginx", function() return not server.alive(nginx) end)
    await("the end of the engine", function() return not server.alive(engine) end)
  end)

  it("is unhealthy while the model is loaded", function()
    local process = server.start("command", server.model "tiny", {loading = true})
    local seen = await("an answer", function()
      local connected, status, _, headers = pcall(http.ask, process.port, "GET", "/health")
      return connected and status and {status, headers["retry-after"]}
    end)
    if seen[1] ~= 200 then assert.same({503, "1"}, seen) end
    server.ready(process)
    assert.equal(0, server.stop(process, "INT"))
  end)
end)
