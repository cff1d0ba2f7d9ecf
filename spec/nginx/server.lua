--- Starts and stops the programs under test: `fp8llm serve` as a user would.
local socket = require "socket"

local server = {}
local root = "build/spec/nginx" -- relative: paths of sockets are short

function server.shell(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("%s+$", ""))
end
local shell = server.shell

--- Wait until f gives something true, and return it; raises after `seconds`.
function server.await(what, f, seconds)
  local deadline = socket.gettime() + (seconds or 20)
  repeat
    local value = f()
    if value then return value end
    socket.sleep(0.005)
  until socket.gettime() > deadline
  error("timeout: " .. what, 2)
end

function server.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

function server.read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

--- A tiny model's directory.
function server.model(name, options)
  local dir = root .. "/" .. name
  shell("mkdir -p " .. root .. " && luajit spec/support/tiny_model.lua " .. dir .. " " .. (options or ""))
  return dir
end

--- A port nobody uses now.
function server.port()
  local probe = assert(socket.bind("127.0.0.1", 0))
  local _, port = probe:getsockname()
  probe:close()
  return tonumber(port)
end

--- Run a command in the background: {pid =, log = path of what it says}.
function server.spawn(name, command, environment)
  local base = root .. "/" .. name
  os.remove(base .. ".rc")
  os.remove(base .. ".pid")
  os.remove(base .. ".log") -- of the process before: the new one may be late in opening its own
  os.execute(string.format("( %s %s >%s.log 2>&1 </dev/null & echo $! >%s.pid; wait $!; echo $? >%s.rc ) " ..
    ">/dev/null 2>&1 &", environment or "", command, base, base, base))
  local pid = server.await("start of " .. name, function() return tonumber(server.read(base .. ".pid")) end)
  return {pid = pid, log = base .. ".log", rc = base .. ".rc"}
end

function server.alive(pid)
  local state = server.read("/proc/" .. pid .. "/stat"):match "%) (%a)"
  return state ~= nil and state ~= "Z"
end

--- Wait for the end of a process -> its exit status.
function server.wait(process, seconds)
  local function status() return tonumber(server.read(process.rc)) end
  return server.await("the end of " .. process.pid, status, seconds or 60)
end

--- Signal and wait for the end -> exit status.
function server.stop(process, signal)
  shell("kill -" .. (signal or "TERM") .. " " .. process.pid)
  return server.wait(process)
end

--- The command with an engine of 200 steps a second: see spec/nginx/paced.c.
server.paced = {
  environment = "LUA_CPATH=$PWD/build/spec/paced/?.so LUA_PATH=$PWD/lua/?.lua", command = "luajit lua/fp8llm/cli.lua",
}

--- Only an engine, on a socket; waits until that is there.
function server.engine(name, words, options)
  options = options or {}
  local path = root .. "/" .. name .. ".sock"
  local process = server.spawn(name, string.format("%s serve %s --listen unix:%s --threads 1",
    options.command or "build/fp8llm", words, path), options.environment)
  process.path = path
  server.await("the engine's socket " .. server.read(process.log), function()
    return server.read(process.log):find("listens on", 1, true)
  end)
  return process
end

--- Only an nginx, for the engine at `path`.
function server.nginx(name, path, options)
  local serve_nginx = require "fp8llm.serve_nginx"
  local here, port = shell "pwd", server.port()
  local run = here .. "/" .. root .. "/" .. name .. ".run"
  shell("mkdir -p " .. run)
  local user = shell "id -u" == "0" and shell "id -un" .. " " .. shell "id -gn" or nil
  local found = assert(serve_nginx.find())
  local values = {
    run = run, lua = here .. "/lua", listen = "127.0.0.1:" .. port, drain = 30, user = user, metrics = true,
    models = {{names = {"tiny"}, socket = "unix:" .. here .. "/" .. path}},
  }
  for key, value in pairs(options or {}) do values[key] = value end
  server.write(run .. "/nginx.conf", serve_nginx.configuration(found, values))
  local process = server.spawn(name, string.format("%s -e stderr -p %s -c %s/nginx.conf", found.binary, run, run))
  process.port = port
  return process
end

--- `fp8llm serve` with these words; waits until everything is loaded: {pid =, port =, run =, ...}.
function server.start(name, words, options)
  options = options or {}
  local port, run = server.port(), root .. "/" .. name .. ".run"
  local command = "%s serve %s --port %d --run-dir %s --threads 1"
  local process = server.spawn(name, command:format(options.command or "build/fp8llm", words, port, run),
    options.environment)
  process.port, process.run = port, run
  if not options.loading then server.ready(process) end
  return process
end

function server.ready(process)
  local http = require "spec.nginx.http"
  return server.await("health of " .. server.read(process.log), function()
    local connected, status = pcall(http.ask, process.port, "GET", "/health")
    return connected and status == 200
  end)
end

--- Children of a process, by a part of their command line.
function server.children(pid, part)
  local list = {}
  for child in shell("cat /proc/" .. pid .. "/task/*/children"):gmatch "%d+" do
    local command = server.read("/proc/" .. child .. "/cmdline"):gsub("%z", " ")
    if command:find(part, 1, true) then list[#list + 1] = tonumber(child) end
  end
  return list
end

--- Ask an engine directly -> its answer as it came.
function server.ask(path, op)
  local unix = require "socket.unix"()
  assert(unix:connect(path))
  unix:settimeout(10)
  unix:send('{"op":"' .. op .. '"}\n')
  local line = assert(unix:receive "*l")
  unix:close()
  return line
end

function server.stats(path) return require("fp8llm.json").decode(server.ask(path, "stats")) end

--- Resident memory of processes, in KiB; which: "VmHWM" for the most that each had.
function server.memory(pids, which)
  local pattern = (which or "VmRSS") .. ":%s*(%d+)"
  local kib = 0
  for _, pid in ipairs(pids) do
    kib = kib + (tonumber(server.read("/proc/" .. pid .. "/status"):match(pattern)) or 0)
  end
  return kib
end

--- Seconds of processor time of the threads of processes whose names match.
function server.cpu(pids, name)
  local ns = 0
  for _, pid in ipairs(pids) do
    for tid in server.shell("ls /proc/" .. pid .. "/task"):gmatch "%d+" do
      local task = "/proc/" .. pid .. "/task/" .. tid
      if server.read(task .. "/comm"):find(name) then
        ns = ns + (tonumber(server.read(task .. "/schedstat"):match "^%d+") or 0)
      end
    end
  end
  return ns * 1e-9
end

--- Print TAP for {{passed, sentence}, ...} and end the program.
function server.report(results)
  local failed = 0
  for i, r in ipairs(results) do
    print((r[1] and "ok " or "not ok ") .. i .. " - " .. r[2])
    if not r[1] then failed = failed + 1 end
  end
  print("1.." .. #results)
  os.exit(failed == 0 and 0 or 1)
end

return server
