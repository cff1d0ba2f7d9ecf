--- What the benchmarks of a model share: which model, and several number formats in one run.
local common = require "fp8llm.cmd.common"
local cost_model = require "fp8llm.cost_model"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local shapes = require "fp8llm.shapes"
local must = common.must

local bench_model = {}

bench_model.options = {
  {"load-format", {"auto", "dummy"}, "NAME", "dummy: random weights, MODEL needs only a config.json (default auto)"},
  {"shape", "string", "NAME", "instead of MODEL a published shape, dummy weights: llama-3-8b, llama-3.2-1b, ..."},
  {"dtype", "string", "LIST", "dummy weights as bf16, f16, fp8, fp8-dynamic, fp8-block, fp8-2of4, in turn"},
  {"peak-size", "integer", "N", "on a GPU: rows and columns of the product that measures its peak (default 8192)"},
}

--- Any ids do for a speed; these go all over the vocabulary.
function bench_model.some_ids(n, vocab)
  local ids = {}
  for i = 1, n do ids[i] = i * 7919 % vocab end
  return ids
end

function bench_model.timed(f)
  local t0 = fp8llm.clock()
  f()
  return fp8llm.clock() - t0
end

local MIN_BYTES, MAX_BYTES = 2 ^ 20, 2 ^ 30 -- beyond any cache no more memory than that

local function on_gpu(opt) return (opt.device or ""):match "^cuda" ~= nil end

--- Bytes a second that the memory of what the model runs on can give, measured now: by as many threads, and
-- of as many bytes as the model has, that caches help both alike.
function bench_model.bandwidth(model, opt)
  local bytes = math.min(math.max(model:info().bytes_per_token, MIN_BYTES), on_gpu(opt) and MAX_BYTES / 4 or MAX_BYTES)
  return must(fp8llm.read_bandwidth {threads = opt.threads, bytes = bytes, device = opt.device})
end

--- Multiplications and additions a second, measured now, into `result`: flop_peak, of a GPU that of the type of
-- the model's weights, and fp8_peak and bf16_peak.
function bench_model.peaks(result, model, opt)
  if not on_gpu(opt) then
    result.flop_peak = must(fp8llm.flop_peak {threads = opt.threads})
    return
  end
  for _, dtype in ipairs {"fp8", "bf16"} do
    result[dtype .. "_peak"] = must(fp8llm.flop_peak {device = opt.device, dtype = dtype, size = opt.peak_size})
  end
  result.flop_peak = model:info().quantization == "none" and result.bf16_peak or result.fp8_peak
end

--- The line about peaks: what share of it `flops` are.
function bench_model.show_peaks(r, flops)
  local both = r.fp8_peak and string.format(" (FP8 %.1f, BF16 %.1f)", r.fp8_peak / 1e9, r.bf16_peak / 1e9) or ""
  common.printf("products   %.1f GFLOP/s of %.1f multiply-adds measured in this run%s: %.0f %%", flops / 1e9,
    r.flop_peak / 1e9, both, 100 * flops / r.flop_peak)
end

--- Multiplications and additions of one more token after `position` others, and of a prompt of n tokens.
function bench_model.token_flops(model, position)
  local shape = cost_model.shape(model:config(), 1, 2)
  return shape.token_flops + shape.head_flops + position * shape.attend_flops
end
function bench_model.prompt_flops(model, n)
  local shape = cost_model.shape(model:config(), 1, 2)
  return n * shape.token_flops + shape.head_flops + n * (n + 1) / 2 * shape.attend_flops
end

-- The config.json of dummy weights in one number format, nil: as it is.
local function dummy_config(name, opt, dtype)
  local config
  if opt.shape then
    config = must(shapes.config(opt.shape))
  else
    local path = common.find(name) .. "/config.json"
    config = must(json.decode(common.read_file(path)))
    if type(config) ~= "table" then common.fail("%s: an object is expected", path) end
  end
  if dtype then must(shapes.set_dtype(config, dtype)) end
  return json.encode(config)
end

local function load(name, opt, dtype)
  opt.prefix_cache = false -- every run computes its whole prompt
  if on_gpu(opt) then opt.kv_tokens = opt.kv_tokens or opt.context or 8192 end -- room for measuring its memory
  if opt.shape or opt.load_format == "dummy" then
    opt.load_format = "dummy"
    opt.config_json = dummy_config(name, opt, dtype)
  elseif dtype then
    common.usage "--dtype: needs --shape or --load-format dummy"
  end
  return common.load(name, opt)
end

local function open(name, opt, dtype)
  local start = fp8llm.clock()
  local model = load(name, opt, dtype)
  local one = {model = model, samples = {}, dtype = dtype, load_seconds = fp8llm.clock() - start}
  return one
end

local function finish(one, kind, opt)
  local result, info = kind.summarize(one.model, one.samples, opt), one.model:info()
  result.load_seconds, result.dtype = one.load_seconds, one.dtype
  result.device, result.quantization, result.kv_dtype = info.device, info.quantization, info.kv_dtype
  one.model:close()
  return result
end

--- kind: sample(model, opt) measures once, summarize(model, samples, opt) makes the result of --runs
-- of them. With several --dtype all models are in memory and each run measures them in turn, so that
-- what else the machine does befalls all alike; the result is then {measured = {...}}. kind may be a
-- function(model, opt) -> result, called once.
function bench_model.run(name, opt, kind)
  local first, last = 0, opt.runs
  if type(kind) == "function" then
    kind = {sample = kind, summarize = function(_, samples) return samples[1] end}
    first, last = 1, 1
  end
  local all = {}
  for dtype in (opt.dtype or ""):gmatch "[^,]+" do all[#all + 1] = open(name, opt, dtype) end
  if #all == 0 then all[1] = open(name, opt) end
  for run = first, last do
    for _, one in ipairs(all) do
      local sample = kind.sample(one.model, opt)
      if run > 0 then one.samples[run] = sample end -- the first run meets cold caches and sleeping threads
    end
  end
  local results = json.array {}
  for i, one in ipairs(all) do results[i] = finish(one, kind, opt) end
  return #results > 1 and {measured = results} or results[1]
end

--- What bench_model.run returned: `show` for each, and how speeds(result) relate to the first.
function bench_model.show(r, show, speed)
  for _, one in ipairs(r.measured or {r}) do
    common.printf("model      %s: %s, KV %s, on %s, loaded in %.1f s", r.model,
      one.dtype and one.quantization == "none" and one.dtype or one.quantization, one.kv_dtype, one.device,
      one.load_seconds)
    show(one)
  end
  for i = 2, r.measured and #r.measured or 0 do
    local first, one = r.measured[1], r.measured[i]
    common.printf("ratio      %s runs at %.2f times the speed of %s", one.dtype, speed(one) / speed(first),
      first.dtype)
  end
end

return bench_model
