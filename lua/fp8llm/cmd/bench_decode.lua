--- `fp8llm bench decode`: tokens/s of one sequence, and how much of the machine's bandwidth that is.
local bench_model = require "fp8llm.cmd.bench_model"
local common = require "fp8llm.cmd.common"
local json = require "fp8llm.json"
local must = common.must

local M = {
  text = [[
one token at a time: tokens/s, the bytes of weights read per second, and what part that
is of the bandwidth measured in the same run with the same threads and bytes (1 GiB at most; on a
GPU by copies); multiplications and additions beside their peak]],
  options = common.join({
    {"prompt", "integer", "N", "decode, ops: tokens already there (default 64)"},
    {"tokens", "integer", "N", "decode, ops, policy: tokens per measurement (default 64; policy 400)"},
  }, bench_model.options),
}

local function decode_once(model, opt)
  local ids = bench_model.some_ids((opt.prompt or 64) + (opt.tokens or 64), model:config().vocab_size)
  local seq = must(model:sequence())
  local prompt = {}
  for i = 1, opt.prompt or 64 do prompt[i] = ids[i] end
  must(seq:feed(prompt))
  local seconds = bench_model.timed(function()
    for i = #prompt + 1, #ids do must(seq:feed {ids[i]}) end
  end)
  seq:close()
  return (#ids - #prompt) / seconds
end

local kind = {}

function kind.sample(model, opt)
  local rate = decode_once(model, opt)
  return {rate = rate, bandwidth = bench_model.bandwidth(model, opt)}
end

function kind.summarize(model, samples, opt)
  local bytes = model:info().bytes_per_token
  local rates, roof = json.array {}, 0
  for i, one in ipairs(samples) do
    rates[i] = one.rate
    roof = math.max(roof, one.bandwidth)
  end
  local rate = common.median(rates)
  local prompt, tokens = opt.prompt or 64, opt.tokens or 64
  local result = {
    tokens_per_second = rate, bytes_per_token = bytes, bytes_per_second = rate * bytes, read_bandwidth = roof,
    fraction = rate * bytes / roof, runs = rates, prompt_tokens = prompt, decode_tokens = tokens,
    flops = rate * bench_model.token_flops(model, prompt + tokens / 2),
  }
  bench_model.peaks(result, model, opt)
  result.peak_fraction = result.flops / result.flop_peak
  return result
end

function M.run(opt, name) return bench_model.run(name, opt, kind) end

local function show(r)
  common.printf("decode     %.1f tokens/s (%.2f ms a token; %d runs of %d tokens after %d)", r.tokens_per_second,
    1000 / r.tokens_per_second, #r.runs, r.decode_tokens, r.prompt_tokens)
  common.printf("weights    %s a token, %.2f GB/s", common.bytes(r.bytes_per_token), r.bytes_per_second / 1e9)
  common.printf("bandwidth  %.2f GB/s %s: %.0f %% used", r.read_bandwidth / 1e9,
    r.fp8_peak and "by copies on the device" or "read by as many threads", 100 * r.fraction)
  bench_model.show_peaks(r, r.flops)
end

function M.show(r)
  bench_model.show(r, show, function(one) return one.tokens_per_second end)
end

return M
