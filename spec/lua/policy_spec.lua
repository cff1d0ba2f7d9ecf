-- Policies: completions whose tokens Lua chooses.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/policy"
tiny.write(dir, {seed = 11, quant = "fp8-dynamic", kv_heads = 1})
local model = assert(fp8llm.load(dir, {context = 256, kv_tokens = 2048, max_step_rows = 48}))

local function prompt_of(i, length)
  local ids = {}
  for k = 1, length do ids[k] = (i * k * 7 + k) % 250 end
  return ids
end

local function eventually(what)
  for _ = 1, 2000 do
    if what() then return true end
    local t = fp8llm.clock()
    while fp8llm.clock() - t < 0.002 do end
  end
  return false
end

describe("a policy in Lua", function()
  it("chooses every token, and the others go on meanwhile", function()
    local eng = assert(model:engine{})
    local other = assert(eng:submit{ids = prompt_of(2, 20), max_tokens = 50, seed = 1, ignore_eos = true})
    local mine = assert(eng:submit{ids = {9, 8}, policy = true, policy_logits = true, max_tokens = 6,
      ignore_eos = true})
    local chosen = {}
    for step in mine:steps() do
      if #chosen == 0 then assert.equal(50, #other:result().choices[1].t) end
      local prompt, output = step:history()
      assert.same({9, 8}, prompt)
      assert.same(chosen, output)
      if #chosen % 2 == 0 then
        chosen[#chosen + 1] = assert(step:accept(40 + #chosen))
      else
        step.logits:add_at(77, 1000)
        chosen[#chosen + 1] = assert(step:sample())
      end
    end
    assert.same({40, 77, 42, 77, 44, 77}, chosen)
    assert.same(chosen, mine:result().choices[1].t)
    eng:close()
  end)

  it("that gives up, is stale or silent ends only its own request", function()
    local eng = assert(model:engine{policy_timeout_ms = 60})
    local good = assert(eng:submit{ids = {1, 2, 3}, max_tokens = 30, seed = 1, ignore_eos = true})
    local stopped = assert(eng:submit{ids = {4}, policy = true})
    for step in stopped:steps() do -- luacheck: ignore 512
      assert(step:sample())
      for _, method in ipairs{"sample", "stop", "candidates", "history"} do
        local fine, message = pcall(step[method], step)
        assert.is_true(not fine and message:find("stale", 1, true) ~= nil)
      end
      break
    end
    for step in stopped:steps() do assert(step:stop()) end
    assert.equal("stop", stopped:result().choices[1].fin)
    local silent = assert(eng:submit{ids = {5}, policy = true})
    local choice = silent:result().choices[1]
    assert.equal("error", choice.fin)
    assert.is_true(choice.message:find("silent", 1, true) ~= nil)
    assert.equal(30, #good:result().choices[1].t)
    eng:close()
  end)

  it("makes its steps on its own thread: none of its tokens wakes the engine's", function()
    local eng = assert(model:engine{})
    local mine = assert(eng:submit{ids = {5, 6}, policy = true, max_tokens = 200, ignore_eos = true})
    local own, engines, n = 0, 0, 0
    for step in mine:steps() do
      n = n + 1
      if n == 20 then own, engines = fp8llm.thread_clock(), eng:stats().thread_s end
      assert(step:sample())
    end
    own, engines = fp8llm.thread_clock() - own, eng:stats().thread_s - engines
    assert.equal(200, n)
    assert.is_true(engines < own / 2, engines .. " s of the engine, " .. own .. " s of ours")
    eng:close()
  end)

  it("is given its step when nobody waits for it there: others, readers and the clock see to it", function()
    local function parked_again(eng, _, steps)
      return eventually(function() return eng:stats().steps > steps and eng:stats().parked == 1 end)
    end
    local ways = {
      parked_again,
      function(eng, request, steps)
        local other = assert(eng:submit{ids = {1, 2}, max_tokens = 5, ignore_eos = true})
        return #other:result().choices[1].t == 5 and parked_again(eng, request, steps)
      end,
      function(_, request)
        request:cancel()
        return request:result().choices[1].fin == "cancelled"
      end,
      function(eng, request)
        eng:close()
        return request:result().choices[1].fin == "cancelled"
      end,
    }
    for i = 1, 2 * #ways do -- after the first answer, and when the engine is used to answers
      local eng = assert(model:engine{})
      local request = assert(eng:submit{ids = {7}, policy = true, max_tokens = 100, ignore_eos = true})
      local n, steps = 0, nil
      for step in request:steps() do
        while request:poll() do end
        request:wait(3) -- nothing comes before the answer: time for the engine to fall asleep
        n, steps = n + 1, eng:stats().steps
        assert(step:accept(n))
        if n == (i > #ways and 30 or 1) then break end
      end
      assert.is_true(ways[(i - 1) % #ways + 1](eng, request, steps), "way " .. i)
      eng:close()
    end
  end)

  it("keeps the time of its request", function()
    local eng = assert(model:engine{})
    local request = assert(eng:submit{ids = {7}, policy = true, max_tokens = 200, ignore_eos = true, timeout_ms = 60})
    for step in request:steps() do
      while request:poll() do end
      request:wait(2) -- nothing comes before the answer: it sleeps
      step:accept(3)
    end
    assert.equal("timeout", request:result().choices[1].fin)
    eng:close()
  end)

  it("needs no other reader: max_unread does not hold it up", function()
    local eng = assert(model:engine{max_unread = 3})
    local request = assert(eng:submit{ids = {7}, policy = true, max_tokens = 20, ignore_eos = true})
    local n = 0
    for step in request:steps() do
      assert(step:accept(n))
      n = n + 1
    end
    assert.equal(20, n)
    eng:close()
  end)

  it("may serve all parked requests of an engine in one loop", function()
    local eng = assert(model:engine{})
    local list = {}
    for i = 1, 5 do list[i] = assert(eng:submit{ids = {i}, policy = true, max_tokens = i, ignore_eos = true}) end
    local steps = 0
    for step in eng:steps() do
      steps = steps + 1
      assert(step:accept(step:arrival() + 10))
    end
    assert.equal(15, steps)
    for i = 1, 5 do assert.equal(9 + i, list[i]:result().choices[1].t[1]) end
    eng:close()
  end)

  it("sees the likeliest tokens, and sample() is what the request would have done without it", function()
    local eng = assert(model:engine{})
    local function options(more)
      local o = {ids = prompt_of(7, 40), max_tokens = 12, ignore_eos = true, seed = 5, temperature = 1.3,
        repetition_penalty = 1.2, min_tokens = 3, bad_words = {"e"}}
      for k, v in pairs(more or {}) do o[k] = v end
      return o
    end
    local free = assert(eng:submit(options())):result().choices[1].t
    local rows, shown = {}, {}
    local whole = assert(eng:submit(options{policy = true, policy_logits = true, logprobs = 2}))
    for step in whole:steps() do
      rows[#rows + 1] = step.logits:clone()
      assert.is_true(rawequal(step.logits, step.logits))
      assert(step:sample())
    end
    local few = assert(eng:submit(options{policy = true, policy_candidates = 7}))
    for step in few:steps() do
      local ids, logits = step:candidates()
      shown[#shown + 1] = {ids, logits}
      assert(step:sample())
    end
    assert.same(free, whole:result().choices[1].t)
    assert.same(free, few:result().choices[1].t)
    assert.equal(12, #shown)
    for i, one in ipairs(shown) do
      local index, value = rows[i]:topk(7)
      for k = 1, 7 do index[k] = index[k] - 1 end
      assert.same(index, one[1])
      assert.same(value, one[2])
    end
    eng:close()
  end)

  it("samples from the candidates with logits of its own", function()
    local eng = assert(model:engine{})
    local request = assert(eng:submit{ids = {3, 4}, policy = true, policy_candidates = 5, max_tokens = 8, seed = 1,
      ignore_eos = true})
    local want = {}
    for step in request:steps() do
      local ids, logits = step:candidates()
      for i = 1, 5 do logits[i] = i == 4 and 0 or -math.huge end
      want[#want + 1] = ids[4]
      assert.is_true(pcall(step.sample, step, {1, 2}) == false)
      assert.equal(ids[4], (step:sample(logits)))
    end
    assert.same(want, request:result().choices[1].t)
    eng:close()
  end)

  it("gives log-probabilities of any token it accepts", function()
    local eng = assert(model:engine{})
    local ids, forced, lp = prompt_of(9, 10), {20, 30, 40}, {}
    local request = assert(eng:submit{ids = ids, policy = true, max_tokens = 3, logprobs = 0, ignore_eos = true})
    for step in request:steps() do
      local _, logprob = step:accept(forced[#lp + 1])
      lp[#lp + 1] = logprob
    end
    assert.same(lp, request:result().choices[1].lp)
    local all = prompt_of(9, 10)
    for i = 1, 3 do all[10 + i] = forced[i] end
    local scored = assert(eng:submit{ids = all, max_tokens = 0, prompt_logprobs = 0}):result().prompt_logprobs
    for i = 1, 3 do assert.equal(scored[10 + i], lp[i]) end
    eng:close()
  end)

  it("has its rows to itself: closed with the answer, counted, no more than the engine lends", function()
    local eng = assert(model:engine{max_policy_rows = 2})
    local function ask(n)
      return eng:submit{ids = {1}, policy = true, policy_logits = true, max_tokens = 4, ignore_eos = true, n = n}
    end
    local one, two = assert(ask()), assert(ask())
    local _, message, code = ask()
    assert.equal("BUSY", code)
    assert.is_true(message:find("limit 2", 1, true) ~= nil)
    _, message, code = ask(3)
    assert.equal("LIMIT", code)
    assert.is_true(message:find("n: 3", 1, true) ~= nil)
    two:close()
    assert.is_true(eventually(function() return eng:stats().running <= 1 end))
    local before
    for step in one:steps() do
      local row = step.logits
      before = before or row:get(1)
      assert(step:accept(5))
      assert.is_true(pcall(row.get, row, 1) == false)
    end
    assert.is_true(before ~= nil)
    assert.equal(4, #one:result().choices[1].t)
    eng:close()
  end)

  it("lends its row for no longer than it runs, whatever a collector has left lying about", function()
    local eng = assert(model:engine{max_policy_rows = 1})
    collectgarbage "stop"
    for how = 1, 12 do
      local request = assert(eng:submit{
        ids = {1}, policy = true, policy_logits = how % 2 == 0, logprobs = 0, max_tokens = 2, ignore_eos = true})
      for step in request:steps() do
        local row = how % 2 == 0 and step.logits
        if how % 3 == 0 then step:stop()
        elseif how % 5 == 0 then step:fail()
        elseif how == 7 or how == 8 then -- its client leaves
          request:cancel()
          request:result()
          assert.is_nil(step:accept(5))
          step:fail()
        else step:accept(5)
        end
        assert.is_true(not row or not pcall(row.get, row, 1))
        assert.is_true(not pcall(step.index, step))
      end
    end
    collectgarbage "restart"
    eng:close()
  end)

  it("and guesses exclude each other", function()
    local eng = assert(model:engine{num_speculative_tokens = 4})
    local _, message, code = eng:submit{ids = {1}, policy = true, num_speculative_tokens = 2}
    assert.equal("ARG", code)
    assert.is_true(message:find("num_speculative_tokens", 1, true) ~= nil)
    local request = assert(eng:submit{ids = {1}, policy = true, max_tokens = 2, ignore_eos = true})
    for step in request:steps() do step:sample() end
    assert.equal(2, #request:result().choices[1].t)
    assert.equal(2, eng:stats().policy_s.count)
    eng:close()
  end)
end)
