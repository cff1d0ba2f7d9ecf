--- The nginx of `fp8llm serve`: finding one that can run Lua, and a private configuration for it.
local serve_nginx = {}

local function first_line(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local line = pipe:read "*l"
  pipe:close()
  return line ~= "" and line or nil
end

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

-- Debian's nginx loads its Lua module from here.
local modules = "/usr/lib/nginx/modules/"

--- {binary =, modules = lines of configuration} | nil, what to do
function serve_nginx.find()
  local openresty = first_line "command -v openresty"
  if openresty then return {binary = openresty, modules = ""} end
  -- Debian puts nginx where only root's PATH leads.
  local nginx = first_line "PATH=$PATH:/usr/sbin:/usr/local/sbin; command -v nginx"
  if nginx and exists(modules .. "ngx_http_lua_module.so") then
    return {binary = nginx, modules = string.format("load_module %sndk_http_module.so;\nload_module %s%s;\n", modules,
      modules, "ngx_http_lua_module.so")}
  end
  return nil, "nginx with its Lua module is missing: apt-get install nginx libnginx-mod-http-lua"
end

local template = [[
# Written by fp8llm serve at each start.
%(modules)
daemon off;
pid "%(run)/nginx.pid";
error_log stderr warn;
worker_processes %(workers);
worker_rlimit_nofile 16384;
worker_shutdown_timeout %(drain)s;
%(user)
events { worker_connections 4096; }
http {
  access_log %(access_log);
  server_tokens off;
  lua_package_path "%(lua)/?.lua;;";
  lua_check_client_abort on;      # a client that leaves frees its slot in the engine
  lua_socket_log_errors off;
  client_max_body_size %(max_body)m;
  client_body_buffer_size 1m;     # prompts stay out of files
  client_header_timeout 10s;
  client_body_timeout 30s;
  send_timeout 60s;               # a client that does not read
  keepalive_timeout 75s;
  keepalive_requests 100000;
  client_body_temp_path "%(run)/tmp-body";
  proxy_temp_path "%(run)/tmp-proxy";
  fastcgi_temp_path "%(run)/tmp-fastcgi";
  uwsgi_temp_path "%(run)/tmp-uwsgi";
  scgi_temp_path "%(run)/tmp-scgi";
  init_by_lua_block {
    require("resty.fp8llm.server").configure %(options)
  }
  server {
    listen %(listen) backlog=4096 so_keepalive=on;
    error_page 400 404 405 408 413 414 494 501 505 /refused;
    location / {
      access_by_lua_block { require("resty.fp8llm.server").access() }
      content_by_lua_block { require("resty.fp8llm.server").content() }
    }
    location = /refused {           # what nginx itself refuses
      internal;
      content_by_lua_block { require("resty.fp8llm.server").refused() }
    }
  }
}
]]

-- A Lua value of strings, numbers and tables as source text.
local function source(v)
  if type(v) ~= "table" then return type(v) == "string" and string.format("%q", v) or tostring(v) end
  local out = {}
  for i, item in ipairs(v) do out[i] = source(item) end
  for key, item in pairs(v) do
    if type(key) == "string" then out[#out + 1] = key .. " = " .. source(item) end
  end
  return "{" .. table.concat(out, ", ") .. "}"
end

--- options: run (a directory), lua (where the Lua files are), listen, models, api_keys, allow_origin, timeout,
-- keep_alive, drain, page, workers, access_log; nginx: what find returned.
function serve_nginx.configuration(nginx, options)
  local values = {
    modules = nginx.modules, run = options.run, lua = options.lua, listen = options.listen,
    workers = options.workers or 2, drain = options.drain, max_body = options.max_body or 16,
    access_log = options.access_log or "off",
    user = options.user and "user " .. options.user .. ";" or "",
    options = source {
      models = options.models, api_keys = options.api_keys, allow_origin = options.allow_origin,
      timeout = options.timeout, keep_alive = options.keep_alive, page = options.page,
    },
  }
  return (template:gsub("%%%((%w+_?%w*)%)", function(key) return tostring(values[key]) end))
end

return serve_nginx
