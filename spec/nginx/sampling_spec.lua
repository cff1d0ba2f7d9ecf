-- What requests over HTTP are sampled with where they say nothing: the model's words, the operator's, OpenAI's.
local http = require "spec.nginx.http"
local json = require "fp8llm.json"
local server = require "spec.nginx.server"

-- A server of a tiny model with that generation_config.json -> ask(body), sampling of /v1/models
local function serve(name, config, words)
  local dir = server.model(name)
  server.write(dir .. "/generation_config.json", config)
  local process = server.start(name, dir .. " --served-model-name tiny " .. (words or ""))
  local function ask(fields)
    local body = {prompt = "one two", max_tokens = 12, ignore_eos = true, seed = 5}
    for k, v in pairs(fields or {}) do body[k] = v end
    local status, text = http.ask(process.port, "POST", "/v1/completions", json.encode(body))
    assert.equal(200, status, text)
    return json.decode(text).choices[1].text
  end
  local _, text = http.ask(process.port, "GET", "/v1/models")
  return ask, json.decode(text).data[1].sampling, process
end

describe("a request that says no temperature", function()
  it("has OpenAI's 1 where the model says none, or what the operator says", function()
    local silent = '{"eos_token_id": 263}'
    local ask, sampling, process = serve("silent", silent)
    assert.same({}, sampling)
    assert.equal(ask {temperature = 1}, ask())
    local greedy = ask {temperature = 0}
    assert.is_true(greedy ~= ask())
    assert.equal(0, server.stop(process))

    ask, sampling, process = serve("operator", silent, "--temperature-default 0")
    assert.same({temperature = 0}, sampling)
    assert.equal(greedy, ask())
    assert.equal(greedy, ask {seed = 6})
    assert.is_true(greedy ~= ask {temperature = 1})
    assert.equal(0, server.stop(process))
  end)

  it("has the model's own, whatever the operator says", function()
    local ask, sampling, process = serve("opinion", '{"eos_token_id": 263, "temperature": 1.5, "top_k": 40}',
      "--temperature-default 0")
    assert.same({temperature = 1.5, top_k = 40}, sampling)
    assert.equal(ask {temperature = 1.5, top_k = 40}, ask())
    assert.equal(0, server.stop(process))
  end)
end)

describe("the page", function()
  it("has the defaults of fp8llm.defaults", function()
    local defaults = require "fp8llm.defaults"
    local page = server.read "lua/fp8llm/page.html"
    local want = ("const defaults = {temperature: %g, top_p: %g, max_tokens: %d};"):format(defaults.temperature,
      defaults.top_p, defaults.chat_tokens)
    assert.is_true(page:find(want, 1, true) ~= nil)
  end)
end)
