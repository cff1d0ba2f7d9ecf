-- examples/nginx works as it stands, but for paths and the port.
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"

local here = server.shell "pwd"
local dir = here .. "/build/spec/nginx/example"
local user = server.shell "id -u" == "0" and "user root;" or "" -- else the workers may not use the socket

describe("examples/nginx", function()
  local engine, nginx
  local found = assert(require("fp8llm.serve_nginx").find())

  local function start(name, conf)
    local modules = conf:find("modules-enabled", 1, true) and "" or found.modules -- nginx.conf names them itself
    server.write(dir .. "/" .. name .. ".conf", string.format("%sdaemon off; pid %s/%s.pid; error_log stderr; %s\n%s",
      modules, dir, name, user, conf))
    local command = "%s -e stderr -p %s -c %s/%s.conf"
    return server.spawn(name .. "-nginx", command:format(found.binary, dir, dir, name))
  end

  -- An nginx on a port of its own, with these lines in http { } and server { }.
  local function start_server(name, in_http, in_server)
    local port = server.port()
    local process = start(name, string.format([[
      events {}
      http {
        access_log off; lua_package_path "%s/lua/?.lua;%s/examples/nginx/?.lua;%s"; %s
        server { listen 127.0.0.1:%d; location = /up { return 204; } %s }
      }
    ]], here, here, found.paths.lua, in_http, port, in_server))
    process.port = port
    server.await("nginx " .. server.read(process.log), function()
      local connected, status = pcall(http.ask, port, "GET", "/up")
      return connected and status == 204
    end)
    return process
  end

  -- A file of examples/nginx, with sockets where the tests have them.
  local function example(name)
    return (server.read("examples/nginx/" .. name):gsub("/run/fp8llm/", dir .. "/")
      :gsub("/usr/local/share/lua/5.1/", here .. "/lua/"))
  end

  local function configure(socket)
    return string.format([[init_by_lua_block { require("resty.fp8llm.server").configure {
      models = {{name = "model", socket = "unix:%s/%s"}}, metrics = true,
      page = "%s/lua/fp8llm/page.html"} }]], dir, socket, here)
  end

  local function chat(text, options)
    local request = {messages = {{role = "user", content = text}}}
    for key, value in pairs(options or {}) do request[key] = value end
    return json.encode(request)
  end

  setup(function()
    -- Debian's modules are named from nginx's prefix, which is here in these tests.
    server.shell("mkdir -p " .. dir .. " && ln -sfn /usr/lib/nginx/modules " .. dir .. "/modules")
    server.model("roomy", "context=2048 seed=8") -- of which both answers can be had
  end)

  it("has a systemd unit whose command starts an engine that says when it is ready", function()
    local unit = server.read "examples/nginx/fp8llm@.service"
    local command = unit:match "\nExecStart=([^\n]+)"
    local told = require "socket.unix".dgram()
    os.remove "build/spec/nginx/notify"
    assert(told:bind "build/spec/nginx/notify")
    told:settimeout(20)
    command = command:gsub("/usr/local/bin/", "build/"):gsub("/var/lib/fp8llm/%%i", "build/spec/nginx/roomy")
      :gsub("/run/fp8llm/", "build/spec/nginx/example/"):gsub("%%i", "model")
    engine = server.spawn("example-engine", command, "NOTIFY_SOCKET=build/spec/nginx/notify")
    assert.equal("READY=1", told:receive())
    assert.equal("ok", json.decode(assert(server.ask(dir .. "/model.sock", "health"))).status)
    engine.told = told
  end)

  it("has a configuration for an nginx of one's own", function()
    local said = server.shell(("%s -t -c %s/examples/nginx/nginx.conf 2>&1; echo $?"):format(found.binary, here))
    assert.truthy(said:find "test is successful\n0$", said)
    local port = server.port()
    local temporary = ("client_body proxy fastcgi uwsgi scgi"):gsub("[%a_]+", "%0_temp_path " .. dir .. "/%0;")
    nginx = start("whole", (example "nginx.conf":gsub("127.0.0.1:8000", "127.0.0.1:" .. port)
      :gsub("http {", "http {\naccess_log off;" .. temporary, 1)))
    nginx.port = port
    server.ready(nginx)
    local body = '{"model":"model","prompt":"hello","max_tokens":2,"ignore_eos":true}'
    local status, text = http.ask(port, "POST", "/v1/completions", body)
    assert.equal(200, status)
    assert.truthy(text:find '"completion_tokens":2')
  end)

  it("and for a location in a server that is there", function()
    local process = start_server("location", configure "model.sock", example "location.conf")
    local body = '{"prompt":"hello","max_tokens":2,"ignore_eos":true}'
    local status, text = http.ask(process.port, "POST", "/llm/v1/completions", body)
    assert.equal(200, status)
    assert.truthy(text:find '"completion_tokens":2')
    status, text = http.ask(process.port, "GET", "/llm/")
    assert.equal(200, status)
    assert.equal(server.read "lua/fp8llm/page.html", text)
    status, text = http.ask(process.port, "GET", "/llm/metrics")
    assert.equal(200, status) -- from here
    assert.truthy(text:find "\nfp8llm_up{model=\"model\"} 1\n")
    status = http.ask(process.port, "GET", "/llm/none")
    assert.equal(404, status)
    status = http.ask(process.port, "GET", "/v1/models")
    assert.equal(404, status)
    assert.equal(0, server.stop(process, "QUIT"))
  end)

  it("and README a handler of one's own, over the client", function()
    local readme = server.read "examples/nginx/README.md"
    local handler = assert(readme:match "```lua\n(local engine = require%(\"resty.-)```")
    handler = handler:gsub("/run/fp8llm/", dir .. "/"):gsub("stream = true", "%0, ignore_eos = true, max_tokens = 9", 1)
    local process = start_server("own", "", string.format([[
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
    ]], handler, dir, dir))
    local _, count = http.ask(process.port, "GET", "/count")
    assert.equal("3 3 ARG temperature nil UNREACHABLE", count)
    local status, text = http.ask(process.port, "GET", "/chat?q=hello")
    assert.equal(200, status)
    assert.is_true(#text > 0)
    assert.equal(0, server.stop(process, "QUIT"))
  end)

  it("a guard that asks the model, whose answer a policy of the operator's makes yes or no", function()
    local fp8llm = require "fp8llm"
    local model = assert(fp8llm.load "build/spec/nginx/roomy")
    local question = assert(example "guard.conf":match 'question = "([^"]+)"')
    local otherwise = assert(example "guard.conf":match 'otherwise = "([^"]+)"')
    -- What yes_no.lua is to find, from the logits of the same prompt.
    local function expected(text)
      local prompt = {{role = "user", content = question .. "\n\n" .. text}}
      local ids = assert(model:template():encode(prompt, {add_generation_prompt = true}))
      local sequence = assert(model:sequence())
      local logits = assert(sequence:feed(ids))
      local function weight(letters)
        local sum, max = 0, select(2, logits:argmax())
        for letter in letters:gmatch "." do
          local id = model:tokenizer():encode(letter, {add_special_tokens = false})[1]
          sum = sum + math.exp(logits:get(id + 1) - max)
        end
        return sum
      end
      local yes = weight "yY " > weight "nN " -- this tokenizer knows bytes only
      sequence:close()
      return yes and 200 or 400
    end

    local guarded = server.engine("guarded", "build/spec/nginx/roomy --policy yes_no=examples/nginx/yes_no.lua")
    local socket = server.shell("readlink -f " .. guarded.path)
    local conf = example "guard.conf":gsub("unix:[^\"]+", "unix:" .. socket)
    local process = start_server("guard", configure("../guarded.sock"), conf)
    local seen = {[200] = 0, [400] = 0}
    for i = 1, 40 do
      local message = ("%d is what I ask"):rep(1 + i % 3):format(i, i, i)
      local status, text = http.ask(process.port, "POST", "/v1/chat/completions", chat(message, {max_tokens = 1}))
      assert.equal(expected(message), status)
      seen[status] = seen[status] + 1
      if status == 400 then assert.equal("messages: " .. otherwise, json.decode(text).error.message) end
      if seen[200] > 1 and seen[400] > 1 then break end
    end
    assert.is_true(seen[200] > 1 and seen[400] > 1)
    local status, text = http.ask(process.port, "POST", "/v1/chat/completions", '{"messages":"none"}')
    assert.equal(400, status)
    assert.equal("messages", json.decode(text).error.param)
    -- Parts of a content are texts or hold them; none of them goes by unread.
    local telling, tries = 0, 0
    repeat -- until the part that is no table decides
      tries = tries + 1
      local first, second = ("%d is what"):format(tries), ("%d is what I ask"):format(tries * 7)
      local whole = expected(first .. "\n" .. second)
      if whole ~= expected(second) then
        local parts = {first, {type = "text", text = second}}
        assert.equal(whole, (http.ask(process.port, "POST", "/v1/chat/completions", chat(parts, {max_tokens = 1}))))
        telling = telling + 1
      end
    until telling == 3 or tries == 200
    assert.equal(3, telling)
    -- The other ways to the model lead past the guard as well.
    for i = 1, 4 do
      local message = ("%d is what I ask"):format(i)
      status = http.ask(process.port, "POST", "/v1/responses",
        json.encode {input = {{role = "user", content = message}}, max_output_tokens = 1})
      assert.equal(expected(message), status)
      status = http.ask(process.port, "POST", "/v1/messages",
        json.encode {messages = {{role = "user", content = message}}, max_tokens = 1})
      assert.equal(expected(message), status)
    end
    status = http.ask(process.port, "POST", "/v1/completions", '{"prompt":"hello"}')
    assert.equal(400, status)
    assert.equal(0, server.stop(process, "QUIT"))
    assert.equal(0, server.stop(guarded))
  end)

  describe("limits the tokens of a minute", function()
    local process
    setup(function()
      local conf = example "rate_limit.conf":gsub("tokens_per_minute = 20000", "tokens_per_minute = 3000")
        :gsub("max_tokens = 512", "max_tokens = 20"):gsub("who = ngx.var.remote_addr", "who = ngx.var.arg_who")
      process = start_server("limited", "lua_shared_dict tokens 1m;" .. configure "model.sock", conf .. [[
        location = /taken {
          content_by_lua_block {
            local sum = 0
            for _, key in ipairs(ngx.shared.tokens:get_keys()) do
              if key:find(ngx.var.arg_who .. " ", 1, true) == 1 then sum = sum + ngx.shared.tokens:get(key) end
            end
            ngx.print(sum)
          }
        }
      ]])
    end)
    teardown(function() assert.equal(0, server.stop(process, "QUIT")) end)

    local function taken(who) return tonumber((select(2, http.ask(process.port, "GET", "/taken?who=" .. who)))) end
    local function ask(who, path, body)
      local status, text, headers = http.ask(process.port, "POST", path .. "?who=" .. who, body)
      return status, json.decode(text), headers
    end
    local total = 0
    local function add(_, answer) total = total + answer.usage.total_tokens end

    it("to what prompts and answers took", function()
      local first, _, headers = ask("a", "/v1/completions", '{"prompt":"hello","max_tokens":7,"ignore_eos":true}')
      assert.equal(200, first)
      assert.equal("3000", headers["x-ratelimit-limit-tokens"])
      total = 3000 - tonumber(headers["x-ratelimit-remaining-tokens"])
      server.await("settling", function() return taken "a" == total end)
      add(ask("a", "/v1/completions", '{"prompt":["hello","good day"],"max_tokens":5,"n":2}'))
      add(ask("a", "/v1/completions", '{"prompt":[[1,2,3],[4]],"max_tokens":5}'))
      add(ask("a", "/v1/completions", '{"prompt":[1,2,3],"max_tokens":5}'))
      add(ask("a", "/v1/completions", '{"prompt":"hello"}'))
      local _, answer = ask("a", "/v1/chat/completions", chat("hello", {ignore_eos = true}))
      assert.equal(20, answer.usage.completion_tokens)
      add(_, answer)
      _, answer = ask("a", "/v1/chat/completions", '{"max_tokens":null,"max_completion_tokens":null,' ..
        chat("hello", {ignore_eos = true}):sub(2) .. " \n")
      assert.equal(20, answer.usage.completion_tokens)
      add(_, answer)
      add(ask("a", "/v1/chat/completions", chat("hello", {max_tokens = 9, n = 2, stop = "a"})))
      add(ask("a", "/v1/responses", '{"input":"hello","max_output_tokens":6,"ignore_eos":true}'))
      _, answer = ask("a", "/v1/responses", '{"input":"hello","ignore_eos":true}')
      assert.equal(20, answer.usage.output_tokens)
      add(_, answer)
      _, answer = ask("a", "/v1/messages", '{"max_tokens":6,' .. chat("hello"):sub(2))
      total = total + answer.usage.input_tokens + answer.usage.cache_read_input_tokens + answer.usage.output_tokens
      server.await("settling", function() return taken "a" == total end)
      assert.equal(total, taken "a")
    end)

    it("of streams too, also those whose client leaves", function()
      local before = taken "a"
      local _, text = http.ask(process.port, "POST", "/v1/completions?who=a",
        '{"prompt":"hello","max_tokens":30,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}')
      assert.equal(30, tonumber(text:match '"completion_tokens":(%d+)'))
      local all = before + tonumber(text:match '"total_tokens":(%d+)')
      server.await("settling", function() return taken "a" == all end)
      local c = http.connect(process.port)
      c:send(http.request("POST", "/v1/completions?who=left",
        '{"prompt":"hello","max_tokens":1900,"ignore_eos":true,"stream":true}'))
      assert.equal(200, http.head(c).status)
      http.chunk(c)
      assert.equal(1903, taken "left")
      c:close()
      server.await("settling", function() return taken "left" < 1903 end)
      assert.is_true(taken "left" > 3)
    end)

    it("and refuses what would go beyond, with all that runs counted in full", function()
      local status, refused, headers = ask("b", "/v1/completions", '{"prompt":"hello","max_tokens":2998}')
      assert.equal(429, status)
      assert.equal("rate_limit_error", refused.error.type)
      assert.equal("tokens: this may take 3001, and of 3000 a minute 0 are taken", refused.error.message)
      assert.is_true(tonumber(headers["retry-after"]) <= 60)
      assert.equal(0, taken "b")
      status = ask("b", "/v1/completions", '{"prompt":"hello","max_tokens":300,"n":10}')
      assert.equal(429, status)
    end)

    it("and gives back what a refused request had set aside", function()
      for _, body in ipairs {'{"prompt":"hello","temperature":-1}', '{"prompt":"a","max_tokens":-5000}', '{"prompt":7}',
        '{"prompt":[]}', '{"n":"x","prompt":"a"}', "[]", "no", '{"prompt":null}'} do
        assert.equal(400, (ask("c", "/v1/completions", body)))
      end
      server.await("settling", function() return taken "c" == 0 end)
      assert.equal(400, (ask("c", "/v1/chat/completions", '{"messages":[]}')))
      assert.equal(0, taken "c")
    end)
  end)

  it("has a dashboard whose every figure is there", function()
    local dashboard = assert(json.decode(server.read "examples/nginx/grafana.json"))
    local _, text = http.ask(nginx.port, "GET", "/metrics")
    local ids, cells = {}, {}
    for _, panel in ipairs(dashboard.panels) do
      assert.is_nil(ids[panel.id])
      ids[panel.id] = true
      assert.is_true(#panel.targets > 0)
      for _, target in ipairs(panel.targets) do
        for name in target.expr:gmatch "fp8llm_[%w_]+" do
          if not text:find("\n" .. name .. "{model=\"model\"", 1, true) then error("no such figure: " .. name) end
        end
      end
      local at = panel.gridPos
      for x = at.x, at.x + at.w - 1 do
        assert.is_true(x < 24)
        assert.is_nil(cells[x .. " " .. at.y])
        cells[x .. " " .. at.y] = true
      end
    end
    local source = server.read "examples/nginx/grafana.json"
    for name in text:gmatch "\n# TYPE (fp8llm_[%w_]+) histogram" do
      if not source:find(name .. "_bucket", 1, true) then error("not shown: " .. name) end
    end
  end)

  it("and a client that takes what lua-cjson makes of JSON", function()
    -- Its null is a userdata, an empty list of it a table like any other or, marked, a userdata again.
    local process = start_server("cjson", "", string.format([[
      location /ask {
        content_by_lua_block {
          local null, marked = ngx.null, io.stdout
          package.loaded.cjson = {empty_array = marked, null = null}
          local engine = require("resty.fp8llm").new {socket = "unix:%s/model.sock"}
          local messages = {
            {role = "user", content = "a", name = null},
            {role = "assistant", content = "b", tool_calls = ngx.var.arg_marked and marked or {}},
            {role = "user", content = {{type = "text", text = "c"}}},
          }
          local stream, refusal = engine:chat {
            messages = messages, tools = {}, stop = null, logit_bias = {}, max_tokens = 2, ignore_eos = true,
            temperature = null, documents = ngx.var.arg_marked and marked or null,
          }
          if not stream then return ngx.print(refusal.message) end
          local count = 0
          for event in stream:events() do count = event.usage and event.usage.completion_tokens or count end
          ngx.print(count)
        }
      }
    ]], dir))
    for _, path in ipairs {"/ask", "/ask?marked=1"} do
      local status, text = http.ask(process.port, "GET", path)
      assert.same({200, "2"}, {status, text})
    end
    assert.equal(0, server.stop(process, "QUIT"))
  end)

  it("an engine can also live in the only worker of an nginx", function()
    local inside = start("inside", string.format([[
      worker_processes 1;
      events {}
      http {
        lua_package_path "%s";
        lua_package_cpath "%s/build/?.so";
        init_worker_by_lua_block {
          local fp8llm = require "fp8llm"
          engine = assert(assert(fp8llm.load("%s/build/spec/nginx/roomy", {threads = 1})):engine {})
          -- A userdata for null, as lua-cjson has it.
          assert(engine:submit {prompt = "a", max_tokens = 1, stop = ngx.null, seed = ngx.null, logit_bias = ngx.null})
          assert(engine:listen("%s/inside.sock", {names = {"tiny"}}))
        }
      }
    ]], found.paths.lua, here, here, dir))
    local answer = server.await("the worker's engine " .. server.read(inside.log), function()
      local connected, line = pcall(server.ask, dir .. "/inside.sock", "health")
      return connected and line
    end)
    assert.equal('{"status":"ok"}', answer)
    assert.equal(0, server.stop(inside, "QUIT"))
  end)

  it("examples/client.lua talks to the server", function()
    local url = "http://127.0.0.1:" .. nginx.port
    local request = chat("hello", {temperature = 0, max_tokens = 200})
    local _, text = http.ask(nginx.port, "POST", "/v1/chat/completions", request)
    local expected = json.decode(text).choices[1].message.content
    local paths = "LUA_PATH='" .. package.path .. "' "
    assert.equal(expected, server.shell(paths .. "luajit examples/client.lua " .. url .. " hello; true"))
    assert.truthy(server.shell(paths .. "luajit examples/client.lua " .. url .. "/none hello"):find "no such path")
  end)

  it("ends as a service manager expects", function()
    assert.equal(0, server.stop(nginx, "QUIT"))
    assert.equal(0, server.stop(engine))
    assert.equal("STOPPING=1", engine.told:receive())
    engine.told:close()
  end)
end)
