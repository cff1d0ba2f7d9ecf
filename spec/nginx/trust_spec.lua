-- What a server and its command must not believe: directories they are started in, files, other servers, clients that
-- say half of what they want.
local files = dofile "spec/support/files.lua"
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"
local socket = require "socket"

local here = server.shell "pwd"
local root = here .. "/build/spec/nginx/trust"
local plain = "env -u LUA_PATH -u LUA_CPATH "

describe("a directory with Lua files of somebody else", function()
  local dir, owned = root .. "/dir", root .. "/owned"

  setup(function()
    server.shell("rm -rf " .. root .. " && mkdir -p " .. dir .. "/resty/core " .. dir .. "/fp8llm/cmd")
    for _, name in ipairs {
      "fp8llm", "socket", "cjson", "ffi", "jit", "string", "table", "bit", "resty/core", "resty/lrucache",
      "resty/fp8llm", "fp8llm/json", "fp8llm/cli", "fp8llm/cmd/serve", "fp8llm/openai", "ngx",
    } do
      local text = ("io.open(%q, 'a'):write(%q)"):format(owned, name .. "\n")
      server.shell("mkdir -p " .. dir .. "/" .. name:gsub("[^/]*$", ""))
      files.write(dir .. "/" .. name .. ".lua", text)
      server.shell("mkdir -p " .. dir .. "/" .. name)
      files.write(dir .. "/" .. name .. "/init.lua", text)
    end
    for _, name in ipairs {"fp8llm", "fp8llm_cuda", "cjson"} do
      files.write(dir .. "/" .. name .. ".so", "no library")
    end
  end)

  it("is nothing to the command that is started in it", function()
    local model = here .. "/" .. server.model "tiny"
    for _, words in ipairs {"--version", "--help", "tokenize " .. model .. " hello", "inspect " .. model,
      "generate " .. model .. " --prompt hello --max-tokens 2", "bench tokenizer " .. model} do
      local said = server.shell(("cd %s && %s %s/build/fp8llm %s; echo =$?"):format(dir, plain, here, words))
      assert.truthy(said:find "=0$", said)
      assert.equal("", files.read(owned) or "", words)
    end
  end)

  -- The command as it is installed, with one Lua alone to be found.
  local function install(version)
    local prefix = root .. "/lua" .. version
    local module = version == "5.1" and "build/fp8llm.so" or "build/lua" .. version .. "/fp8llm.so"
    local lua = server.shell("command -v lua" .. version)
    if lua == "" or not files.read(module) then return nil end
    server.shell(([[set -e; p=%s; v=%s; mkdir -p $p/bin $p/path $p/lib/lua/$v $p/share/lua/$v
      cp lua/fp8llm.sh $p/bin/fp8llm; chmod +x $p/bin/fp8llm; cp -r lua/fp8llm $p/share/lua/$v
      cp %s $p/lib/lua/$v; ln -s %s $p/path/lua$v
      for tool in sh env readlink; do ln -s $(command -v $tool) $p/path/$tool; done]])
      :format(prefix, version, module, lua))
    return ("PATH=%s/path %s/bin/fp8llm"):format(prefix, prefix)
  end

  it("nor is it with any Lua, whatever the environment says of paths", function()
    local commands, tried = {here .. "/build/fp8llm", install "5.1", install "5.4"}, 0
    for _, command in pairs(commands) do
      for _, name in ipairs {"PATH", "CPATH", "INIT"} do
        for _, version in ipairs {"", "_5_1", "_5_4"} do
          for _, value in ipairs(name == "INIT" and {"@fp8llm.lua"} or {";;", "./?.lua;./?.so;;", "?.lua;?.so"}) do
            local words = ("LUA_%s%s='%s' %s --version"):format(name, version, value, command)
            local said = server.shell(("cd %s && %s env %s; echo =$?"):format(dir, plain, words))
            assert.truthy(said:find "=0$", words .. ": " .. said)
            assert.equal("", files.read(owned) or "", words)
            tried = tried + 1
          end
        end
      end
    end
    assert.is_true(tried >= 21)
  end)

  it("nor to a server", function()
    local port = server.port()
    local process = server.spawn("trusting", ("sh -c 'cd %s && exec %s %s/build/fp8llm serve %s/%s --port %d'"):format(
      dir, plain, here, here, server.model "tiny", port))
    process.port = port
    server.ready(process)
    assert.equal(200, (http.ask(port, "POST", "/v1/completions", '{"prompt":"a","max_tokens":1}')))
    assert.equal(0, server.stop(process))
    assert.equal("", files.read(owned) or "")
  end)
end)

describe("two servers of one user", function()
  it("have run directories of their own, and none takes that of another", function()
    local runtime = "/tmp/fp8llm-trust-" .. server.port()
    server.shell("mkdir -p -m 755 " .. runtime)
    local words = server.model "tiny" .. " --served-model-name tiny"
    local list = {}
    for i = 1, 2 do
      local port = server.port()
      list[i] = server.spawn("runtime" .. i, ("build/fp8llm serve %s --port %d"):format(words, port),
        "XDG_RUNTIME_DIR=" .. runtime)
      list[i].port = port
      server.ready(list[i])
    end
    local first = server.start("first", words)
    local second = server.spawn("second", ("build/fp8llm serve %s --port %d --run-dir %s"):format(words, server.port(),
      first.run))
    assert.equal(1, server.wait(second, 20))
    assert.truthy(server.read(second.log):find("held by process " .. first.pid, 1, true), server.read(second.log))
    assert.equal(0, server.stop(list[2]))
    for _, process in ipairs {list[1], first} do
      assert.equal(200, (http.ask(process.port, "POST", "/v1/completions", '{"prompt":"a","max_tokens":1}')))
    end
    assert.equal(0, server.stop(first))
    first = server.start("first", words) -- what it left is no obstacle
    server.stop(first, "KILL")
    server.await("the end of what it had started", function()
      return not pcall(http.ask, first.port, "GET", "/health")
    end)
    first = server.start("first", words) -- nor is what a kill leaves
    assert.equal(0, server.stop(first))
    assert.equal(0, server.stop(list[1]))
    server.shell("rm -rf " .. runtime)
  end)
end)

describe("the texts of a file", function()
  it("reach no terminal with their escape sequences", function()
    local escape = "\\u001b[2J\\u009b1m\\u0007"
    local dir = root .. "/escapes"
    for _, change in ipairs {
      {"config.json", '"llama"', '"' .. escape .. '"'}, {"config.json", '"LlamaForCausalLM"', '"' .. escape .. '"'},
      {"config.json", '"silu"', '"' .. escape .. '"'}, {"config.json", "^{", '{"torch_dtype":"' .. escape .. '",'},
      {"config.json", "^{", '{"quantization_config":{"quant_method":"' .. escape .. '"},'},
      {"config.json", "^{", '{"rope_scaling":{"rope_type":"' .. escape .. '"},'},
      {"tokenizer.json", '"BPE"', '"' .. escape .. '"'}, {"tokenizer.json", '"type":%s*"ByteLevel"',
        '"type":"' .. escape .. '"'},
      {"tokenizer_config.json", '"chat_template":%s*"', '%0{{ raise_exception(\'' .. escape .. "') }}"},
      {"tokenizer_config.json", '"chat_template":%s*"', "%0{% " .. escape .. " %%}"},
      {"model.safetensors.index.json", "^.*$", '{"weight_map":{"' .. escape .. '":"' .. escape .. '"}}'},
    } do
      server.shell("rm -rf " .. dir .. " && mkdir -p " .. root .. " && cp -r " .. server.model "tiny" .. " " .. dir)
      local path = dir .. "/" .. change[1]
      local text = files.read(path) or ""
      files.write(path, (text:gsub(change[2], change[3], 1)))
      for _, words in ipairs {"inspect", "chat --message hello --max-tokens 1", "generate --prompt a --max-tokens 1"} do
        local command, rest = words:match "^(%S+)(.*)$"
        -- What a model says is its own: of the others what goes to stdout counts, too.
        local said = server.shell(("{ build/fp8llm %s %s %s %s; }"):format(command, dir, rest,
          words == "inspect" and "" or ">/dev/null"))
        assert.is_nil(said:find "[%z\1-\8\11-\31\127]", words .. " of " .. change[3])
        assert.is_nil(said:find "\194[\128-\159]", words .. " of " .. change[3])
      end
    end
  end)
end)

describe("names on the command line, and in lines of requests", function()
  it("reach no terminal with their escape sequences", function()
    local escape = "\27[2J"
    local model, dir = server.model "tiny", root .. "/m" .. escape
    server.shell(("rm -rf %s/m* && mkdir -p %s && cp -r %s '%s'"):format(root, root, model, dir))
    local input = root .. "/escapes.jsonl"
    files.write(input, [[
{"custom_id":"\u001b[2J","method":"POST","url":"/v1/\u001b[2J","body":{"prompt":"a"}}
{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"a","\u001b[2J":1,"temperature":"\u001b[2J"}}
]])
    local none, socket_path = "'/none" .. escape .. "'", root .. "/none.sock"
    for _, words in ipairs {
      "'com" .. escape .. "'", "inspect '--opt" .. escape .. "' " .. model,
      "inspect " .. model .. " 'x" .. escape .. "'",
      "inspect " .. none, "inspect '" .. dir .. "'", "generate " .. none .. " --prompt a",
      "generate " .. model .. " --prompt a --kv 'x" .. escape .. "'", "generate " .. model .. " --input " .. none,
      "tokenize " .. model .. " 'a" .. escape .. "'", "chat " .. none .. " --message a", "bench " .. none,
      "eval " .. model .. " " .. none, "quantize " .. none .. " " .. root .. "/q", "quantize '" .. dir .. "' " .. none,
      "batch " .. model .. " " .. input .. " " .. none,
      "batch " .. model .. " " .. input .. " " .. root .. "/out.jsonl",
      "pull 'org/x" .. escape .. "'", "serve " .. none .. " --listen unix:" .. socket_path,
      "serve " .. model .. " --listen 'unix:/none" .. escape .. "/s'", "serve " .. model .. " --run-dir '/proc/x" ..
      escape .. "'", "serve " .. model .. " --api-keys " .. none, "serve " .. model .. " --policy 'a=/none" .. escape ..
      ".lua' --listen unix:" .. socket_path, "serve " .. model .. " --host 'x" .. escape .. "'",
    } do
      local said = server.shell("build/fp8llm " .. words .. " </dev/null")
      assert.is_true(#said > 0, words)
      assert.is_nil(said:find(escape, 1, true), (words:gsub("%c", "?")))
    end
    server.shell(("rm -rf %s/m*"):format(root))
  end)
end)

describe("a socket that is asked for by name", function()
  it("is taken from the dead only", function()
    local words = server.model "tiny" .. " --served-model-name tiny"
    local first = server.engine("asked", words)
    local second = server.spawn("asking", ("build/fp8llm serve %s --listen unix:%s"):format(words, first.path))
    assert.equal(1, server.wait(second, 20))
    local said = server.read(second.log)
    assert.truthy(said:find("process " .. first.pid .. " listens there", 1, true), said)
    assert.equal('{"status":"ok"}', server.ask(first.path, "health"))
    server.stop(first, "KILL")
    assert.truthy(os.rename(first.path, first.path)) -- it is still there
    local third = server.engine("asked", words)
    assert.equal('{"status":"ok"}', server.ask(third.path, "health"))
    assert.equal(0, server.stop(third))
    files.write(third.path, "a file of somebody's") -- no socket: not ours to remove
    second = server.spawn("asking", ("build/fp8llm serve %s --listen unix:%s"):format(words, third.path))
    assert.equal(1, server.wait(second, 20))
    assert.equal("a file of somebody's", files.read(third.path))
    os.remove(third.path)
  end)
end)

describe("requests to a loopback address", function()
  local list = {
    {"GET", "/"}, {"GET", "/health"}, {"GET", "/metrics"}, {"GET", "/v1/models"}, {"GET", "/v1/models/tiny"},
    {"GET", "/tokenizer_info"}, {"POST", "/v1/chat/completions"}, {"POST", "/v1/completions"},
    {"POST", "/v1/responses"},
    {"POST", "/v1/messages"}, {"POST", "/v1/messages/count_tokens"}, {"POST", "/tokenize"}, {"POST", "/detokenize"},
    {"OPTIONS", "/v1/completions"}, {"GET", "/nothing"},
  }
  local process

  setup(function()
    process = server.start("named", server.model "tiny" ..
      " --allowed-host llm.example --allowed-host other.example:8443 --metrics --allow-origin https://llm.example")
  end)
  teardown(function() assert.equal(0, server.stop(process)) end)

  local function ask(case, host, headers)
    headers = headers or {}
    headers.Host = host
    return (http.ask(process.port, case[1], case[2], case[1] == "POST" and "{}" or nil, headers))
  end

  it("are answered at no path under a name that a page may have made up", function()
    for _, case in ipairs(list) do
      for _, host in ipairs {"evil.example", "llm.example.evil.example", "other.example", "localhost.evil.example"} do
        assert.equal(403, ask(case, host), case[2] .. " " .. host)
      end
    end
  end)

  it("are under its own names, those of IPv6 too, and those that are allowed", function()
    for _, case in ipairs(list) do
      for _, host in ipairs {"localhost", "[::1]:8000", "127.0.0.1", "llm.example", "LLM.example:1",
        "other.example:8443"} do
        assert.is_true(ask(case, host) ~= 403, case[2] .. " " .. host)
      end
    end
  end)

  it("need the type of a body wherever they have one", function()
    for _, case in ipairs(list) do
      if case[1] == "POST" then
        assert.equal(415, ask(case, "localhost", {["Content-Type"] = "text/plain"}), case[2])
      end
    end
  end)
end)

describe("the readers of JSON in C and Lua", function()
  local process

  setup(function() -- a template that shows what was read
    local dir = root .. "/echo"
    server.shell("rm -rf " .. dir .. " && mkdir -p " .. root .. " && cp -r " .. server.model "tiny" .. " " .. dir)
    local path = dir .. "/tokenizer_config.json"
    local config = json.decode(files.read(path))
    config.chat_template = "{{ messages[0]['x'] | tojson }}"
    files.write(path, json.encode(config))
    process = server.start("echo", dir)
  end)
  teardown(function() assert.equal(0, server.stop(process)) end)

  it("make the same values of the same texts", function()
    for _, text in ipairs {
      "1", "-0", "-0.0", "1.5", "1e2", "1E-2", "1e999", "-1e999", "123456789012", "9007199254740993",
      "99999999999999999999", "5e-324", '"a"', '"\\u00e4\\ud83d\\udc07"', '"\\ud800"', '"\\udc07x"', '"\\ud800\\u0041"',
      '"\\u0000"', '"\\/\\b\\f"', "[]", "{}", "[1,[2,{}]]", '{"a":1,"a":2}', '{"a":1,"b":3,"a":null}',
      '{"a":{"b":1},"a":{"c":2}}', '{"\\u0061":1,"a":2}', '{"":1}', "true", "[null]", "NaN", "Infinity",
    } do
      local status, answer = http.ask(process.port, "POST", "/tokenize",
        '{"add_special_tokens":false,"messages":[{"role":"user","content":"a","x":' .. text .. "}]}")
      assert.equal(200, status, text .. ": " .. tostring(answer))
      local _, back = http.ask(process.port, "POST", "/detokenize", json.encode {tokens = json.decode(answer).tokens})
      back = json.decode(back).prompt
      local ours, theirs = json.decode('{"x":' .. text .. "}"), json.decode('{"x":' .. back .. "}")
      assert.truthy(theirs, text .. ": " .. back)
      assert.equal(json.encode(ours), json.encode(theirs), text)
    end
  end)
end)

describe("clients that say half", function()
  it("take no place of others and are sent away", function()
    local process = server.start("half", server.model "tiny")
    local list = {}
    for i = 1, 200 do
      list[i] = http.connect(process.port)
      list[i]:send(i % 2 == 0 and "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-A: " or "GE")
    end
    local began = socket.gettime()
    while socket.gettime() - began < 4 do
      for i = 1, 200 do list[i]:send "a" end -- as slowly as it may be
      assert.equal(200, (http.ask(process.port, "POST", "/v1/completions", '{"prompt":"a","max_tokens":1}')))
      socket.sleep(0.5)
    end
    for i = 1, 200 do
      local line, trouble = list[i]:line()
      assert.is_true(trouble == "closed" or line and line:find "40[08]" ~= nil, tostring(line) .. tostring(trouble))
    end
    assert.equal(0, server.stop(process))
  end)
end)

describe("clients of one address", function()
  local engine, front

  setup(function()
    engine = server.engine("limited", server.model "tiny")
    front = server.nginx("limited-front", engine.path, {max_per_address = 4})
    server.ready(front)
  end)
  teardown(function()
    assert.equal(0, server.stop(front, "QUIT"))
    assert.equal(0, server.stop(engine))
  end)

  it("are limited together, while others are served", function()
    local request = http.request("POST", "/v1/completions", '{"prompt":"a","max_tokens":1}')
    local list = {}
    local status, text, headers
    repeat -- a connection that ended just now may still count
      list[#list + 1] = http.connect(front.port)
      list[#list]:send(request:sub(1, -2)) -- all but the last byte of the body
      socket.sleep(0.05)
      status, text, headers = http.ask(front.port, "GET", "/v1/models")
    until status ~= 200 or #list == 8
    assert.equal(429, status)
    assert.equal("1", headers["retry-after"])
    assert.truthy(json.decode(text).error.message:find("address", 1, true))
    local other = assert(socket.tcp())
    assert(other:bind("127.0.0.2", 0))
    other:settimeout(20)
    assert(other:connect("127.0.0.1", front.port))
    other:send(request)
    assert.equal("HTTP/1.1 200 OK", other:receive "*l")
    other:close()
    local served = 0
    for _, c in ipairs(list) do
      c:send(request:sub(-1))
      served = served + (http.head(c).status == 200 and 1 or 0)
      c:close()
    end
    assert.is_true(served == 3 or served == 4, served)
    server.await("the end of the limit", function() return http.ask(front.port, "GET", "/v1/models") == 200 end)
  end)
end)
