-- examples/nginx works as it stands, but for paths and the port.
package.path = "./?.lua;" .. package.path
local http = require "spec.nginx.http"
local server = require "spec.nginx.server"

local here = server.shell "pwd"
local dir = here .. "/build/spec/nginx/example"
local user = server.shell "id -u" == "0" and "user root;" or "" -- else the workers may not use the socket

describe("examples/nginx", function()
  local engine, nginx

  setup(function()
    server.shell("mkdir -p " .. dir)
    server.model "tiny"
  end)

  it("has a systemd unit whose command starts an engine that says when it is ready", function()
    local unit = server.read "examples/nginx/fp8llm@.service"
    local command = unit:match "\nExecStart=([^\n]+)"
    local told = require "socket.unix".dgram()
    os.remove "build/spec/nginx/notify"
    assert(told:bind "build/spec/nginx/notify")
    told:settimeout(20)
    command = command:gsub("/usr/local/bin/", "build/"):gsub("/var/lib/fp8llm/%%i", "build/spec/nginx/tiny")
      :gsub("/run/fp8llm/", "build/spec/nginx/example/"):gsub("%%i", "model")
    engine = server.spawn("example-engine", command, "NOTIFY_SOCKET=build/spec/nginx/notify")
    assert.equal("READY=1", told:receive())
    assert.equal("ok", require("fp8llm.json").decode(assert(server.ask(dir .. "/model.sock", "health"))).status)
    engine.told = told
  end)

  it("has a configuration for an nginx of one's own", function()
    local found = assert(require("fp8llm.serve_nginx").find())
    local port = server.port()
    local conf = server.read "examples/nginx/nginx.conf"
    local temporary = ("client_body proxy fastcgi uwsgi scgi"):gsub("[%a_]+", "%0_temp_path " .. dir .. "/%0;")
    conf = conf:gsub("/usr/local/share/lua/5.1/", here .. "/lua/"):gsub("/run/fp8llm/", dir .. "/")
      :gsub("127.0.0.1:8000", "127.0.0.1:" .. port):gsub("http {", "http {\naccess_log off;" .. temporary, 1)
    server.write(dir .. "/nginx.conf", found.modules .. "daemon off; pid " .. dir .. "/nginx.pid; error_log stderr; " ..
      user .. "\n" .. conf)
    local command = "%s -e stderr -p %s -c %s/nginx.conf"
    nginx = server.spawn("example-nginx", command:format(found.binary, dir, dir))
    nginx.port = port
    server.ready(nginx)
    local body = '{"model":"model","prompt":"hello","max_tokens":2}'
    local status, text = http.ask(port, "POST", "/v1/completions", body)
    assert.equal(200, status)
    assert.truthy(text:find '"completion_tokens":2')
  end)

  it("and README a handler of one's own, over the client", function()
    local port = server.port()
    local found = assert(require("fp8llm.serve_nginx").find())
    local handler = assert(server.read("README.md"):match "```lua\n(local engine = require%(\"resty.-)```")
    handler = handler:gsub("/run/fp8llm/", dir .. "/")
    server.write(dir .. "/own.conf", found.modules .. string.format([[
      daemon off; pid %s/own.pid; error_log stderr; %s
      events {}
      http {
        access_log off; lua_package_path "%s/lua/?.lua;;";
        server {
          listen 127.0.0.1:%d;
          location /chat {
            content_by_lua_block { local messages = {{role = "user", content = ngx.var.arg_q}} %s }
          }
          location /count {
            content_by_lua_block {
              local engine = require("resty.fp8llm").new {socket = "unix:%s/model.sock"}
              ngx.print(engine:count("hello"), " ", engine:count("hello", {add_special_tokens = false}))
              local _, refusal = engine:completion {prompt = "a", temperature = -1}
              ngx.print(" ", refusal.code, " ", refusal.param)
              local gone, why = require("resty.fp8llm").new({socket = "unix:%s/none.sock"}):chat {messages = {}}
              ngx.print(" ", tostring(gone), " ", why.code)
            }
          }
        }
      }
    ]], dir, user, here, port, handler, dir, dir))
    local own = server.spawn("own-nginx", string.format("%s -e stderr -p %s -c %s/own.conf", found.binary, dir, dir))
    local count = server.await("nginx " .. server.read(own.log), function()
      local connected, status, text = pcall(http.ask, port, "GET", "/count")
      return connected and status == 200 and text
    end)
    assert.equal("3 3 ARG temperature nil UNREACHABLE", count)
    local status, text = http.ask(port, "GET", "/chat?q=hello")
    assert.equal(200, status)
    assert.is_true(#text > 0)
    assert.equal(0, server.stop(own, "QUIT"))
  end)

  it("an engine can also live in the only worker of an nginx", function()
    local found = assert(require("fp8llm.serve_nginx").find())
    server.write(dir .. "/inside.conf", found.modules .. string.format([[
      daemon off; pid %s/inside.pid; error_log stderr; worker_processes 1; %s
      events {}
      http {
        lua_package_cpath "%s/build/?.so;;";
        init_worker_by_lua_block {
          local fp8llm = require "fp8llm"
          engine = assert(assert(fp8llm.load("%s/build/spec/nginx/tiny", {threads = 1})):engine {})
          assert(engine:listen("%s/inside.sock", {names = {"tiny"}}))
        }
      }
    ]], dir, user, here, here, dir))
    local command = "%s -e stderr -p %s -c %s/inside.conf"
    local inside = server.spawn("inside-nginx", command:format(found.binary, dir, dir))
    local answer = server.await("the worker's engine " .. server.read(inside.log), function()
      local connected, line = pcall(server.ask, dir .. "/inside.sock", "health")
      return connected and line
    end)
    assert.equal('{"status":"ok"}', answer)
    assert.equal(0, server.stop(inside, "QUIT"))
  end)

  it("ends as a service manager expects", function()
    assert.equal(0, server.stop(nginx, "QUIT"))
    assert.equal(0, server.stop(engine))
    assert.equal("STOPPING=1", engine.told:receive())
    engine.told:close()
  end)
end)
