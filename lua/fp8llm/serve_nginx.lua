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

-- Where resty.core and what it needs are. Written out, as Lua's default (";;") begins with the current directory.
local debian = {
  lua = "/usr/local/share/lua/5.1/?.lua;/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua",
  c = "/usr/local/lib/lua/5.1/?.so;/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;/usr/lib/lua/5.1/?.so",
}

local function openresty_paths(binary)
  local real = first_line("readlink -f '" .. binary:gsub("'", "'\\''") .. "'") or binary
  local root = real:match "^(.*)/nginx/sbin/[^/]*$" or real:match "^(.*)/bin/[^/]*$" or "/usr/local/openresty"
  return {
    lua = string.format("%s/site/lualib/?.lua;%s/lualib/?.lua;%s", root, root, debian.lua),
    c = string.format("%s/site/lualib/?.so;%s/lualib/?.so;%s", root, root, debian.c),
  }
end

--- {binary =, modules = lines of configuration, paths = {lua =, c =}} | nil, what to do
function serve_nginx.find()
  local openresty = first_line "command -v openresty"
  if openresty then return {binary = openresty, modules = "", paths = openresty_paths(openresty)} end
  -- Debian puts nginx where only root's PATH leads.
  local nginx = first_line "PATH=$PATH:/usr/sbin:/usr/local/sbin; command -v nginx"
  if nginx and exists(modules .. "ngx_http_lua_module.so") then
    return {binary = nginx, paths = debian, modules = string.format(
      "load_module %sndk_http_module.so;\nload_module %sngx_http_lua_module.so;\n", modules, modules)}
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
worker_rlimit_nofile 40000;
worker_shutdown_timeout %(drain)s;
%(user)
events { worker_connections 16384; } # of half-sent headers a client has no more ports than this in all
http {
  access_log %(access_log);
  server_tokens off;
  lua_package_path "%(lua)/?.lua;%(lua_path)";
  lua_package_cpath "%(lua_cpath)";
  lua_check_client_abort on;      # a client that leaves frees its slot in the engine
  lua_socket_log_errors off;
  lua_http10_buffering off;       # a proxy that speaks HTTP/1.0 gets a stream as it comes, too
  client_max_body_size %(max_body)m;
  client_body_buffer_size 1m;     # prompts stay out of files
  client_header_timeout 5s;       # of all headers together
  client_body_timeout 30s;        # between two pieces of a body
  reset_timedout_connection on;
  send_timeout 60s;               # a client that does not read
  limit_conn_zone $binary_remote_addr zone=addresses:1m;
  limit_conn_status 429;
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
    limit_conn addresses %(max_per_address); # requests of one address at a time
    error_page 400 403 404 405 408 411 412 413 414 416 421 429 494 500 501 502 503 504 505 /refused;
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
-- keep_alive, drain, page, workers, access_log, allowed_hosts, max_per_address, metrics; nginx: what find returned.
function serve_nginx.configuration(nginx, options)
  local values = {
    modules = nginx.modules, lua_path = nginx.paths.lua, lua_cpath = nginx.paths.c, run = options.run,
    lua = options.lua, listen = options.listen, max_per_address = options.max_per_address or 1024,
    workers = options.workers or 2, drain = options.drain, max_body = options.max_body or 16,
    access_log = options.access_log or "off",
    user = options.user and "user " .. options.user .. ";" or "",
    options = source {
      models = options.models, api_keys = options.api_keys, allow_origin = options.allow_origin,
      timeout = options.timeout, keep_alive = options.keep_alive, page = options.page,
      allowed_hosts = options.allowed_hosts, metrics = options.metrics, max_waiting_bytes = options.max_waiting_bytes,
    },
  }
  return (template:gsub("%%%(([%w_]+)%)", function(key) return tostring(values[key]) end))
end

return serve_nginx
