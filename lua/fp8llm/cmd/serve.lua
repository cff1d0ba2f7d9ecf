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
lua/resty/fp8llm.lua. The socket appears when the model is loaded, and replaces one that is there.

--api-keys: a file with one "key name max_running tokens_per_minute" a line; 0 is no limit. A line that ends in
parse_special=off is of a key whose prompts hold no special tokens: they are read as text.
--policy: MODULE, a file X.lua or what require finds, returns a function that gets each step of a request that
chose NAME, see step in meta.lua, and the model.]],
  options = common.join({
    {"port", "integer", "N", "where HTTP clients connect (default 8000)", min = 1, max = 65535},
    {"host", "string", "ADDRESS", "of which interface (default 127.0.0.1; 0.0.0.0 or :: is all)"},
    {"listen", "string", "unix:PATH", "no nginx: be the engine on this socket"},
    {"model", "list", "NAME=MODEL", "a model and what clients call it; several"},
    {"served-model-name", "list", "NAME", "what clients call MODEL (default: its directory's name)"},
    {"api-keys", "string", "FILE", "who may ask (default: everybody)"},
    {"allow-origin", "string", "ORIGIN", "web pages of which site may ask, * of all (default: none)"},
    {"policy", "list", "NAME=MODULE", "a sampling policy in Lua that clients may choose by name"},
    {"policy-timeout-ms", "integer", "MS", "silence of a policy that ends its request (default 30000)"},
    {"kv-tokens", "integer", "N",
      "tokens of all sequences together (default: four times --context; on a GPU what its memory holds)"},
    {"max-running", "integer", "N", "completions computed at a time (default 256)"},
    {"max-queued", "integer", "N", "requests that may wait; further ones are told to come again (default 1024)"},
    {"timeout", "integer", "S", "seconds for a request (default 3600)", min = 1, max = 1e6},
    {"drain", "integer", "S", "seconds a stop waits for generations (default 30)", min = 0, max = 1e6},
    {"run-dir", "string", "DIR", "sockets and nginx's files (default: $XDG_RUNTIME_DIR/fp8llm, or a temporary one)"},
  }, common.model_options),
}

local function base_name(path) return path:gsub("/+$", ""):match "[^/]+$" or path end

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
  if words[1] then models[1] = {dir = words[1], names = opt.served_model_name or {base_name(words[1])}} end
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

local function make_run_dir(opt)
  local runtime = os.getenv "XDG_RUNTIME_DIR"
  local dir = opt.run_dir or runtime and runtime .. "/fp8llm"
  if not dir then return first_line "mktemp -d", true end
  return first_line("mkdir -p " .. shell(dir) .. " && cd " .. shell(dir) .. " && pwd"), false
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
local function engine_command(model, socket, opt)
  local lua, script = self()
  local command = {lua, script, "serve", model.dir, "--listen", "unix:" .. socket}
  local function add(name, value)
    if value ~= nil then command[#command + 1] = "--" .. name .. "=" .. tostring(value) end
  end
  for _, name in ipairs(model.names) do add("served-model-name", name) end
  for _, policy in ipairs(opt.policy or {}) do add("policy", policy) end
  for _, name in ipairs {
    "device", "gpu-memory-utilization", "sparse-prefill", "threads", "context", "kv", "kv-tokens",
    "max-running", "max-queued", "policy-timeout-ms", "drain",
  } do add(name, opt[name:gsub("-", "_")]) end
  if opt.batch_invariant then command[#command + 1] = "--batch-invariant" end
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
local function prepare(models, run, opt)
  local nginx, message = serve_nginx.find()
  if not nginx then common.fail("%s", message) end
  local _, _, lua_dir = self()
  local host, port = check_host(opt.host or "127.0.0.1"), opt.port or 8000
  local conf = run .. "/nginx.conf"
  local commands = {{nginx.binary, "-e", "stderr", "-p", run, "-c", conf, stop = "QUIT"}}
  local upstreams = {}
  for i, model in ipairs(models) do
    local socket = string.format("%s/engine-%d.sock", run, i)
    upstreams[i] = {names = model.names, socket = "unix:" .. socket}
    commands[i + 1] = engine_command(model, socket, opt)
  end
  local user = first_line "id -u" == "0" and first_line "id -un" .. " " .. first_line "id -gn" or nil
  write_file(conf, serve_nginx.configuration(nginx, {
    run = run, lua = lua_dir, listen = host .. ":" .. port, models = upstreams, user = user,
    api_keys = opt.api_keys and absolute(opt.api_keys), allow_origin = opt.allow_origin,
    timeout = opt.timeout, drain = opt.drain or 30, page = lua_dir .. "/fp8llm/page.html",
  }))
  return commands, string.format("http://%s:%d", local_hosts[host] or host, port)
end

local function serve_all(models, opt)
  for _, model in ipairs(models) do model.dir = common.find(model.dir) end
  if opt.api_keys then must(io.open(opt.api_keys, "rb")):close() end
  local run, temporary = make_run_dir(opt)
  if run == "" then common.fail "run directory: cannot be made" end
  local commands, url = prepare(models, run, opt)
  common.write(string.format("%s (files in %s); loading\n", url, run))
  local first, status = fp8llm.supervise(commands, (opt.drain or 30) + 5)
  if temporary then os.execute("rm -rf " .. shell(run)) end
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
