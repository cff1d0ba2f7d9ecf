local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local serve_engine = require "fp8llm.serve_engine"
local serve_nginx = require "fp8llm.serve_nginx"
local must = common.must

local M = {
  summary = "serve models over HTTP, as the OpenAI API, or to nginx",
  usage = "serve MODEL [--port 8000] | serve --model NAME=MODEL ... | serve MODEL --listen unix:PATH",
  text = [[
Starts an engine for each model and an nginx in front of them, and stops both on SIGTERM and SIGINT: status 0.
When one of them ends by itself, so does the rest: status 1.

With --listen only the engine, on a unix socket, for an nginx of yours (examples/nginx) and
lua/resty/fp8llm.lua. The socket appears when the model is loaded; one on which a process listens is never
replaced. To take over without a pause, start on another path and rename the socket.

On a loopback address, requests must name it as their Host (localhost, 127.0.0.1, [::1]) or a --allowed-host:
a web page whose name is made to lead here does not. Started by root, nginx's workers run as www-data or nobody.

--api-keys: a file with one "key name max_running tokens_per_minute" a line; 0 is no limit. max_running counts
completions: n of each prompt of a request. Keys take turns, whatever priority their requests have. A line that ends in
parse_special=off is of a key whose prompts hold no special tokens: they are read as text.
--policy: MODULE, a file X.lua or an installed module, returns a function that gets each step of a request that
chose NAME, see step in meta.lua, and the model.]],
  options = common.join({
    {"port", "integer", "N", "where HTTP clients connect (default 8000)", min = 1, max = 65535},
    {"host", "string", "ADDRESS", "of which interface (default 127.0.0.1; 0.0.0.0 or :: is all)"},
    {"listen", "string", "unix:PATH", "no nginx: be the engine on this socket"},
    {"model", "list", "NAME=MODEL", "a model and what clients call it; several"},
    {"served-model-name", "list", "NAME", "what clients call MODEL (default: its directory's name)"},
    {"api-keys", "string", "FILE", "who may ask (default: everybody)"},
    {"metrics", "flag", "", "answer /metrics, to everybody who reaches this address (default: to nobody)"},
    {"allow-origin", "string", "ORIGIN", "web pages of which site may ask, * of all (default: none)"},
    {"allowed-host", "list", "NAME", "a further Host of requests to a loopback address, * for any; several"},
    {"max-per-address", "integer", "N", "requests of one client address at a time (default 1024)",
      min = 1, max = 65536},
    {"policy", "list", "NAME=MODULE", "a sampling policy in Lua that clients may choose by name"},
    {"policy-timeout-ms", "integer", "MS", "silence of a policy that ends its request (default 30000)"},
    {"kv-tokens", "integer", "N",
      "tokens of all sequences together (default: four times --context; on a GPU what its memory holds)"},
    {"max-running", "integer", "N", "completions computed at a time (default 256)"},
    {"max-queued", "integer", "N", "requests that may wait; further ones are told to come again (default 1024)"},
    {"priority-between-keys", "flag", "",
      "a request's priority counts before the keys' turns (default: within its key only)"},
    {"temperature-default", "number", "T",
      "for requests that say none, of models that say none (default 1, as OpenAI's)", min = 0, max = 100},
    {"timeout", "integer", "S", "seconds for a request (default 3600)", min = 1, max = 1e6},
    {"drain", "integer", "S", "seconds a stop waits for generations (default 30)", min = 0, max = 1e6},
    {"announce", "string", "URL", "with --listen: the address to print when the model is loaded"},
    {"run-dir", "string", "DIR",
      "sockets and nginx's files, of one server at a time (default: a new one, in $XDG_RUNTIME_DIR or /tmp)"},
  }, common.model_options),
}

local function shell(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

local function first_line(command)
  local pipe = assert(io.popen(command))
  local line = pipe:read "*l"
  pipe:close()
  return line or ""
end

-- {names =, dir =} for each model of the command line.
local function list_models(opt, words)
  local models = {}
  if words[1] then models[1] = {dir = words[1], names = opt.served_model_name or {common.base_name(words[1])}} end
  common.no_more(words, 1)
  for _, text in ipairs(opt.model or {}) do
    local name, dir = text:match "^([^=]+)=(.+)$"
    if not name then common.usage("--model: NAME=MODEL expected, got '%s'", text) end
    models[#models + 1] = {dir = dir, names = {name}}
  end
  if not models[1] then common.usage "MODEL is missing" end
  local seen = {}
  for _, m in ipairs(models) do
    for _, name in ipairs(m.names) do
      if seen[name] then common.usage("two models are called '%s'", name) end
      seen[name] = true
    end
  end
  return models
end

-- A directory of this start alone -> path, whether it is to be removed at the end. Root's runtime directory is closed
-- to nginx's workers.
local function make_run_dir(opt, user)
  if not opt.run_dir then
    local runtime = not user and os.getenv "XDG_RUNTIME_DIR"
    local dir = runtime and first_line("mktemp -d " .. shell(runtime .. "/fp8llm-XXXXXX") .. " 2>/dev/null") or ""
    if dir == "" then dir = first_line "mktemp -d -t fp8llm-XXXXXX" end
    if dir == "" then common.fail "run directory: cannot be made" end
    if user then os.execute("chmod 711 " .. shell(dir)) end
    return dir, true
  end
  local dir = first_line("umask 022; mkdir -p " .. shell(opt.run_dir) .. " && cd " .. shell(opt.run_dir) .. " && pwd")
  if dir == "" then common.fail("run directory %s: cannot be made", opt.run_dir) end
  return dir, false
end

-- Whom nginx's workers run as when root starts them: {name =, group =} | nil for other users, whose they are.
local function worker_user()
  if first_line "id -u" ~= "0" then return nil end
  for _, name in ipairs {"www-data", "nobody"} do
    local group = first_line("id -gn " .. name .. " 2>/dev/null")
    if group ~= "" then return {name = name, group = group} end
  end
  common.fail "nginx's workers: no user www-data or nobody for them; start this as another user than root"
end

-- A command as that user, or with that user's group only: the engine's socket is open to its group.
local function as_user(user)
  return string.format("setpriv --reuid=%s --regid=%s --clear-groups ", shell(user.name), shell(user.group))
end

local function check_entry(run, user)
  if first_line("command -v setpriv") == "" then common.fail "setpriv is missing: apt-get install util-linux" end
  if first_line(as_user(user) .. "test -x " .. shell(run) .. " && echo yes") ~= "yes" then
    common.fail("run directory %s: nginx's workers, user %s, cannot enter it", run, user.name)
  end
end

-- An absolute path: nginx and the engines have working directories of their own.
local function absolute(path)
  if path:match "^/" then return path end
  return first_line "pwd" .. "/" .. path
end

-- How this command was started: the Lua and the script, with the directory that holds fp8llm/.
local function self()
  local lua, first = arg[0], -1
  while arg[first] do
    lua, first = arg[first], first - 1
  end
  return lua, arg[0], absolute(arg[0]):match "^(.*)/fp8llm/[^/]*$"
end

-- The command line of a model's engine.
local function engine_command(model, socket, user, opt, url)
  local lua, script = self()
  local command = user and {"setpriv", "--regid=" .. user.group, "--keep-groups", "--pdeathsig=TERM"} or {}
  for _, word in ipairs {lua, script, "serve", model.dir, "--listen", "unix:" .. socket} do
    command[#command + 1] = word
  end
  local function add(name, value)
    if value ~= nil then command[#command + 1] = "--" .. name .. "=" .. tostring(value) end
  end
  add("announce", url)
  for _, name in ipairs(model.names) do add("served-model-name", name) end
  for _, policy in ipairs(opt.policy or {}) do add("policy", policy) end
  for _, name in ipairs {
    "device", "gpu-memory-utilization", "sparse-prefill", "threads", "context", "kv", "kv-tokens",
    "max-running", "max-queued", "policy-timeout-ms", "drain", "temperature-default",
  } do add(name, opt[name:gsub("-", "_")]) end
  for _, name in ipairs {"batch-invariant", "priority-between-keys"} do
    if opt[name:gsub("-", "_")] then command[#command + 1] = "--" .. name end
  end
  return command
end

-- An address as nginx and URLs write it: with brackets where it has colons.
local function check_host(host)
  if not host:match "^[%w.:_-]+$" then common.usage("--host: an address or a name expected, got '%s'", host) end
  return host:find(":", 1, true) and "[" .. host .. "]" or host
end

-- Where to go for one that is all interfaces.
local local_hosts = {["0.0.0.0"] = "127.0.0.1", ["[::]"] = "[::1]"}

local function write_file(path, text)
  local file = must(io.open(path, "wb"))
  must(file:write(text))
  must(file:close())
end

-- Everything under the run directory; returns the commands to run, nginx first: it is also the first to end.
local function prepare(models, run, user, opt)
  local nginx, message = serve_nginx.find()
  if not nginx then common.fail("%s", message) end
  local _, _, lua_dir = self()
  local host, port = check_host(opt.host or "127.0.0.1"), opt.port or 8000
  must(fp8llm.check_port(opt.host or "127.0.0.1", port))
  local url = string.format("http://%s:%d", local_hosts[host] or host, port)
  local conf = run .. "/nginx.conf"
  local commands = {{nginx.binary, "-e", "stderr", "-p", run, "-c", conf, stop = "QUIT"}}
  local upstreams = {}
  for i, model in ipairs(models) do
    local socket = string.format("%s/engine-%d.sock", run, i)
    upstreams[i] = {names = model.names, socket = "unix:" .. socket}
    commands[i + 1] = engine_command(model, socket, user, opt, url)
  end
  write_file(conf, serve_nginx.configuration(nginx, {
    run = run, lua = lua_dir, listen = host .. ":" .. port, models = upstreams,
    user = user and user.name .. " " .. user.group, allowed_hosts = opt.allowed_host,
    max_per_address = opt.max_per_address, metrics = opt.metrics,
    api_keys = opt.api_keys and absolute(opt.api_keys), allow_origin = opt.allow_origin,
    timeout = opt.timeout, drain = opt.drain or 30, page = lua_dir .. "/fp8llm/page.html",
  }))
  return commands
end

-- As fp8llm.supervise.
local function run_in(run, models, user, opt)
  if user then check_entry(run, user) end
  must(fp8llm.lock(run .. "/lock"))
  local commands = prepare(models, run, user, opt)
  common.write(string.format("loading; files in %s\n", run))
  return fp8llm.supervise(commands, (opt.drain or 30) + 5)
end

local function serve_all(models, opt)
  for _, model in ipairs(models) do model.dir = common.find(model.dir) end
  if opt.api_keys then must(io.open(opt.api_keys, "rb")):close() end
  local user = worker_user()
  local run, temporary = make_run_dir(opt, user)
  local ok, first, status = pcall(run_in, run, models, user, opt)
  if temporary then os.execute("rm -rf " .. shell(run)) end
  if not ok then error(first, 0) end
  if first == nil then common.fail("%s", status) end
  if first == 0 then return end
  local who = first == 1 and "nginx" or "the engine of " .. models[first - 1].names[1]
  common.fail("%s ended with status %d", who, status)
end

function M.run(opt, words)
  local models = list_models(opt, words)
  if not opt.listen then return serve_all(models, opt) end
  local socket = opt.listen:match "^unix:(.+)$"
  if not socket then common.usage("--listen: unix:PATH expected, got '%s'", opt.listen) end
  if models[2] then common.usage "--listen: one model" end
  serve_engine(models[1].dir, socket, models[1].names, opt)
end

return M
