local common = require "fp8llm.cmd.common"
local bench_tokenizer = require "fp8llm.cmd.bench_tokenizer"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local must = common.must

local M = {
  summary = "measure speed on this machine",
  usage = "bench decode|prefill|tokenizer MODEL",
  text = [[
decode     one token at a time: tokens/s, the bytes of weights read per second, and what part that
           is of the read bandwidth measured in the same run with the same threads and bytes
prefill    prompts of several lengths: tokens/s
tokenizer  MB/s of text for several kinds of text, and the time to load, in processor time of one
           thread; beside them those of the Python package tokenizers where it is installed
Figures are medians over --runs, the bandwidth is the best of them.]],
  options = common.join({
    {"runs", "integer", "N", "measurements of each figure (default 5)"},
    {"prompt", "integer", "N", "decode: tokens already there (default 64)"},
    {"tokens", "integer", "N", "decode: tokens per measurement (default 64)"},
    {"length", "integer", "N", "prefill: only prompts of N tokens"},
    {"text", "string", "FILE", "tokenizer: also this text, repeated to 1 MB"},
    {"python", "string", "PATH", "tokenizer: the Python to compare with (default python3)"},
    {"json", "flag", "", "print one JSON object"},
  }, common.model_options),
}

-- Any ids do for a speed; these go all over the vocabulary.
local function some_ids(n, vocab)
  local ids = {}
  for i = 1, n do ids[i] = i * 7919 % vocab end
  return ids
end

local function timed(f)
  local t0 = fp8llm.clock()
  f()
  return fp8llm.clock() - t0
end

local function decode_once(model, opt)
  local ids = some_ids((opt.prompt or 64) + (opt.tokens or 64), model:config().vocab_size)
  local seq = must(model:sequence())
  local prompt = {}
  for i = 1, opt.prompt or 64 do prompt[i] = ids[i] end
  must(seq:feed(prompt))
  local seconds = timed(function()
    for i = #prompt + 1, #ids do must(seq:feed {ids[i]}) end
  end)
  seq:close()
  return (#ids - #prompt) / seconds
end

local function decode(model, opt)
  local info = model:info()
  local rates, roof = {}, 0
  decode_once(model, opt) -- the first run meets cold caches and sleeping threads
  for i = 1, opt.runs do
    rates[i] = decode_once(model, opt)
    local read = must(fp8llm.read_bandwidth {threads = opt.threads, bytes = math.max(info.bytes_per_token, 2 ^ 20)})
    roof = math.max(roof, read)
  end
  local rate = common.median(rates)
  return {
    tokens_per_second = rate, bytes_per_token = info.bytes_per_token,
    bytes_per_second = rate * info.bytes_per_token, read_bandwidth = roof,
    fraction = rate * info.bytes_per_token / roof,
    runs = json.array(rates), prompt_tokens = opt.prompt or 64, decode_tokens = opt.tokens or 64,
  }
end

local function show_decode(r)
  print(string.format("decode     %.1f tokens/s (%.2f ms a token; %d runs of %d tokens after %d)", r.tokens_per_second,
    1000 / r.tokens_per_second, #r.runs, r.decode_tokens, r.prompt_tokens))
  print(string.format("weights    %s a token, %.2f GB/s", common.bytes(r.bytes_per_token), r.bytes_per_second / 1e9))
  print(string.format("bandwidth  %.2f GB/s read over as many bytes: %.0f %% used", r.read_bandwidth / 1e9,
    100 * r.fraction))
end

local function prefill(model, opt)
  local results = json.array {}
  local context = model:info().context
  for _, n in ipairs(opt.length and {opt.length} or {16, 64, 256, 1024}) do
    if n > context then break end
    local ids = some_ids(n, model:config().vocab_size)
    local rates = {}
    for i = 1, opt.runs do
      local seq = must(model:sequence())
      rates[i] = n / timed(function() must(seq:feed(ids)) end)
      seq:close()
    end
    results[#results + 1] = {prompt_tokens = n, tokens_per_second = common.median(rates), runs = json.array(rates)}
  end
  if #results == 0 then common.fail("--length %d: the context holds %d tokens", opt.length, context) end
  return {prefill = results}
end

local function show_prefill(r)
  for _, one in ipairs(r.prefill) do
    print(string.format("prefill    %5d tokens  %8.1f tokens/s  (%.1f ms, %d runs)", one.prompt_tokens,
      one.tokens_per_second, 1000 * one.prompt_tokens / one.tokens_per_second, #one.runs))
  end
end

function M.run(opt, words)
  local what = common.argument(words, 1, "decode, prefill or tokenizer")
  local name = common.argument(words, 2, "MODEL")
  common.no_more(words, 2)
  opt.runs = opt.runs or 5
  if opt.runs < 1 then common.usage "--runs: at least 1 expected" end
  local result, show
  if what == "tokenizer" then
    result, show = bench_tokenizer.run(common.find(name), opt), bench_tokenizer.show
  elseif what == "decode" or what == "prefill" then
    opt.prefix_cache = false -- every run computes its whole prompt
    local model = common.load(name, opt)
    local info = model:info()
    result = (what == "decode" and decode or prefill)(model, opt)
    result.device, result.quantization, result.kv_dtype = info.device, info.quantization, info.kv_dtype
    show = what == "decode" and show_decode or show_prefill
    if not opt.json then
      print(string.format("model      %s: %s, KV %s, on %s", name, info.quantization, info.kv_dtype, info.device))
    end
  else
    common.usage("no benchmark '%s'", what)
  end
  result.model = name
  if opt.json then common.write(json.encode(result) .. "\n") else show(result) end
end

return M
