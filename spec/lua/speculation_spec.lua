-- Guesses by prompt lookup change nothing but the number of steps.
local unpack = unpack or table.unpack -- luacheck: ignore
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/speculation"
tiny.write(dir, {seed = 11, quant = "fp8-dynamic", kv_heads = 1})
local model = assert(fp8llm.load(dir, {context = 512, kv_tokens = 4096, max_step_rows = 64}))

-- A text that repeats itself, so that guesses are made, with noise, so that many are wrong.
local function prompt_of(i, length)
  local ids = {}
  for k = 1, length do ids[k] = (k % 7 == 0) and (i * k) % 250 or (k % 9) * 11 + i end
  return ids
end

local function submit(eng, i, more)
  local o = {ids = prompt_of(i, 20 + i * 13 % 90), max_tokens = 5 + i * 7 % 60, seed = i, ignore_eos = true,
    temperature = i % 3 == 0 and 0 or 0.2 + i % 5 / 2, logprobs = i % 2, top_k = i % 4 == 0 and 3 or 0,
    repetition_penalty = i % 5 == 0 and 1.2 or 1, min_tokens = i % 3, bad_words = i % 6 == 0 and {"e"} or nil,
    stop_token_ids = i % 7 == 0 and {40, 41, 42, 43, 44} or nil, n = i % 8 == 0 and 2 or 1,
    logit_bias = {[5] = 3, [6] = 3, [7] = 3}}
  for k, v in pairs(more or {}) do o[k] = v end
  return assert(eng:submit(o))
end

local function outcome(request)
  local result = assert(request:result())
  for _, choice in ipairs(result.choices) do choice.message = nil end
  return result.choices
end

local plain = {}
do
  local eng = assert(model:engine{max_running = 1})
  for i = 1, 24 do plain[i] = outcome(submit(eng, i)) end
  assert.equal(0, eng:stats().draft_tokens)
  eng:close()
end

describe("speculation", function()
  it("is off by default, and a request may say otherwise than the engine", function()
    local eng = assert(model:engine{num_speculative_tokens = 3})
    assert.same(plain[9], outcome(submit(eng, 9, {num_speculative_tokens = 0})))
    assert.equal(0, eng:stats().draft_tokens)
    assert.same(plain[9], outcome(submit(eng, 9)))
    local drafts = eng:stats().draft_tokens
    assert.is_true(drafts > 0)
    eng:close()
  end)

  for _, setting in ipairs{{1, 1, 1}, {4, 2, 4}, {32, 1, 3}} do
    it(("of %d tokens after %d to %d equal ones gives the same tokens, alone and in company"):format(unpack(setting)),
      function()
        local eng = assert(model:engine{num_speculative_tokens = setting[1], prompt_lookup_min = setting[2],
          prompt_lookup_max = setting[3], max_step_tokens = 24})
        local list = {}
        for i = 1, 24 do list[i] = submit(eng, i) end
        for i = 1, 24 do assert.same(plain[i], outcome(list[i])) end
        local s = eng:stats()
        assert.is_true(s.draft_tokens > s.accepted_tokens and s.accepted_tokens > 0)
        eng:close()
      end)
  end

  it("survives a pool that is too small, and gives every page back", function()
    local small = assert(fp8llm.load(dir, {context = 512, kv_tokens = 352, max_step_rows = 64}))
    local eng = assert(small:engine{num_speculative_tokens = 6, prompt_lookup_min = 1})
    local list = {}
    for i = 1, 24 do list[i] = submit(eng, i) end
    for i = 1, 24 do assert.same(plain[i], outcome(list[i])) end
    local s = eng:stats()
    assert.is_true(s.preemptions > 0 and s.accepted_tokens > 0)
    eng:close()
    assert.equal(small:info().kv_tokens / 32, small:info().kv_pages_free)
    small:close()
  end)

  it("saves steps where a text repeats", function()
    local eng = assert(model:engine{})
    local function steps(k)
      local before = eng:stats().steps
      local t = outcome(submit(eng, 1, {temperature = 0, max_tokens = 60, num_speculative_tokens = k,
        logit_bias = {[5] = 100, [6] = 99.9}}))[1].t
      return eng:stats().steps - before, t
    end
    local slow, t = steps(0)
    local fast, same = steps(8)
    assert.same(t, same)
    assert.is_true(fast * 3 < slow, fast .. " of " .. slow)
    eng:close()
  end)

  it("never runs ahead of max_unread or max_tokens", function()
    local eng = assert(model:engine{num_speculative_tokens = 8, max_unread = 5, prompt_lookup_min = 1})
    local request = submit(eng, 3, {max_tokens = 33, logit_bias = {[5] = 100}})
    local n = 0
    for _, event in request:pieces() do
      assert.is_true(#event.t <= 5)
      n = n + #event.t
    end
    assert.equal(33, n)
    eng:close()
  end)

  -- Two tokens far likelier than the rest, in a prompt that guesses both: the pairs of the first two
  -- drawn tokens, with guesses and without, from different seeds. 3 degrees of freedom: 99.9 % below 16.3.
  it("keeps the distribution (chi-square)", function()
    local eng = assert(model:engine{max_queued = 4096, max_running = 16})
    local function count(k, first_seed)
      local seen, list = {0, 0, 0, 0}, {}
      for i = 1, 400 do
        list[i] = assert(eng:submit{ids = {5, 6, 5, 5, 6, 6, 5, 6}, max_tokens = 3, seed = first_seed + i,
          temperature = 40, allowed_token_ids = {5, 6}, num_speculative_tokens = k, prompt_lookup_min = 1})
      end
      for i = 1, 400 do
        local t = list[i]:result().choices[1].t
        local pair = (t[2] - 5) * 2 + t[3] - 4
        seen[pair] = seen[pair] + 1
      end
      return seen
    end
    local without, with = count(0, 0), count(4, 100000)
    local s = eng:stats()
    assert.is_true(s.accepted_tokens > 100 and s.accepted_tokens < s.draft_tokens,
      s.accepted_tokens .. " of " .. s.draft_tokens)
    local chi = 0
    for i = 1, 4 do chi = chi + (without[i] - with[i]) ^ 2 / (without[i] + with[i]) end
    assert.is_true(chi < 16.3, "chi-square " .. chi)
    eng:close()
  end)

  it("is refused where it makes no sense", function()
    local _, message = model:engine{prompt_lookup_min = 5, prompt_lookup_max = 3}
    assert.is_true(message:find("prompt_lookup_min: 5", 1, true) ~= nil)
    local eng = assert(model:engine{})
    _, message = eng:submit{ids = {1}, prompt_lookup_min = 9}
    assert.is_true(message:find("prompt_lookup_min: 9 is more than prompt_lookup_max 4", 1, true) ~= nil)
    eng:close()
  end)
end)
