--- What the benchmarks of a model share.
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"

local bench_model = {}

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

--- The model, every run of which computes its whole prompt.
function bench_model.load(name, opt)
  opt.prefix_cache = false
  return common.load(name, opt)
end

--- Add to a result what it was measured on.
function bench_model.describe(result, model)
  local info = model:info()
  result.device, result.quantization, result.kv_dtype = info.device, info.quantization, info.kv_dtype
  return result
end

function bench_model.show(r)
  print(string.format("model      %s: %s, KV %s, on %s", r.model, r.quantization, r.kv_dtype, r.device))
end

return bench_model
