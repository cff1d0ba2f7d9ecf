--- `fp8llm bench ops`: where the time of a step goes, op by op.
local bench_model = require "fp8llm.cmd.bench_model"
local common = require "fp8llm.cmd.common"
local json = require "fp8llm.json"
local must = common.must

local M = {
  text = [[
where the time goes, op by op, decoding one token at a time and in a prompt of 256: time, the
bytes an op must read and write, its multiplications and additions, their rates and what part of
the machine's they are; on a GPU the time of an op includes that of waiting for it]],
  options = common.join({
    {"prompt", "integer", "N", "decode, ops: tokens already there (default 64)"},
    {"tokens", "integer", "N", "decode, ops, policy: tokens per measurement (default 64; policy 400)"},
  }, bench_model.options),
}

local function label(t)
  if t.n == 0 then return t.op end
  return string.format("%s %dx%d %s", t.op, t.n, t.k, t.dtype)
end

-- The table of one phase: what `steps` calls of f did.
local function phase(model, steps, f)
  local times = {}
  model:op_times()
  local seconds = bench_model.timed(f)
  local list, sum = model:op_times(), 0
  table.sort(list, function(a, b) return a.seconds > b.seconds end)
  for i, t in ipairs(list) do
    sum = sum + t.seconds
    times[i] = {
      op = label(t), calls = t.calls / steps, seconds = t.seconds / steps, part = t.seconds / seconds,
      bytes_per_second = t.bytes / t.seconds, flops = t.flops / t.seconds,
    }
  end
  return {seconds = seconds / steps, outside = 1 - sum / seconds, ops = json.array(times)}
end

local function measure(model, opt)
  local prompt, tokens = opt.prompt or 64, opt.tokens or 64
  local ids = bench_model.some_ids(prompt + tokens + 256, model:config().vocab_size)
  local function part(from, n)
    local list = {}
    for i = 1, n do list[i] = ids[from + i] end
    return list
  end
  local seq = must(model:sequence())
  must(seq:feed(part(0, prompt)))
  local decode = phase(model, tokens, function()
    for i = 1, tokens do must(seq:feed {ids[prompt + i]}) end
  end)
  seq:close()
  seq = must(model:sequence())
  local prefill = phase(model, 1, function() must(seq:feed(part(0, 256))) end)
  seq:close()
  local result = {
    decode = decode, prefill = prefill, decode_prompt = prompt, prefill_tokens = 256,
    read_bandwidth = bench_model.bandwidth(model, opt),
  }
  bench_model.peaks(result, model, opt)
  for _, p in ipairs {decode, prefill} do
    for _, t in ipairs(p.ops) do
      t.fraction, t.peak_fraction = t.bytes_per_second / result.read_bandwidth, t.flops / result.flop_peak
    end
  end
  return result
end

function M.run(opt, name)
  opt.time_ops = true
  return bench_model.run(name, opt, measure)
end

local function show_phase(title, p)
  common.printf("%-30s %9s %7s %9s %8s %4s %9s %4s", title, "calls", "%", "us", "GB/s", "%", "GFLOP/s", "%")
  for _, t in ipairs(p.ops) do
    common.printf("%-30s %9.0f %7.1f %9.1f %8.2f %4.0f %9.1f %4.0f", t.op, t.calls, 100 * t.part,
      1e6 * t.seconds, t.bytes_per_second / 1e9, 100 * t.fraction, t.flops / 1e9, 100 * t.peak_fraction)
  end
  common.printf("%-30s %9s %7.1f %9.1f", "outside the ops", "", 100 * p.outside, 1e6 * p.seconds * p.outside)
end

local function show_one(r)
  local both = r.fp8_peak and string.format(" (FP8 %.1f, BF16 %.1f)", r.fp8_peak / 1e9, r.bf16_peak / 1e9) or ""
  common.printf("machine    moves %.2f GB/s, multiplies and adds %.1f GFLOP/s%s", r.read_bandwidth / 1e9,
    r.flop_peak / 1e9, both)
  show_phase(string.format("one token after %d: %.2f ms", r.decode_prompt, 1000 * r.decode.seconds), r.decode)
  show_phase(string.format("prompt of %d: %.1f ms", r.prefill_tokens, 1000 * r.prefill.seconds), r.prefill)
end

function M.show(r)
  bench_model.show(r, show_one, function(one) return 1 / one.decode.seconds end)
end

return M
