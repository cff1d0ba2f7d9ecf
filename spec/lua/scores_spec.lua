-- Log-probabilities of prompts and the prefix cache: what is found is what would be computed, bit for bit.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/scores"
tiny.write(dir, {seed = 4, quant = "fp8-dynamic"})
local model = assert(fp8llm.load(dir, {context = 256, kv_tokens = 1024, max_step_rows = 48}))
local plain = assert(fp8llm.load(dir, {context = 256, kv_tokens = 1024, max_step_rows = 48, prefix_cache = false}))
local tok = model:tokenizer()

local function prompt_of(i, length)
  local ids = {}
  for k = 1, length do ids[k] = (k < 70 and k * 7 + k % 3 or i * k * 5 + k) % 250 end
  return ids
end

local function run(eng, request)
  local result = assert(assert(eng:submit(request)):result())
  return result, result.usage.cached_tokens
end

describe("prompt log-probabilities", function()
  local eng, bare = assert(model:engine{}), assert(plain:engine{})
  local function same(request, want_cached)
    local want = run(bare, request)
    local got, cached = run(eng, request)
    assert.same(want.prompt_logprobs, got.prompt_logprobs)
    assert.same(want.prompt_top, got.prompt_top)
    assert.same(want.choices, got.choices)
    assert.equal(want_cached, cached)
  end

  it("come from the cache only when it has them, the last cached position run again", function()
    local function ask(k)
      return {ids = prompt_of(1, 150), prompt_logprobs = k, max_tokens = 4, seed = 1, logprobs = 1}
    end
    run(eng, {ids = prompt_of(1, 150), max_tokens = 1})
    same(ask(2), 0) -- pages there, but nobody has asked for scores
    same(ask(2), 127)
    same(ask(0), 127) -- fewer alternatives than stored
    same(ask(5), 0) -- more: computed again
    same(ask(5), 127)
    same(ask(2), 127)
    local _, cached = run(eng, {ids = prompt_of(1, 150), max_tokens = 1})
    assert.equal(128, cached)
  end)

  it("are those of seq:score and model:score, bit for bit", function()
    local ids = prompt_of(3, 90)
    local got = run(bare, {ids = ids, prompt_logprobs = 0, max_tokens = 1}).prompt_logprobs
    local seq = assert(plain:sequence())
    local logprobs = assert(seq:score(ids))
    local context = {}
    for i = 2, #ids do
      context[i - 1] = ids[i - 1]
      assert.equal(got[i], logprobs:get(i))
      if i % 20 == 0 then assert.equal(got[i], assert(plain:score(context, {{ids[i]}}))[1]) end
    end
    seq:close()
  end)

  it("are shared by prompts with the same beginning, not across salts", function()
    same({ids = prompt_of(2, 140), prompt_logprobs = 3, max_tokens = 2, seed = 2}, 63)
    same({ids = prompt_of(2, 140), prompt_logprobs = 3, max_tokens = 2, seed = 2}, 127)
    same({ids = prompt_of(2, 140), prompt_logprobs = 3, max_tokens = 2, seed = 2, cache_salt = "x"}, 0)
    same({ids = prompt_of(2, 128), prompt_logprobs = 1, max_tokens = 2, seed = 2}, 95)
  end)

  it("are the same when many ask at once and pages run out", function()
    local small = assert(fp8llm.load(dir, {context = 256, kv_tokens = 480, max_step_rows = 48}))
    local tight, list = assert(small:engine{}), {}
    for round = 1, 2 do
      for i = 1, 24 do
        local request = {ids = prompt_of(i % 5, 30 + i * 6), prompt_logprobs = i % 4, max_tokens = 1 + i % 4 * 17,
          seed = i, logprobs = i % 3, n = 1 + i % 2}
        list[i] = {request = request, handle = assert(tight:submit(request)), want = round == 1 and run(bare, request)
          or list[i].want}
      end
      for i = 1, 24 do
        local got = assert(list[i].handle:result())
        assert.same(list[i].want.prompt_logprobs, got.prompt_logprobs)
        assert.same(list[i].want.prompt_top, got.prompt_top)
        assert.same(list[i].want.choices, got.choices)
      end
    end
    local stats = tight:stats()
    assert.is_true(stats.preemptions > 0 and stats.cached_tokens > 500)
    tight:close()
    assert.equal(15, small:info().kv_pages_free)
    small:close()
  end)

  it("need no token to be generated", function()
    local result = run(eng, {ids = prompt_of(3, 50), prompt_logprobs = 0, max_tokens = 0})
    local want = run(bare, {ids = prompt_of(3, 50), prompt_logprobs = 0, max_tokens = 1})
    assert.same(want.prompt_logprobs, result.prompt_logprobs)
    assert.same({}, result.choices[1].t)
    assert.equal("length", result.choices[1].fin)
    local _, message = eng:submit{ids = {1}, max_tokens = 0}
    assert.is_true(message:find("max_tokens: 0", 1, true) ~= nil)
  end)
end)

describe("echo", function()
  local eng = assert(model:engine{})
  local text = "one two three four five"
  local ids = tok:encode(text)
  local function ask(more)
    local request = {prompt = text, max_tokens = 12, seed = 3, ignore_eos = true, echo = true}
    for k, v in pairs(more) do request[k] = v end
    return request
  end
  local free = run(eng, ask{echo = false, logprobs = 2, prompt_logprobs = 2})

  it("puts the prompt, with its log-probabilities, before the completion", function()
    for _ = 1, 2 do -- the second time from the cache
      local choice = run(eng, ask{logprobs = 2}).choices[1]
      local own = free.choices[1]
      for i = 1, #ids do
        assert.equal(ids[i], choice.t[i])
        assert.equal(free.prompt_logprobs[i], choice.lp[i])
        assert.same(free.prompt_top[i], choice.top[i])
      end
      assert.same({}, choice.top[1])
      for i = 1, 12 do
        assert.equal(own.t[i], choice.t[#ids + i])
        assert.equal(own.lp[i], choice.lp[#ids + i])
        assert.same(own.top[i], choice.top[#ids + i])
      end
      assert.equal(#ids + 12, #choice.t)
      assert.equal(tok:decode(choice.t, {skip_special_tokens = true}), choice.d)
    end
  end)

  it("streams, in every completion, and alone", function()
    local request = assert(eng:submit(ask{n = 2}))
    local pieces, counts = {"", ""}, {0, 0}
    for piece, event in request:pieces() do
      pieces[event.i + 1] = pieces[event.i + 1] .. piece
      counts[event.i + 1] = counts[event.i + 1] + #event.t
    end
    for i = 1, 2 do
      assert.equal(request:result().choices[i].d, pieces[i])
      assert.equal(#ids + 12, counts[i])
      assert.equal(text, pieces[i]:sub(1, #text))
    end
    assert.equal(24, request:usage().completion_tokens)
    local only = run(eng, {prompt = text, max_tokens = 0, echo = true, logprobs = 0})
    assert.equal(text, only.choices[1].d)
    assert.same(ids, only.choices[1].t)
    assert.equal(0, only.usage.completion_tokens)
  end)

  it("does not look for stop texts in the prompt", function()
    local choice = run(eng, ask{stop = "three"}).choices[1]
    assert.equal(#ids + 12, #choice.t)
  end)

  it("shows nothing of a request that ended before", function()
    local request = assert(eng:submit{prompt = text, echo = true, policy = true})
    request:cancel()
    local choice = request:result().choices[1]
    assert.equal("cancelled", choice.fin)
    assert.equal("", choice.d)
    assert.same({}, choice.t)
  end)
end)
