--- `fp8llm bench prefill`: prompt tokens/s by length.
local bench_model = require "fp8llm.cmd.bench_model"
local common = require "fp8llm.cmd.common"
local json = require "fp8llm.json"
local must = common.must

local M = {
  text = "prompts of several lengths: tokens/s, and their multiplications and additions beside the peak",
  options = common.join({{"length", "integer", "N", "prefill: only prompts of N tokens"}}, bench_model.options),
}

local kind = {}

-- {length, tokens/s} of each length that fits.
function kind.sample(model, opt)
  local rates, context = {}, model:info().context
  for _, n in ipairs(opt.length and {opt.length} or {16, 64, 256, 1024}) do
    if n > context then break end
    local ids = bench_model.some_ids(n, model:config().vocab_size)
    local seq = must(model:sequence())
    rates[#rates + 1] = {n, n / bench_model.timed(function() must(seq:feed(ids)) end)}
    seq:close()
  end
  if #rates == 0 then common.fail("--length %d: the context holds %d tokens", opt.length, context) end
  return rates
end

function kind.summarize(model, samples, opt)
  local results, r = json.array {}, {}
  bench_model.peaks(r, model, opt)
  r.read_bandwidth = bench_model.bandwidth(model, opt)
  for i, length in ipairs(samples[1]) do
    local rates = json.array {}
    for run, sample in ipairs(samples) do rates[run] = sample[i][2] end
    local rate, n = common.median(rates), length[1]
    local flops = rate / n * bench_model.prompt_flops(model, n)
    results[i] = {
      prompt_tokens = n, tokens_per_second = rate, runs = rates, flops = flops, peak_fraction = flops / r.flop_peak,
      fraction = rate / n * model:info().bytes_per_token / r.read_bandwidth,
    }
  end
  r.prefill = results
  return r
end

function M.run(opt, name) return bench_model.run(name, opt, kind) end

local function show(r)
  for _, one in ipairs(r.prefill) do
    common.printf("prefill    %5d tokens  %8.1f tokens/s  (%.1f ms, %d runs): %.0f %% of the peak, %.0f %% of "
      .. "the bandwidth", one.prompt_tokens, one.tokens_per_second, 1000 * one.prompt_tokens / one.tokens_per_second,
      #one.runs, 100 * one.peak_fraction, 100 * one.fraction)
  end
  bench_model.show_peaks(r, r.prefill[#r.prefill].flops)
end

function M.show(r)
  bench_model.show(r, show, function(one) return one.prefill[#one.prefill].tokens_per_second end)
end

return M
