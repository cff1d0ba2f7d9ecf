--- `fp8llm bench policy`: what a policy in Lua costs, and what a slow one costs the others.
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local shapes = require "fp8llm.shapes"
local must = common.must

local M = {
  text = [[
processor time that a policy in Lua adds to a token, of the engine's and of Lua's thread, with
candidates and with whole rows: on a model of MODEL's vocabulary and nearly nothing else; what it
would cost more to wake a sleeping thread and be woken by it, in the same run; and what 31 requests
lose to one policy that sleeps 50 ms a token, beside an ordinary request]],
  options = {
    {"tokens", "integer", "N", "decode, ops, policy: tokens per measurement (default 64; policy 400)"},
    {"osl", "integer", "N", "throughput, schedule, policy: tokens of an answer (default 192; policy 64; schedule 128)"},
  },
}

-- One layer of 32 numbers and the whole vocabulary: the rest of a token is cheap and the same.
local function small_model(vocab)
  local config = must(shapes.config "smollm2-135m")
  config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 32, 1
  config.num_attention_heads, config.num_key_value_heads, config.vocab_size = 2, 1, vocab
  return must(fp8llm.load("policy", {
    load_format = "dummy", config_json = json.encode(config), threads = 1, context = 1024, prefix_cache = false,
  }))
end

-- Processor seconds a token of a request, engine's and Lua's thread together.
local function cpu_per_token(eng, tokens, kind)
  local own, its = fp8llm.thread_clock(), eng:stats().thread_s
  local request = must(eng:submit {
    ids = {1, 2, 3}, max_tokens = tokens, ignore_eos = true, temperature = 0,
    policy = kind ~= "none", policy_logits = kind == "rows",
  })
  if kind == "candidates" then
    for step in request:steps() do
      local ids = step:candidates()
      must(step:accept(ids[1]))
    end
  elseif kind == "rows" then
    for step in request:steps() do must(step:sample()) end
  end
  must(request:result())
  request:close()
  return (fp8llm.thread_clock() - own + eng:stats().thread_s - its) / tokens
end

local function added(vocab, opt)
  local model = small_model(vocab)
  local eng = must(model:engine {})
  local tokens, with, handover = opt.tokens or 400, {none = {}, candidates = {}, rows = {}}, {}
  must(must(eng:submit {ids = {1}, max_tokens = 20, ignore_eos = true}):result())
  for i = 1, opt.runs do
    for kind, list in pairs(with) do list[i] = cpu_per_token(eng, tokens, kind) end
    -- As long awake and asleep as the two threads of a policy, so that they land on as many cores.
    handover[i] = must(fp8llm.handover_cost {rounds = tokens, work = with.none[i]})
  end
  eng:close()
  model:close()
  local plain, out = common.median(with.none), {}
  for kind, list in pairs(with) do out[kind] = common.median(list) - plain end
  out.plain, out.handover = plain, common.median(handover)
  return out
end

-- Tokens/s of n - 1 requests, beside one more: ordinary, or a policy that sleeps before each answer.
local function beside(eng, n, sleeps, vocab, osl)
  local requests = {}
  local function submit(i, policy)
    return must(eng:submit {
      ids = {i, i * 7919 % vocab, 3, 4}, max_tokens = osl, ignore_eos = true, seed = i, policy = policy,
    })
  end
  local last = submit(n, sleeps)
  local start = fp8llm.clock()
  for i = 1, n - 1 do requests[i] = submit(i) end
  local function all_done()
    for _, request in ipairs(requests) do
      if request:usage().completion_tokens < osl then return false end
    end
    return true
  end
  if sleeps then
    for step in last:steps() do
      while last:poll() do end
      last:wait(50) -- nothing comes before the answer: it sleeps
      if all_done() then break end
      must(step:sample())
    end
  end
  local seconds = 0
  for _, request in ipairs(requests) do
    seconds = math.max(seconds, must(request:result()).usage.total_s)
    request:close()
  end
  local elapsed = fp8llm.clock() - start
  last:cancel()
  must(last:result())
  last:close()
  collectgarbage()
  return (n - 1) * osl / math.min(seconds, elapsed)
end

function M.run(opt, name)
  local n, osl = 32, opt.osl or 64
  opt.kv_tokens, opt.prefix_cache = n * (osl + 64), false
  local model = common.load(name, opt)
  local info, vocab = model:info(), model:config().vocab_size
  local cost = added(vocab, opt)
  local eng = must(model:engine {max_running = n})
  beside(eng, n, false, vocab, osl)
  local ordinary, slow, ratio = {}, {}, {}
  for i = 1, opt.runs do
    ordinary[i] = beside(eng, n, false, vocab, osl)
    slow[i] = beside(eng, n, true, vocab, osl)
    ratio[i] = slow[i] / ordinary[i]
  end
  eng:close()
  model:close()
  return {
    plain_s = cost.plain, candidates_s = cost.candidates, rows_s = cost.rows, handover_s = cost.handover,
    vocab_size = vocab, requests = n,
    ordinary_tokens_per_second = common.median(ordinary), slow_tokens_per_second = common.median(slow),
    kept = common.median(ratio), runs = json.array(ratio), device = info.device, quantization = info.quantization,
  }
end

function M.show(r)
  local function line(...) common.printf(...) end
  line("model      %s: %s, on %s", r.model, r.quantization, r.device)
  line("added      %.1f us of processor time a token with candidates, %.1f us with whole rows of %d",
    1e6 * r.candidates_s, 1e6 * r.rows_s, r.vocab_size)
  line("           (waking a thread and being woken by it would cost %.1f us more in this run)",
    1e6 * r.handover_s)
  line("           to %.1f us of a request without a policy on a model that is all vocabulary", 1e6 * r.plain_s)
  line("others     %d requests beside one that sleeps 50 ms a token: %.1f tokens/s, %.1f %% of beside an ordinary one",
    r.requests - 1, r.slow_tokens_per_second, 100 * r.kept)
end

return M
