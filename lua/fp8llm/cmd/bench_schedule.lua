--- `fp8llm bench schedule`: the engine's scheduler on a machine that is only calculated.
local common = require "fp8llm.cmd.common"
local cost_model = require "fp8llm.cost_model"
local json = require "fp8llm.json"
local shapes = require "fp8llm.shapes"
local simulate = require "fp8llm.simulate"
local must = common.must

local M = {
  text = [[
the engine's scheduler on a device that is only calculated (--device sim:h100, sim:h200,
sim:8xh100, sim:8xh200 or other roofs): needs no weights, only a shape or a config.json;
how full it runs, tokens/s, times to the first token, between tokens and in all]],
  options = {
    {"shape", "string", "NAME", "instead of MODEL a published shape: llama-3.1-405b, llama-3-8b, ..."},
    {"requests", "integer", "N", "throughput, schedule: requests (default 64; schedule 3 x --running)"},
    {"isl", "integer", "N", "throughput, schedule: tokens of a prompt (default 64; schedule 2048)"},
    {"osl", "integer", "N", "throughput, schedule, policy: tokens of an answer (default 192; policy 64; schedule 128)"},
    {"running", "integer", "N", "schedule: requests computed together at most (default 1024)"},
    {"step-tokens", "integer", "N", "schedule: tokens of a step at most (default 8192)"},
    {"spread", "number", "S", "schedule: lengths vary by this part up and down (default 0)"},
    {"arrivals", {"all", "poisson", "burst"}, "HOW", "schedule: all at once, or --rate a second (default all)"},
    {"rate", "number", "R", "schedule: requests a second"},
    {"burst", "integer", "N", "schedule: requests that come together (default 64)"},
    {"kv-tokens", "integer", "N", "schedule: tokens of the KV cache (default what fits the device)"},
    {"kv-bytes", "integer", "N", "schedule: bytes of a number in the KV cache (default 1: FP8)"},
    {"weight-bytes", "integer", "N", "schedule: bytes of a weight (default 1: FP8; 2: BF16)"},
    {"seed", "integer", "N", "schedule: of arrivals and lengths (default 1)"},
  },
}

local function device_of(name)
  local device = cost_model.devices[name]
  if device then return device end
  local names = {}
  for known in pairs(cost_model.devices) do names[#names + 1] = known end
  table.sort(names)
  common.usage("--device: %s expected, got '%s'", table.concat(names, ", "), tostring(name))
end

local function config_of(name, opt)
  if opt.shape then return must(shapes.config(opt.shape)) end
  return must(json.decode(common.read_file(common.find(name) .. "/config.json")))
end

function M.run(opt, name)
  local device = device_of(opt.device or "sim:8xh200")
  local shape = cost_model.shape(config_of(name, opt), opt.weight_bytes or 1, opt.kv_bytes or 1)
  local running, isl, osl = opt.running or 1024, opt.isl or 2048, opt.osl or 128
  local arrivals = opt.arrivals or (opt.rate and "poisson" or "all")
  if arrivals ~= "all" and not opt.rate then common.usage("--arrivals %s: needs --rate", arrivals) end
  local kv_tokens = opt.kv_tokens or cost_model.kv_tokens(shape, device)
  if kv_tokens < isl + osl then
    common.fail("--device: room for %d tokens of KV cache, a request has %d", kv_tokens, isl + osl)
  end
  local trace = simulate.trace {
    requests = opt.requests or 3 * running, isl = isl, osl = osl, spread = opt.spread, arrivals = arrivals,
    rate = opt.rate, burst = opt.burst or 64, seed = opt.seed,
  }
  local limits = {max_running = running, max_step_tokens = opt.step_tokens or 8192, kv_tokens = kv_tokens}
  local report = must(simulate.run(trace, limits, function(work) return cost_model.step(shape, device, work) end))
  report.device, report.isl, report.osl, report.arrivals = opt.device or "sim:8xh200", isl, osl, arrivals
  report.kv_tokens, report.limit_running, report.step_tokens = kv_tokens, running, limits.max_step_tokens
  return report
end

local function times(label, p)
  common.printf("%-12s p50 %.4g s, p90 %.4g s, p99 %.4g s, max %.4g s", label, p.p50, p.p90, p.p99, p.max)
end

function M.show(r)
  local function line(...) common.printf(...) end
  line("model        %s on %s (calculated)", r.model, r.device)
  line("requests     %d of %d in, %d out, arrivals %s", r.requests, r.isl, r.osl, r.arrivals)
  line("throughput   %.1f output tokens/s, %.1f tokens/s in all, busy %.0f %%", r.output_tokens_per_second,
    r.tokens_per_second, 100 * r.busy)
  line("steps        %d of %.4g s, %.0f tokens each (limit %d)", r.steps, r.step_s, r.rows_per_step, r.step_tokens)
  line("running      %.1f, at most %d (limit %d); %.1f waiting", r.running, r.max_running, r.limit_running, r.queued)
  line("KV cache     %.0f %% used, at most %.0f %% of %d tokens; %d preemptions", 100 * r.kv_used, 100 * r.max_kv_used,
    r.kv_tokens, r.preemptions)
  times("first token", r.first_token_s)
  times("inter token", r.inter_token_s)
  times("in all", r.total_s)
  line("finish       the slowest takes %.2f times the median", r.finish_ratio)
end

return M
