-- What a server and its command must not believe: directories they are started in, files, other servers, clients that
-- say half of what they want.
local files = dofile "spec/support/files.lua"
local http = require "spec.nginx.http"
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
        local said = server.shell(("build/fp8llm %s %s %s 2>&1 >/dev/null"):format(command, dir, rest))
        assert.is_nil(said:find "[%z\1-\8\11-\31\127]", words .. " of " .. change[3])
        assert.is_nil(said:find "\194[\128-\159]", words .. " of " .. change[3])
      end
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
