-- The scheduler on a calculated machine: small traces by hand, large ones by what must hold.
local cost_model = require "fp8llm.cost_model"
local json = require "fp8llm.json"
local simulate = require "fp8llm.simulate"
local shapes = require "fp8llm.shapes"
local run = dofile "spec/support/run.lua"

local function one_second() return 1 end
local function near(want, got) assert.is_true(math.abs(want - got) < 1e-9 * math.max(1, math.abs(want))) end

describe("a simulated engine", function()
  it("serves one request in a prompt step and one step a token", function()
    local r = assert(simulate.run({{at = 5, isl = 10, osl = 3}}, {max_running = 4, max_step_tokens = 64,
      kv_tokens = 1024}, one_second))
    assert.equal(3, r.steps)
    near(8, r.seconds)
    near(1, r.first_token_s.max)
    near(3, r.total_s.max)
    near(12 / 3, r.rows_per_step)
    near(3 / 8, r.output_tokens_per_second)
  end)

  it("cuts prompts to the tokens of a step, and batches what runs", function()
    local limits = {max_running = 4, max_step_tokens = 16, kv_tokens = 1024}
    local trace = {{at = 0, isl = 40, osl = 2}, {at = 0, isl = 1, osl = 4}}
    -- 16; 16; 8 + 1; then both decode once (the first is done), then the second twice more
    local r = assert(simulate.run(trace, limits, one_second))
    assert.equal(6, r.steps)
    near(3, r.first_token_s.max)
    assert.equal(2, r.max_running)
    near(6 / 4, r.total_s.max / r.total_s.p50)
    near(1.5, r.finish_ratio)
  end)

  it("preempts when the pool is full, and everybody ends", function()
    local trace = simulate.trace {requests = 40, isl = 60, osl = 100, spread = 0.5, seed = 3}
    local r = assert(simulate.run(trace, {max_running = 16, max_step_tokens = 64, kv_tokens = 640}, one_second))
    assert.is_true(r.preemptions > 0)
    assert.equal(40, r.requests)
    assert.is_true(r.max_kv_used <= 1)
    assert.is_true(r.running > 1)
    local none, message = simulate.run({{at = 0, isl = 700, osl = 1}}, {max_running = 1, max_step_tokens = 64,
      kv_tokens = 640}, one_second)
    assert.equal(nil, none)
    assert.is_true(message:find("640", 1, true) ~= nil)
  end)

  it("keeps 1024 requests in flight", function()
    local trace = simulate.trace {requests = 1200, isl = 8, osl = 40}
    local r = assert(simulate.run(trace, {max_running = 1024, max_step_tokens = 8192, kv_tokens = 1024 * 64},
      one_second))
    assert.equal(1024, r.max_running)
    assert.equal(0, r.preemptions)
    near(1200 * 40, r.output_tokens_per_second * r.seconds)
  end)

  it("draws arrivals: at a rate, in bursts, at once", function()
    local trace = simulate.trace {requests = 4000, isl = 10, osl = 10, arrivals = "poisson", rate = 8, seed = 2}
    assert.is_true(math.abs(trace[4000].at - 500) < 50)
    trace = simulate.trace {requests = 100, isl = 10, osl = 10, arrivals = "burst", rate = 10, burst = 20}
    assert.equal(0, trace[20].at)
    assert.equal(2, trace[21].at)
    trace = simulate.trace {requests = 1000, isl = 100, osl = 10, spread = 0.5, arrivals = "all"}
    local least, most = 1000, 0
    for _, r in ipairs(trace) do least, most = math.min(least, r.isl), math.max(most, r.isl) end
    assert.is_true(least >= 50 and least < 55 and most <= 150 and most > 145)
    assert.equal(0, trace[1000].at)
  end)
end)

describe("the cost of a step", function()
  local shape = cost_model.shape(assert(shapes.config "llama-3.1-405b"), 1, 1)

  it("follows from the shape", function()
    -- q, k, v, o and the three of the FFN of 126 layers; the head has 128256 x 16384
    local layer = 16384 * (2 * 16384 + 2 * 1024) + 3 * 16384 * 53248
    near(2 * 126 * layer, shape.token_flops)
    near(126 * layer + 2 * 128256 * 16384, shape.read_bytes)
    near(2 * 126 * 1024, shape.kv_token_bytes)
    local all = 126 * layer + 2 * 128256 * 16384
    assert.is_true(math.abs(all / 405.8e9 - 1) < 0.01) -- what "405b" counts
  end)

  it("is the longer of reading and multiplying, and what the ranks say", function()
    local device = {bandwidth = 1e12, flops = 1e15, ranks = 1, overhead = 0.5}
    local read = shape.read_bytes / 1e12
    near(read + 0.5, cost_model.step(shape, device, {tokens = 1, sampled = 1, seen = 0, cached = 0}))
    local much = {tokens = 8192, sampled = 0, seen = 0, cached = 0}
    near(8192 * shape.token_flops / 1e15 + 0.5, cost_model.step(shape, device, much))
    local far = {tokens = 1, sampled = 0, seen = 1e5, cached = 1e5}
    near(read + 1e5 * shape.kv_token_bytes / 1e12 + 0.5, cost_model.step(shape, device, far))
    local eight = {bandwidth = 1e12, flops = 1e15, ranks = 8, link = 1e12}
    assert.is_true(cost_model.step(shape, eight, much) > 8192 * shape.token_flops / 8e15)
  end)

  it("leaves room for the cache beside the weights", function()
    assert.is_true(cost_model.kv_tokens(shape, cost_model.devices["sim:8xh200"]) > 2e6)
    assert.is_true(cost_model.kv_tokens(shape, cost_model.devices["sim:h100"]) < 0)
  end)
end)

describe("bench schedule", function()
  local command = run "lua/fp8llm/cli.lua"
  it("prints a report, for programs too", function()
    local words = {"bench", "schedule", "--shape", "llama-3-8b", "--device", "sim:h200", "--requests", "30",
      "--running", "16", "--isl", "200", "--osl", "20"}
    local unpack = table.unpack or unpack -- luacheck: ignore
    local out, err, status = command(unpack(words))
    assert.equal("", err)
    assert.equal(0, status)
    assert.is_true(out:find("30 of 200 in, 20 out", 1, true) ~= nil)
    words[#words + 1] = "--json"
    local r = json.decode((command(unpack(words))))
    assert.equal(16, r.max_running)
    assert.equal(30, r.requests)
  end)
  it("refuses what no device holds", function()
    local _, err, status = command("bench", "schedule", "--shape", "llama-3.1-405b", "--device", "sim:h100")
    assert.equal(1, status)
    assert.is_true(err:find("KV cache", 1, true) ~= nil)
    _, err, status = command("bench", "schedule", "--shape", "llama-3-8b", "--device", "sim:abacus")
    assert.equal(2, status)
    assert.is_true(err:find("sim:8xh200", 1, true) ~= nil)
  end)
end)
