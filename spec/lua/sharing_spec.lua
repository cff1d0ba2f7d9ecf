-- One pool of KV pages under several engines and sequences of one model.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/sharing"
tiny.write(dir, {seed = 7, quant = "fp8-dynamic", layers = 1})

-- 16 pages of 32 tokens.
local function load_model(options)
  options = options or {}
  options.context, options.kv_tokens, options.threads = 512, 512, 1
  return assert(fp8llm.load(dir, options))
end

local function prompt(i, n)
  local ids = {}
  for k = 1, n do ids[k] = (i * 31 + k * 7) % 250 end
  return ids
end

local function fields(i, n) return {ids = prompt(i, n), max_tokens = 200, temperature = 0, ignore_eos = true} end

local function fill(model, n)
  local seq = assert(model:sequence())
  assert(seq:feed(prompt(99, n)))
  return seq
end

describe("engines and sequences of one model", function()
  it("share its pages: requests of two engines wait for each other, and all are as they are alone", function()
    for _, cache in ipairs{false, true} do
      local model = load_model {prefix_cache = cache}
      local alone, engines, requests = {}, {}, {}
      local engine = assert(model:engine{})
      for i = 1, 6 do alone[i] = assert(engine:submit(fields(i, 100))):result().choices[1].t end
      engine:close()
      for k = 1, 3 do engines[k] = assert(model:engine{}) end
      for i = 1, 6 do
        for k = 1, 3 do requests[#requests + 1] = assert(engines[k]:submit(fields(i, 100))) end
      end
      for j, r in ipairs(requests) do
        local choice = r:result().choices[1]
        assert.equal("length", choice.fin, choice.message)
        assert.same(alone[math.floor((j - 1) / 3) + 1], choice.t)
      end
      for k = 1, 3 do engines[k]:close() end
      assert.equal(16, model:info().kv_pages_free)
      model:close()
    end
  end)

  it("say who has the pages when a request waits for sequences in vain", function()
    local model = load_model()
    local engine, seq = assert(model:engine {page_timeout_ms = 150}), fill(model, 400)
    local choice = assert(engine:submit(fields(1, 200))):result().choices[1]
    assert.equal("error", choice.fin)
    assert.equal("LIMIT", choice.code)
    assert.is_true(choice.message:find("1 sequences of the program hold 13", 1, true) ~= nil, choice.message)
    -- One that runs, and runs out of pages in the middle.
    choice = assert(engine:submit(fields(2, 40))):result().choices[1]
    assert.equal("error", choice.fin)
    assert.is_true(#choice.t > 0 and choice.message:find("sequences of the program", 1, true) ~= nil, choice.message)
    seq:close()
    assert.equal("length", assert(engine:submit(fields(1, 200))):result().choices[1].fin)
    engine:close()
    model:close()
  end)

  it("go on when the sequence is closed in time", function()
    local model = load_model()
    local engine, seq = assert(model:engine{}), fill(model, 500)
    local request = assert(engine:submit(fields(1, 200)))
    assert.equal(false, request:wait(60))
    seq:close()
    assert.equal("length", request:result().choices[1].fin)
    engine:close()
    model:close()
  end)

  it("do not keep pages that nobody reads from an engine that waits", function()
    local model = load_model()
    local lazy, eager = assert(model:engine {max_unread = 8}), assert(model:engine{})
    local unread = assert(lazy:submit(fields(3, 400)))
    while lazy:stats().output_tokens < 8 do unread:wait(1) end
    assert.equal("length", assert(eager:submit(fields(4, 200))):result().choices[1].fin)
    unread:cancel()
    lazy:close()
    eager:close()
    model:close()
  end)

  it("tell a sequence that finds no page who has them", function()
    local model = load_model()
    local engine = assert(model:engine{})
    local request = assert(engine:submit {ids = prompt(5, 400), policy = true, max_tokens = 4})
    local step = request:steps()(request)
    local seq = assert(model:sequence())
    local logits, message, code = seq:feed(prompt(6, 200))
    assert.is_true(logits == nil and code == "LIMIT")
    assert.is_true(message:find("engines hold 13", 1, true) ~= nil, message)
    step:stop()
    engine:close()
    model:close()
  end)
end)
