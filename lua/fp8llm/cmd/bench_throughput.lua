--- `fp8llm bench throughput`: many requests in one batch, beside one alone in the same run.
local bench_model = require "fp8llm.cmd.bench_model"
local common = require "fp8llm.cmd.common"
local cost_model = require "fp8llm.cost_model"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local simulate = require "fp8llm.simulate"
local must = common.must

local M = {
  text = [[
--requests together through the engine, and one alone in turn with them: output tokens/s, their
ratio, what part of the processors' multiply-adds that is, what scheduling, sampling and events
take of a step, how far apart the requests end; and what `bench schedule` would have said]],
  options = common.join({
    {"requests", "integer", "N", "throughput, schedule: requests (default 64; schedule 3 x --running)"},
    {"isl", "integer", "N", "throughput, schedule: tokens of a prompt (default 64; schedule 2048)"},
    {"osl", "integer", "N", "throughput, schedule, policy: tokens of an answer (default 192; policy 64; schedule 128)"},
  }, bench_model.options),
}

local function sum(v) return type(v) == "table" and v.sum or v or 0 end

local function prompt_of(i, n, vocab)
  local ids = {}
  for k = 1, n do ids[k] = (i * 7919 + k * 104729) % vocab end
  return ids
end

-- n requests at once -> {seconds, first, gap, total}: lists of each request's times.
local function drive(eng, n, opt, vocab)
  local requests, out = {}, {first = {}, gap = {}, total = {}}
  local before, start = eng:stats(), fp8llm.clock()
  for i = 1, n do
    requests[i] = must(eng:submit {
      ids = prompt_of(i, opt.isl, vocab), max_tokens = opt.osl, ignore_eos = true, temperature = 1, seed = i,
    })
  end
  for i, request in ipairs(requests) do
    local usage = must(request:result()).usage
    out.first[i], out.total[i] = usage.first_token_s, usage.total_s
    out.gap[i] = (usage.total_s - usage.first_token_s) / math.max(1, opt.osl - 1)
    request:close()
  end
  out.seconds = fp8llm.clock() - start
  local after = eng:stats()
  out.step_s = sum(after.step_s) - sum(before.step_s)
  out.schedule_s = after.schedule_s - before.schedule_s
  out.sample_s = (after.sample_s or 0) - (before.sample_s or 0)
  out.steps = after.steps - before.steps
  return out
end

local function percentile(list, p)
  local sorted = {}
  for i, v in ipairs(list) do sorted[i] = v end
  table.sort(sorted)
  return sorted[math.max(1, math.ceil(p * #sorted))]
end

-- Products of n requests: every token through the layers, the last of the prompt and all but the
-- last of the answer through the head, each looking at what is before it.
local function flops_of(shape, n, opt)
  local tokens = opt.isl + opt.osl - 1
  return n * (tokens * shape.token_flops + opt.osl * shape.head_flops + tokens * (tokens + 1) / 2 * shape.attend_flops)
end

-- The scheduler on a machine with the speed that one request showed: what would N come to?
local function predict(shape, n, opt, alone, prefill, kv_tokens)
  local decode_s = percentile(alone.gap, 0.5)
  local device = {bandwidth = shape.read_bytes / decode_s, flops = prefill.rows * shape.token_flops / prefill.seconds}
  local trace = simulate.trace {requests = n, isl = opt.isl, osl = opt.osl}
  local limits = {max_running = n, max_step_tokens = 256, kv_tokens = kv_tokens}
  return must(simulate.run(trace, limits, function(work) return cost_model.step(shape, device, work) end))
end

-- Rows of a full step a second, for the prediction.
local function measure_prefill(model, opt)
  local rows, best = 256, math.huge
  local ids = prompt_of(1, rows, model:config().vocab_size)
  for _ = 1, opt.runs do
    local seq = must(model:sequence())
    best = math.min(best, bench_model.timed(function() must(seq:feed(ids)) end))
    seq:close()
  end
  return {rows = rows, seconds = best}
end

local function measure(model, opt)
  local info, config = model:info(), model:config()
  local n = opt.requests
  local shape = cost_model.shape(config, 1, info.kv_dtype == "BF16" and 2 or 1)
  shape.read_bytes = info.bytes_per_token
  local eng = must(model:engine {max_running = n})
  drive(eng, n, {isl = opt.isl, osl = 2}, config.vocab_size) -- cold caches, sleeping threads
  local one, many, ratio, roof, runs = {}, {}, {}, {}, {}
  for i = 1, opt.runs do
    local alone = drive(eng, 1, opt, config.vocab_size)
    runs[i] = drive(eng, n, opt, config.vocab_size)
    runs[i].alone = alone
    one[i], many[i] = opt.osl / alone.seconds, n * opt.osl / runs[i].seconds
    ratio[i] = many[i] / one[i]
  end
  bench_model.peaks(roof, model, opt)
  roof.read_bandwidth = bench_model.bandwidth(model, opt)
  local last = runs[#runs]
  local prefill = measure_prefill(model, opt)
  local expected = predict(shape, n, opt, last.alone, prefill, info.kv_tokens)
  eng:close()
  local host = {}
  for i, r in ipairs(runs) do host[i] = (r.schedule_s + r.sample_s) / r.step_s end
  local result = {
    requests = n, isl = opt.isl, osl = opt.osl, tokens_per_second = common.median(many),
    one_tokens_per_second = common.median(one), ratio = common.median(ratio), runs = json.array(many),
    processed_tokens_per_second = common.median(many) * (opt.isl + opt.osl - 1) / opt.osl,
    flops = flops_of(shape, n, opt) / last.seconds, steps = last.steps,
    fraction = last.steps * info.bytes_per_token / last.seconds / roof.read_bandwidth,
    peak_fraction = flops_of(shape, n, opt) / last.seconds / roof.flop_peak,
    step_s = last.step_s / last.steps, schedule_fraction = last.schedule_s / last.step_s,
    sample_fraction = last.sample_s / last.step_s, host_fraction = common.median(host),
    first_token_s = percentile(last.first, 0.5), first_token_p99_s = percentile(last.first, 0.99),
    inter_token_s = percentile(last.gap, 0.5), finish_ratio = percentile(last.total, 1) / percentile(last.total, 0.5),
    calculated_tokens_per_second = expected.output_tokens_per_second,
  }
  for k, v in pairs(roof) do result[k] = v end
  return result
end

function M.run(opt, name)
  opt.requests, opt.isl, opt.osl = opt.requests or 64, opt.isl or 64, opt.osl or 192
  local pages = math.floor((opt.isl + opt.osl) / 32) + 1
  opt.kv_tokens = math.max(opt.requests * pages * 32, 1024)
  return bench_model.run(name, opt, measure)
end

local function show_one(r)
  local function line(...) common.printf(...) end
  line("requests   %d of %d in, %d out: %.1f output tokens/s (%.1f with the prompts'; %d runs)", r.requests, r.isl,
    r.osl, r.tokens_per_second, r.processed_tokens_per_second, #r.runs)
  line("one        %.1f output tokens/s: together %.2f times that", r.one_tokens_per_second, r.ratio)
  bench_model.show_peaks(r, r.flops)
  line("bandwidth  %.2f GB/s measured in this run: %.0f %% used by weights", r.read_bandwidth / 1e9, 100 * r.fraction)
  line("step       %.2f ms, of it scheduling and events %.2f %%, sampling %.2f %%", 1000 * r.step_s,
    100 * r.schedule_fraction, 100 * r.sample_fraction)
  line("first      token after %.0f ms, 99 %% within %.0f ms; then one every %.1f ms", 1000 * r.first_token_s,
    1000 * r.first_token_p99_s, 1000 * r.inter_token_s)
  line("finish     the slowest takes %.2f times the median", r.finish_ratio)
  line("calculated %.1f output tokens/s, from the speeds of one request and one prompt: %.2f times the measured",
    r.calculated_tokens_per_second, r.calculated_tokens_per_second / r.tokens_per_second)
end

function M.show(r)
  bench_model.show(r, show_one, function(one) return one.tokens_per_second end)
end

return M
