-- What one key asks for must not hold up another. The engine makes 200 tokens a second, one completion at a time.
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"
local socket = require "socket"

local keys = "build/spec/nginx/turns.keys"

local function start(options)
  server.write(keys, "many many 0 0\nother other 0 0\none one 1 0\n")
  return server.start("turns", server.model "tiny" .. " --served-model-name tiny --max-running 1 --api-keys " .. keys ..
    " " .. options, server.paced)
end

local function send(port, key, fields)
  fields.prompt, fields.ignore_eos, fields.temperature = "a", true, 0
  local c = http.connect(port)
  c:send(http.request("POST", "/v1/completions", json.encode(fields),
    {Authorization = "Bearer " .. key, Connection = "close"}))
  return c
end

-- How many of the connections have been answered.
local function answered(list)
  local socks, n = {}, 0
  for i, c in ipairs(list) do socks[i] = c.sock end
  for _ in ipairs((socket.select(socks, nil, 0))) do n = n + 1 end
  return n
end

-- 64 requests of one key wait; then another key asks -> how many of the 64 were answered before its first token
local function turns_until_first_token(process, fields)
  local list = {}
  for i = 1, 64 do list[i] = send(process.port, "many", {max_tokens = 8, priority = fields.others_priority}) end
  server.await("the first of 64", function() return answered(list) > 0 end)
  local before = answered(list)
  local c = send(process.port, "other", {max_tokens = 2, stream = true})
  assert(http.head(c).status == 200)
  assert(http.chunk(c))
  local after = answered(list)
  c:close()
  for _, waiting in ipairs(list) do waiting:close() end
  return after - before
end

describe("a key that asks for much", function()
  it("holds up another one for two of its turns at most, whatever priority it claims", function()
    local process = start ""
    assert.is_true(turns_until_first_token(process, {}) <= 2)
    assert.is_true(turns_until_first_token(process, {others_priority = -1000}) <= 2)
    assert.equal(0, server.stop(process))
  end)

  it("goes before the others when the operator lets priority count between keys", function()
    local process = start "--priority-between-keys"
    assert.is_true(turns_until_first_token(process, {others_priority = -1000}) > 8)
    assert.equal(0, server.stop(process))
  end)

  it("is refused at once when one request of it multiplies what the key may run", function()
    local process = start ""
    local prompts = {}
    for i = 1, 64 do prompts[i] = "a" end
    local headers = {Authorization = "Bearer one"}
    local function ask(body) return http.ask(process.port, "POST", "/v1/completions", json.encode(body), headers) end
    local status, text = ask {prompt = prompts, n = 128, max_tokens = 100, ignore_eos = true}
    assert.equal(429, status)
    assert.equal("key: 0 completions of 'one' are running, 8192 more asked for, limit 1",
      json.decode(text).error.message)
    assert.equal(429, (ask {prompt = "a", n = 2}))
    assert.equal(200, (ask {prompt = "a", max_tokens = 1}))
    headers.Authorization = "Bearer many"
    status, text = ask {prompt = prompts, n = 128, max_tokens = 100}
    assert.equal(400, status)
    assert.truthy(json.decode(text).error.message:find("8192 completions of 64 prompts", 1, true), text)
    assert.equal(0, server.stop(process))
  end)
end)
