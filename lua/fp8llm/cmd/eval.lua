local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local progress = require "fp8llm.progress"
local must = common.must

local M = {
  summary = "measure how well a model predicts",
  usage = "eval perplexity MODEL --text FILE",
  text = [[
Perplexity of the text in FILE: exp of the mean negative log probability of a token, every token
but the first counted once. The text is cut into windows of --window tokens that overlap by the
window less --stride, so that each counted token has at least that many before it.]],
  options = common.join({
    {"text", "string", "FILE", "plain text to predict"},
    {"window", "integer", "N", "tokens seen at once (default 1024)"},
    {"stride", "integer", "N", "tokens counted per window (default half the window)"},
    {"max-tokens", "integer", "N", "only the first N tokens of the text"},
    {"baseline", "string", "MODEL", "also that of MODEL, and recovery = 100 x its perplexity / this one's"},
    {"json", "flag", "", "print one JSON object"},
  }, common.model_options),
}

-- The sum of log probabilities of ids[first..last], which follow ids[from..first-1] and `begin`.
local function score_window(model, ids, window)
  local list = {}
  for _, id in ipairs(window.begin) do list[#list + 1] = id end
  for i = window.from, window.last do list[#list + 1] = ids[i] end
  local seq = must(model:sequence())
  local logprobs = must(seq:score(list))
  local sum = 0
  for i = #list - (window.last - window.first), #list do sum = sum + logprobs:get(i) end
  seq:close()
  return sum
end

local function perplexity(name, opt)
  local model = common.load(name, opt)
  local tokenizer = must(model:tokenizer())
  local begin = must(tokenizer:encode("", {add_special_tokens = true}))
  local ids = must(tokenizer:encode(common.read_file(opt.text), {add_special_tokens = false}))
  local n = math.min(#ids, opt.max_tokens or #ids)
  local width = math.min(opt.window or 1024, model:info().context - #begin)
  local stride = opt.stride or math.max(1, math.floor(width / 2))
  if stride < 1 or width < 2 or stride > width then
    common.usage("--stride %d and --window %d do not fit", stride, width)
  end
  -- With nothing before it the first token has no prediction.
  local first = #begin > 0 and 1 or 2
  if n < first then common.fail("%s: %d tokens, at least 2 expected", opt.text, n) end
  local bar = progress()
  local start, sum, counted = fp8llm.clock(), 0, 0
  while first <= n do
    local last = math.min(counted == 0 and width or first + stride - 1, n)
    local from = math.max(1, last - width + 1)
    sum = sum + score_window(model, ids, {begin = begin, from = from, first = first, last = last})
    counted = counted + last - first + 1
    first = last + 1
    bar("scoring", last / n)
  end
  bar()
  local result = {
    model = name, perplexity = math.exp(-sum / counted), tokens = counted,
    tokens_per_second = counted / (fp8llm.clock() - start), quantization = model:info().quantization,
  }
  model:close()
  return result
end

local function show(r)
  print(string.format("%s (%s): perplexity %.4f over %d tokens, %.0f tokens/s", r.model, r.quantization, r.perplexity,
    r.tokens, r.tokens_per_second))
end

function M.run(opt, words)
  local what = common.argument(words, 1, "perplexity")
  if what ~= "perplexity" then common.usage("no evaluation '%s'", what) end
  local name = common.argument(words, 2, "MODEL")
  common.no_more(words, 2)
  if not opt.text then common.usage "--text is missing" end
  local result = perplexity(name, opt)
  if not opt.json then show(result) end
  if opt.baseline then
    result.baseline = perplexity(opt.baseline, opt)
    result.recovery_percent = 100 * result.baseline.perplexity / result.perplexity
    if not opt.json then
      show(result.baseline)
      print(string.format("recovery %.2f %%", result.recovery_percent))
    end
  end
  if opt.json then common.write(json.encode(result) .. "\n") end
end

return M
