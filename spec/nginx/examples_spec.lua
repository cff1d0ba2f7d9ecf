-- examples/nginx works as it stands, but for paths and the port.
package.path = "./?.lua;" .. package.path
local http = require "spec.nginx.http"
local server = require "spec.nginx.server"

local here = server.shell "pwd"
local dir = here .. "/build/spec/nginx/example"

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
    local user = server.shell "id -u" == "0" and "user root;" or ""
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

  it("ends as a service manager expects", function()
    assert.equal(0, server.stop(nginx, "QUIT"))
    assert.equal(0, server.stop(engine))
    assert.equal("STOPPING=1", engine.told:receive())
    engine.told:close()
  end)
end)
