--- What a request gives does not depend on its company: random requests, each alone once on one
-- thread, then in random companies: other threads, chunks, prefix hits, small pools, guesses,
-- engines and models made anew, requests cancelled beside them. Everything must be the same, bit for bit.
--
--   luajit spec/support/invariance.lua MODEL_DIR TRIALS [SEED]       -- or, in a spec:
--   local report = dofile("spec/support/invariance.lua")(dir, trials, seed)
--   report.wrong: list of texts; report.trials, .worlds, .preemptions, .cached_tokens, ...
local fp8llm = require "fp8llm"

local CONTEXT = 320

-- Park and Miller's generator: the same trials on every Lua.
local function generator(seed)
  local state = seed % 2147483646 + 1
  return function(n)
    state = (16807 * state) % 2147483647
    return state % n
  end
end

local function list_of(n, f)
  local list = {}
  for i = 1, n do list[i] = f(i) end
  return list
end

-- Prompts of one family begin alike, so that the prefix cache has something to find.
local function make_request(rand, vocab, families)
  local family, ids = families[rand(#families) + 1], {}
  for i = 1, rand(4) > 0 and rand(#family) or 0 do ids[i] = family[i] end
  for _ = 1, 1 + rand(40) do ids[#ids + 1] = rand(vocab) end
  local r = {ids = ids, seed = rand(1000000), max_tokens = 1 + rand(32)}
  r.temperature = ({0, 0.7, 1, 1.3})[rand(4) + 1]
  if rand(3) == 0 then r.top_k = 1 + rand(50) end
  if rand(3) == 0 then r.top_p = 0.5 + rand(50) / 100 end
  if rand(5) == 0 then r.min_p = rand(20) / 100 end
  if rand(4) == 0 then r.repetition_penalty = 1 + rand(40) / 100 end
  if rand(5) == 0 then r.frequency_penalty = rand(100) / 100 end
  if rand(6) == 0 then r.logit_bias = {[tostring(rand(vocab))] = 5} end
  if rand(6) == 0 then r.stop = {"e", "in"} end
  if rand(8) == 0 then r.bad_words = {"on"} end
  if rand(8) == 0 then r.n = 2 + rand(2) end
  if rand(2) == 0 then r.ignore_eos = true end
  if rand(2) == 0 then r.logprobs = rand(4) end
  if rand(5) == 0 then r.prompt_logprobs = rand(3) end
  if rand(8) == 0 then r.echo = true end
  if rand(10) == 0 then
    r.policy, r.policy_logits = true, rand(2) == 0
    r.policy_candidates = not r.policy_logits and 1 + rand(60) or nil
  end
  return r
end

-- A policy that looks at history and row, or candidates, and whose choice is the request's sampler's.
local function answer(step, whole_rows)
  local prompt, output = step:history()
  local some = prompt[#prompt] * 31 + #output * 17
  if whole_rows then
    local logits = step.logits
    logits:add_at(some % #logits, 6)
    assert(step:sample())
  else
    local ids, logits = step:candidates()
    logits[some % #ids + 1] = logits[some % #ids + 1] + 3
    if some % 5 == 0 then assert(step:accept(ids[1])) else assert(step:sample(some % 2 == 0 and logits or nil)) end
  end
end

-- A value as text, every float exact.
local function exact(v)
  if type(v) == "number" then return string.format("%.17g", v) end
  if type(v) ~= "table" then return tostring(v) end
  local keys, out = {}, {}
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for i, k in ipairs(keys) do out[i] = tostring(k) .. "=" .. exact(v[k]) end
  return "{" .. table.concat(out, " ") .. "}"
end

local function outcome(result)
  result.usage = nil -- cached tokens and times may differ
  return exact(result)
end

local function alone(model, cases)
  local eng = assert(model:engine {})
  for _, case in ipairs(cases) do
    local request = assert(eng:submit(case.request))
    if case.request.policy then
      for step in request:steps() do answer(step, case.request.policy_logits) end
    end
    case.alone = outcome(assert(request:result()))
    request:close()
  end
  eng:close()
end

-- One engine over one model with random limits; every request of `cases` is in it once.
local function company(dir, rand, cases, report, vocab)
  local rows = ({8, 17, 48, 130, 256})[rand(5) + 1]
  local pool = ({1, 1.2, 2, 8})[rand(4) + 1] * CONTEXT
  local options = {
    threads = 1 + rand(3), context = CONTEXT, kv_tokens = math.floor(pool), max_step_rows = rows,
    prefix_cache = rand(4) > 0,
  }
  local model = assert(fp8llm.load(dir, options))
  local limits = {
    max_running = 1 + rand(24), max_step_tokens = 1 + rand(rows), num_speculative_tokens = rand(3) > 0 and rand(8) or 0,
    prompt_lookup_min = 1,
  }
  local eng = assert(model:engine(limits))
  local running, whole_rows, policies, submitted = {}, {}, 0, 0
  local function submit(request)
    local r = assert(eng:submit(request))
    whole_rows[submitted], submitted = request.policy_logits, submitted + 1 -- by arrival
    return r
  end
  for _, case in ipairs(cases) do
    running[#running + 1] = {case = case, request = submit(case.request)}
    if case.request.policy then policies = policies + 1 end
    if rand(4) == 0 then -- one that does not live to its end
      local ids = list_of(1 + rand(90), function() return rand(vocab) end)
      local other = submit {ids = ids, ignore_eos = true}
      if rand(2) == 0 then other:wait(rand(3)) end
      other:cancel()
    end
    if rand(6) == 0 then running[rand(#running) + 1].request:wait(rand(5)) end
    if pool > 4 * CONTEXT and rand(8) == 0 then -- a sequence takes its turn between the steps
      local seq = assert(model:sequence())
      assert(seq:feed(list_of(1 + rand(60), function() return rand(vocab) end)))
      seq:close()
    end
  end
  if policies > 0 then
    for step in eng:steps() do answer(step, whole_rows[step:arrival()]) end
  end
  for _, one in ipairs(running) do
    local got = outcome(assert(one.request:result()))
    report.trials = report.trials + 1
    if got ~= one.case.alone then
      report.wrong[#report.wrong + 1] = string.format("model %s\nengine %s\nrequest %s\nalone %s\nhere  %s",
        exact(options), exact(limits), exact(one.case.request), one.case.alone, got)
    end
  end
  local stats = eng:stats()
  report.worlds = report.worlds + 1
  report.preemptions = report.preemptions + stats.preemptions
  report.cached_tokens = report.cached_tokens + stats.cached_tokens
  report.tokens = report.tokens + stats.output_tokens
  report.policies = report.policies + policies
  report.guesses = report.guesses + stats.accepted_tokens
  eng:close()
  model:close()
end

local PER_WORLD = 40

local function run(dir, trials, seed, progress)
  local rand = generator(seed or 1)
  local report = {
    trials = 0, worlds = 0, preemptions = 0, cached_tokens = 0, tokens = 0, policies = 0, guesses = 0,
    wrong = {},
  }
  local model = assert(fp8llm.load(dir, {threads = 1, context = CONTEXT, prefix_cache = false}))
  local vocab = math.min(model:config().vocab_size, 40000)
  local families = list_of(6, function() return list_of(150, function() return rand(vocab) end) end)
  while report.trials < trials do
    -- New requests for every few worlds; each is in several of them.
    local cases = list_of(math.min(PER_WORLD * 2, math.max(1, math.floor(trials / 2))), function()
      return {request = make_request(rand, vocab, families)}
    end)
    alone(model, cases)
    for _ = 1, 5 do
      local some = list_of(math.min(PER_WORLD, trials - report.trials), function()
        return cases[rand(#cases) + 1]
      end)
      if #some > 0 then company(dir, rand, some, report, vocab) end
      if progress then progress(report) end
    end
  end
  model:close()
  return report
end

local function main(args)
  local trials, seed = tonumber(args[2]), tonumber(args[3]) or 1
  local began = fp8llm.clock()
  local report = run(args[1], trials, seed, function(r)
    if r.worlds % 25 == 0 then io.stderr:write(r.trials, " trials, ", #r.wrong, " wrong\n") end
  end)
  for i = 1, math.min(3, #report.wrong) do io.stderr:write(report.wrong[i], "\n") end
  print(string.format("%d trials of %s: %d wrong; %d engines, %d tokens, %d from the prefix cache, %d preemptions, "
    .. "%d policies, %d right guesses, %.0f s", report.trials, args[1], #report.wrong, report.worlds, report.tokens,
    report.cached_tokens, report.preemptions, report.policies, report.guesses, fp8llm.clock() - began))
  os.exit(#report.wrong == 0 and 0 or 1)
end

if arg and arg[0] and arg[0]:match "invariance%.lua$" then main(arg) end
return run
