-- fp8llm pull, against a hub of ours (spec/support/fake_hub.py): what lies in the cache after it, and what it says of
-- each trouble.
local files = dofile "spec/support/files.lua"
local json = require "fp8llm.json"
if _VERSION:match "5%.[23]" then return end

local function interpreter()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

local version = _VERSION:match "%d%.%d"
local pwd = io.popen "pwd -P"
local dir = pwd:read "*l" .. "/build/spec/pull-" .. version .. (rawget(_G, "jit") and "-jit" or "") .. "/"
pwd:close()
local repos, cache = dir .. "repos/", dir .. "home/hub/"
local cli = ("LUA_CPATH='%s/?.so' LUA_PATH='lua/?.lua' %s lua/fp8llm/cli.lua "):format(
  version == "5.1" and "build" or "build/lua" .. version, interpreter())

local function shell(line)
  local p = io.popen(line .. " 2>&1; echo status=$?")
  local said = p:read "*a"
  p:close()
  return said, tonumber(said:match "status=(%d+)%s*$")
end

local weights = ("0123456789abcdef"):rep(20000)

-- A repository: what of it is out of the ordinary, further files.
local function repository(name, troubles, more)
  os.execute("mkdir -p " .. repos .. name)
  local content = {["config.json"] = '{"model_type": "llama"}', ["tokenizer.json"] = "{}",
    ["model.safetensors"] = weights}
  for file, text in pairs(more or {}) do content[file] = text or nil end
  for file, text in pairs(content) do
    if text then
      if file:find "/" then os.execute("mkdir -p " .. repos .. name .. "/" .. file:match "^(.*)/") end
      files.write(repos .. name .. "/" .. file, text)
    end
  end
  if troubles then files.write(repos .. name .. ".json", json.encode(troubles)) end
end

local server, port

-- The command with an environment; what the hub was asked meanwhile.
local function pull(name, environment)
  files.write(repos .. "log", "")
  local said, status = shell(("env -u HF_TOKEN -u HF_HUB_CACHE -u HF_HUB_OFFLINE -u http_proxy -u all_proxy "
    .. "HF_HOME=%shome HF_ENDPOINT=http://127.0.0.1:%d %s %spull %s"):format(dir, port, environment or "", cli, name))
  return said, status, files.read(repos .. "log")
end

local function snapshot(name)
  local p = io.popen(("cd %smodels--%s/snapshots/* && find . -type l | sort"):format(cache, (name:gsub("/", "--"))))
  local list = p:read "*a"
  p:close()
  return (list:gsub("%./", ""):gsub("\n", " "))
end

local function exists(path)
  local f = io.open(path)
  if f then f:close() end
  return f ~= nil
end

local function refused(said, status, ...)
  assert.equal(1, status, said)
  assert.is_nil(said:find "%.lua:%d", said)
  for _, words in ipairs {...} do assert.is_truthy(said:find(words, 1, true), said) end
end

describe("pull", function()
  setup(function()
    os.execute("rm -rf " .. dir .. " && mkdir -p " .. repos)
    os.execute("mkfifo " .. dir .. "alive")
    os.execute(("sh -c 'exec 9<>D/alive; python3 spec/support/fake_hub.py D/repos <D/alive >D/port & echo $! >D/pid' &")
      :gsub("D", (dir:sub(1, -2))), nil)
    for _ = 1, 200 do
      port = tonumber(files.read(dir .. "port") or "")
      if port then break end
      os.execute "sleep 0.05"
    end
    server = files.read(dir .. "pid")
  end)
  teardown(function() os.execute("kill " .. server) end)

  it("fetches what is read, once, where other programs look for it", function()
    repository("org/plain", nil, {
      ["pytorch_model.bin"] = "x", ["original/config.json"] = "x", ["model.gguf"] = "x", LICENSE = "free",
      ["additional_chat_templates/rag.jinja"] = "rag", ["consolidated.safetensors"] = "copy", ["train.py"] = "x",
      ["tokenizer_config.json"] = "",
    })
    local said, status, log = pull "org/plain"
    assert.equal(0, status, said)
    assert.equal("LICENSE additional_chat_templates/rag.jinja config.json model.safetensors tokenizer.json "
      .. "tokenizer_config.json ", snapshot "org/plain")
    local commit = files.read(cache .. "models--org--plain/refs/main")
    local found = cache .. "models--org--plain/snapshots/" .. commit
    assert.is_truthy(said:find(found .. "\n", 1, true), said)
    assert.equal(weights, files.read(found .. "/model.safetensors"))
    assert.equal("rag", files.read(found .. "/additional_chat_templates/rag.jinja"))
    assert.is_truthy(log:find("elsewhere GET", 1, true))
    said, status, log = pull "org/plain@v1/x"
    assert.equal(0, status, said)
    assert.equal(1, select(2, log:gsub("\n", "")), log)
    assert.equal(commit, files.read(cache .. "models--org--plain/refs/v1/x"))
    assert.equal(0, select(2, pull("org/plain", "HF_HUB_OFFLINE=1")))
    said, status = pull("org/other", "HF_HUB_OFFLINE=1")
    refused(said, status, "HF_HUB_OFFLINE is set")
  end)

  it("goes on after cuts, errors and requests to wait", function()
    repository("org/bumpy", {fail = {["model.safetensors"] = {"cut", 503, 429, "short", "cut"},
      ["config.json"] = {500}}})
    local said, status, log = pull "org/bumpy"
    assert.equal(0, status, said)
    assert.is_truthy(log:find("bytes=160000-", 1, true), log)
    assert.equal(weights, files.read(cache .. "models--org--bumpy/snapshots/"
      .. files.read(cache .. "models--org--bumpy/refs/main") .. "/model.safetensors"))
  end)

  it("goes on where an earlier one was, if that was its beginning", function()
    local digest = io.popen("printf %s " .. weights:sub(1, 16) .. " >/dev/null; sha256sum " .. repos
      .. "org/plain/model.safetensors")
    local part = digest:read(64) .. ".incomplete"
    digest:close()
    for i, case in ipairs {{weights:sub(1, 1000), "bytes=1000-"}, {"wrong", "bytes=5-"},
      {weights .. "more", "model.safetensors?signed=a%20b - -"}, {weights:sub(1, 7), "bytes=7-", {no_ranges = true}},
      {weights, "resolve"}} do
      local name = "org/part" .. i
      repository(name, case[3])
      local blobs = cache .. "models--org--part" .. i .. "/blobs/"
      os.execute("mkdir -p " .. blobs)
      files.write(blobs .. part, case[1])
      local said, status, log = pull(name)
      assert.equal(0, status, said)
      assert.is_truthy(log:find(case[2], 1, true), log)
      assert.equal(weights, files.read(blobs .. part:sub(1, 64)))
      assert.is_false(exists(blobs .. part))
    end
  end)

  it("keeps nothing that is not what was listed", function()
    for i, case in ipairs {{{sha256 = ("a"):rep(64)}, "is to have the digest"},
      {{size = #weights - 1}, "more than 319999 bytes"}, {{size = #weights + 1}, "ends after 320000 of 320001 bytes"},
      {{size = 1e18}, "MB are needed"}} do
      repository("org/lie" .. i, {lie = {["model.safetensors"] = case[1]}})
      local said, status = pull("org/lie" .. i)
      refused(said, status, case[2])
    end
    for i = 1, 4 do
      local p = io.popen("ls -s " .. cache .. "models--org--lie" .. i .. "/blobs")
      assert.is_nil(p:read "*a":find(("a"):rep(64), 1, true))
      p:close()
      assert.is_false(exists(cache .. "models--org--lie" .. i .. "/refs/main"))
    end
  end)

  it("writes nowhere else", function()
    for i, name in ipairs {"../evil.safetensors", "/tmp/evil.safetensors", "a/../../x.json", "a\nb", "", "a//b", "./x",
      "additional_chat_templates/../x.jinja"} do
      repository("org/evil" .. i, {names = {name}})
      local said, status = pull("org/evil" .. i)
      refused(said, status, "not safe")
      assert.is_false(exists(cache .. "models--org--evil" .. i .. "/blobs"))
    end
  end)

  it("explains who may", function()
    repository("org/gated", {gated = true})
    local said, status = pull "org/gated"
    refused(said, status, "org/gated: its authors", "/org/gated and accept", "HF_TOKEN", "/settings/tokens")
    said, status = pull("org/gated", "HF_TOKEN=known")
    refused(said, status, "has not been let in")
    said, status = pull("org/gated", "HF_TOKEN=stranger")
    refused(said, status, "refuses the token (HF_TOKEN)")
    local log
    said, status, log = pull("org/gated", "HF_TOKEN=good")
    assert.is_truthy(log:find("Bearer good", 1, true))
    assert.equal(0, status, said)
    assert.is_truthy(log:find("elsewhere GET [^\n]* %- %-\n"), log)
    repository("org/private", {private = true})
    said, status = pull "org/private"
    refused(said, status, "no such model, or it is private", "HF_TOKEN is not set")
    files.write(dir .. "home/token", "good\n")
    said, status = pull "org/private"
    os.remove(dir .. "home/token")
    assert.equal(0, status, said)
  end)

  it("shows the token to nobody", function()
    repository("org/secret", {gated = true})
    os.execute("mkdir -p " .. dir .. "bin")
    files.write(dir .. "bin/curl", ("#!/bin/sh\ncat /proc/$$/cmdline /proc/$PPID/cmdline >>%sseen\n"
      .. "exec /usr/bin/curl \"$@\"\n"):format(dir))
    os.execute("chmod +x " .. dir .. "bin/curl")
    local said, status = pull("org/secret", ("HF_TOKEN=good PATH=%sbin:$PATH"):format(dir))
    assert.equal(0, status, said)
    assert.is_nil(files.read(dir .. "seen"):find("good", 1, true))
    for _, token in ipairs {"a\"b", "a b", "a\nb"} do
      said, status = pull("org/secret", ("HF_TOKEN='%s'"):format(token))
      refused(said, status, "HF_TOKEN: is no token")
    end
  end)

  it("says what is not there", function()
    local said, status = pull "org/nowhere"
    refused(said, status, "org/nowhere", "no such model")
    said, status = pull "org/plain@v7"
    refused(said, status, "org/plain: no revision 'v7'")
    repository("org/bin", nil, {["model.safetensors"] = false, ["pytorch_model.bin"] = "x"})
    said, status = pull "org/bin"
    refused(said, status, "no *.safetensors")
    said, status = pull "name"
    refused(said, status, "org/name")
    said, status = shell(("HF_HOME=%shome %s chat org/missing --message x"):format(dir, cli))
    refused(said, status, "fp8llm pull org/missing")
  end)

  it("follows a model that was renamed, and asks a hub that lists names only", function()
    repository("org/old", {moved = "org/plain"})
    local said, status = pull "org/old"
    assert.equal(0, status, said)
    repository("org/bare", {no_blobs = true})
    said, status = pull "org/bare"
    assert.equal(0, status, said)
    assert.equal("config.json model.safetensors tokenizer.json ", snapshot "org/bare")
  end)

  it("waits for another one", function()
    repository("org/twice", {fail = {["model.safetensors"] = {"cut"}}})
    local one = (("HF_HOME=%shome HF_ENDPOINT=http://127.0.0.1:%d %s pull org/twice"):format(dir, port, cli))
    local said = shell(("{ %s; echo first=$?; } & %s; echo second=$?; wait"):format(one, one))
    assert.is_truthy(said:find("first=0", 1, true), said)
    assert.is_truthy(said:find("second=0", 1, true), said)
  end)
end)
