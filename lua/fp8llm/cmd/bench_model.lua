--- What the benchmarks of a model share: which model, and several number formats in one run.
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local shapes = require "fp8llm.shapes"
local must = common.must

local bench_model = {}

bench_model.options = {
  {"load-format", {"auto", "dummy"}, "NAME", "dummy: random weights, MODEL needs only a config.json (default auto)"},
  {"shape", "string", "NAME", "instead of MODEL a published shape, dummy weights: llama-3-8b, llama-3.2-1b, ..."},
  {"dtype", "string", "LIST", "dummy weights as bf16, f16, fp8, fp8-dynamic, fp8-block, fp8-2of4, in turn"},
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
  if opt.shape or opt.load_format == "dummy" then
    opt.load_format = "dummy"
    opt.config_json = dummy_config(name, opt, dtype)
  elseif dtype then
    common.usage "--dtype: needs --shape or --load-format dummy"
  end
  return common.load(name, opt)
end

local function measure_one(name, opt, measure, dtype)
  local start = fp8llm.clock()
  local model = load(name, opt, dtype)
  local seconds = fp8llm.clock() - start
  local result, info = measure(model, opt), model:info()
  result.load_seconds, result.dtype = seconds, dtype
  result.device, result.quantization, result.kv_dtype = info.device, info.quantization, info.kv_dtype
  model:close()
  return result
end

--- measure(model, opt) of the model, or of each --dtype: then {measured = {...}}.
function bench_model.run(name, opt, measure)
  local results = json.array {}
  for dtype in (opt.dtype or ""):gmatch "[^,]+" do
    results[#results + 1] = measure_one(name, opt, measure, dtype)
  end
  if #results > 1 then return {measured = results} end
  return results[1] or measure_one(name, opt, measure)
end

--- What bench_model.run returned: `show` for each, and how speeds(result) relate to the first.
function bench_model.show(r, show, speed)
  for _, one in ipairs(r.measured or {r}) do
    print(string.format("model      %s: %s, KV %s, on %s, loaded in %.1f s", r.model,
      one.dtype and one.quantization == "none" and one.dtype or one.quantization, one.kv_dtype, one.device,
      one.load_seconds))
    show(one)
  end
  for i = 2, r.measured and #r.measured or 0 do
    local first, one = r.measured[1], r.measured[i]
    print(string.format("ratio      %s runs at %.2f times the speed of %s", one.dtype, speed(one) / speed(first),
      first.dtype))
  end
end

return bench_model
