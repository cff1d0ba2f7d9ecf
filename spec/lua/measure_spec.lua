describe("measuring", function()
  local fp8llm = require "fp8llm"
  local tiny = dofile "spec/support/tiny_model.lua"

  it("has a clock that goes forward", function()
    local a = fp8llm.clock()
    local b = fp8llm.clock()
    assert.is_true(b >= a and b - a < 1)
  end)

  it("measures the read bandwidth", function()
    local rate = fp8llm.read_bandwidth {threads = 1, bytes = 4 * 1024 * 1024}
    assert.is_true(rate > 1e8)
  end)

  it("measures what the processors multiply", function()
    local one = assert(fp8llm.flop_peak {threads = 1})
    assert.is_true(one > 1e8 and one < 1e13)
    assert.equal("ARG", (select(3, fp8llm.flop_peak {threads = -1})))
    assert.is_false(pcall(fp8llm.flop_peak, {bytes = 1}))
  end)

  it("has a clock of the thread's own time", function()
    local a, n = fp8llm.thread_clock(), 0
    for i = 1, 100000 do n = n + i % 7 end
    assert.is_true(n > 0 and fp8llm.thread_clock() > a)
  end)

  it("measures what it costs to wake a thread and be woken", function()
    local cost = assert(fp8llm.handover_cost {rounds = 50})
    assert.is_true(cost > 1e-7 and cost < 1e-2)
    assert.is_true(assert(fp8llm.handover_cost()) > 1e-7)
    local began, own = fp8llm.clock(), fp8llm.thread_clock()
    cost = assert(fp8llm.handover_cost {rounds = 20, work = 0.002})
    assert.is_true(fp8llm.clock() - began > 0.04 and fp8llm.thread_clock() - own < 0.04 and cost < 2e-3)
    assert.equal("ARG", (select(3, fp8llm.handover_cost {rounds = 0})))
    assert.equal("ARG", (select(3, fp8llm.handover_cost {work = -1})))
    assert.is_false(pcall(fp8llm.handover_cost, {threads = 2}))
  end)

  it("counts the ops of a model, their bytes and products", function()
    local dir = "build/spec/measure"
    tiny.write(dir, {quant = "fp8-dynamic", layers = 2, hidden = 64, ffn = 128, heads = 4, kv_heads = 2})
    local model = assert(fp8llm.load(dir, {time_ops = true}))
    assert.same({}, assert(fp8llm.load(dir)):op_times())
    local seq = assert(model:sequence())
    assert(seq:feed {1, 2, 3})
    model:op_times()
    assert(seq:feed {4})
    local times, by = model:op_times(), {}
    for _, t in ipairs(times) do
      by[t.op .. (t.n > 0 and t.n .. "x" .. t.k or "")] = t
      assert.is_true(t.seconds > 0 and t.seconds < 10)
    end
    assert.equal(2, by["linear128x64"].calls) -- q, k, v fused, in two layers
    assert.equal(2 * 128 * 64 * 2, by["linear128x64"].flops)
    assert.equal("F8_E4M3", by["linear256x64"].dtype)
    assert.equal(2, by.attend.calls)
    -- 4 positions of 2 heads of 16 in BF16, keys and values; query and result of 64, and its E4M3 form
    assert.equal(2 * (4 * 2 * 16 * 2 * 2 + 2 * 64 * 2 + 64), by.attend.bytes)
    assert.equal(2 * 4 * 4 * 64, by.attend.flops)
    assert.equal(5, by.norm.calls)
    assert.equal(1, by.embed272x64.rows)
    assert.same({}, model:op_times())
  end)

  it("schedules a step without a model", function()
    local limits = {max_rows = 64, max_seqs = 8, max_running = 4, free_pages = 100, page_tokens = 32}
    local items = fp8llm.schedule({{running = true, length = 10, pages = 1, pending = 1}, {pending = 100}}, limits)
    assert.equal(1, items[1].rows)
    assert.equal(63, items[2].rows)
    assert.is_false(items[1].preempt)
    assert.is_false(pcall(fp8llm.schedule, {{pending = 0}}, limits))
    assert.is_false(pcall(fp8llm.schedule, {1}, limits))
    assert.is_false(pcall(fp8llm.schedule, {}, {}))
  end)

  it("refuses sizes that would measure something else", function()
    local rate, message, code = fp8llm.read_bandwidth {bytes = 10}
    assert.is_nil(rate)
    assert.is_true(message:find("10", 1, true) ~= nil)
    assert.equal("ARG", code)
    assert.is_false(pcall(fp8llm.read_bandwidth, {bytes = "10"}))
    assert.equal("ARG", (select(3, fp8llm.read_bandwidth {threads = -1})))
    assert.is_false(pcall(fp8llm.read_bandwidth, {Bytes = 10}))
  end)
end)
