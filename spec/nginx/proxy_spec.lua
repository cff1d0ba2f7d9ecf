-- Clients that speak HTTP/1.0, above all the proxies of others: nginx's proxy_pass does unless it is told otherwise.
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"

local here = server.shell "pwd"
local dir = here .. "/build/spec/nginx/proxy"
local user = server.shell "id -u" == "0" and "user root;" or "" -- else the workers may not use the socket
local found = assert(require("fp8llm.serve_nginx").find())
local tokens = 60

local function body_of(count)
  return json.encode {
    messages = {{role = "user", content = "a"}}, max_tokens = count, ignore_eos = true, stream = true,
  }
end

-- A request as HTTP/1.0 has it, on a connection of its own.
local function ask_10(port, path, body)
  local c = http.connect(port)
  c:send(("POST %s HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s")
    :format(path, #body, body))
  return c
end

local function read_all(c)
  local text, _, rest = c.sock:receive "*a"
  c:close()
  return text or rest
end

-- The paced engine's tokens are times, each followed by a blank.
local function count(text)
  local sum = 0
  for content in text:gmatch '"content":"([%d ]*)"' do sum = sum + select(2, content:gsub("%d+", "")) end
  return sum
end

local function assert_whole(text, what)
  assert.truthy(text:find("^HTTP/1.[01] 200 OK"), what .. ": " .. text:sub(1, 200))
  assert.equal(tokens, count(text), what)
  assert.truthy(text:find("data: [DONE]\n\n", 1, true), what)
end

describe("a client or proxy that speaks HTTP/1.0", function()
  local engine, front, others, port

  -- An nginx that is not ours but for these lines.
  local function stock(name, in_http, in_server)
    local process
    port = server.port()
    server.write(dir .. "/" .. name .. ".conf", string.format([[
      %s daemon off; pid %s/%s.pid; error_log stderr; %s
      events {}
      http {
        access_log off; proxy_temp_path %s/proxy; client_body_temp_path %s/body; lua_package_path "%s/lua/?.lua;%s"; %s
        server { listen 127.0.0.1:%d; location = /up { return 204; } %s }
      }
    ]], found.modules, dir, name, user, dir, dir, here, found.paths.lua, in_http, port, in_server))
    process = server.spawn(name, ("%s -e stderr -p %s -c %s/%s.conf"):format(found.binary, dir, dir, name))
    process.port = port
    server.await("nginx " .. server.read(process.log), function()
      local connected, status = pcall(http.ask, port, "GET", "/up")
      return connected and status == 204
    end)
    return process
  end

  setup(function()
    server.shell("mkdir -p " .. dir)
    local model = server.model("paced", "vocab=266 layers=1 hidden=32 ffn=32 heads=2 kv_heads=1 context=4096")
    engine = server.engine("proxied", model .. " --served-model-name tiny", server.paced)
    front = server.nginx("proxied-front", engine.path)
    server.ready(front)
    local at = "proxy_pass http://127.0.0.1:" .. front.port .. "/;"
    local readme = server.read "examples/nginx/README.md"
    local handler = assert(readme:match "```lua\n(local engine = require%(\"resty.-)```")
    handler = handler:gsub("unix:/run/fp8llm/model.sock", "unix:" .. here .. "/" .. engine.path)
      :gsub("stream = true", ("%%0, ignore_eos = true, max_tokens = %d"):format(tokens), 1)
    local location = server.read("examples/nginx/location.conf")
    others = stock("stock", ([[init_by_lua_block { require("resty.fp8llm.server").configure {
      models = {{name = "tiny", socket = "unix:%s/%s"}}} }]]):format(here, engine.path), ([[
      location /stock/ { %s }
      location /passing/ { %s proxy_buffering off; }
      location /own { content_by_lua_block { local messages = {{role = "user", content = "a"}} %s } }
      %s]]):format(at, at, handler, location))
  end)
  teardown(function()
    assert.equal(0, server.stop(others, "QUIT"))
    assert.equal(0, server.stop(front, "QUIT"))
    assert.equal(0, server.stop(engine))
  end)

  -- Where to ask, by what is between.
  local function ways()
    return {
      {"ourselves", front.port, "/v1/chat/completions"}, {"proxy_pass", others.port, "/stock/v1/chat/completions"},
      {"proxy_pass that keeps nothing", others.port, "/passing/v1/chat/completions"},
      {"location.conf", others.port, "/llm/v1/chat/completions"},
    }
  end

  it("gets the whole of a stream", function()
    for _, way in ipairs(ways()) do
      local text = read_all(ask_10(way[2], way[3], body_of(tokens)))
      assert_whole(text, way[1])
      local status, chunked = http.ask(way[2], "POST", way[3], body_of(tokens)) -- HTTP/1.1 towards the proxy
      assert_whole("HTTP/1.1 " .. status .. " OK\n" .. chunked, way[1] .. ", asked in HTTP/1.1")
    end
  end)

  it("gets the whole of what README's handler writes, whether nginx keeps it or not", function()
    local c = http.connect(others.port)
    c:send "GET /own HTTP/1.0\r\nHost: localhost\r\n\r\n"
    local text = read_all(c)
    assert.equal(tokens, select(2, text:match "\r\n\r\n(.*)$":gsub("%d+", "")))
  end)

  it("gets it as it comes, and frees its slot when it leaves", function()
    local function running() return server.stats(engine.path).running end
    for _, way in ipairs(ways()) do
      local c, text = ask_10(way[2], way[3], body_of(4000)), ""
      repeat
        local more = assert(c.sock:receive(1), way[1] .. ": nothing came")
        text = text .. more
      until count(text) > 0
      assert.equal(1, running(), way[1] .. ": it came when all was over")
      c:close()
      server.await(way[1] .. ": the end", function() return running() == 0 end, 5)
    end
  end)
end)
