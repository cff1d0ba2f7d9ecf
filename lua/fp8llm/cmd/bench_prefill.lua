--- `fp8llm bench prefill`: prompt tokens/s by length.
local bench_model = require "fp8llm.cmd.bench_model"
local common = require "fp8llm.cmd.common"
local json = require "fp8llm.json"
local must = common.must

local M = {
  text = "prompts of several lengths: tokens/s",
  options = common.join({{"length", "integer", "N", "prefill: only prompts of N tokens"}}, bench_model.options),
}

local function measure(model, opt)
  local results = json.array {}
  local context = model:info().context
  for _, n in ipairs(opt.length and {opt.length} or {16, 64, 256, 1024}) do
    if n > context then break end
    local ids = bench_model.some_ids(n, model:config().vocab_size)
    local rates = {}
    for i = 1, opt.runs do
      local seq = must(model:sequence())
      rates[i] = n / bench_model.timed(function() must(seq:feed(ids)) end)
      seq:close()
    end
    results[#results + 1] = {prompt_tokens = n, tokens_per_second = common.median(rates), runs = json.array(rates)}
  end
  if #results == 0 then common.fail("--length %d: the context holds %d tokens", opt.length, context) end
  return {prefill = results}
end

function M.run(opt, name) return bench_model.run(name, opt, measure) end

local function show(r)
  for _, one in ipairs(r.prefill) do
    print(string.format("prefill    %5d tokens  %8.1f tokens/s  (%.1f ms, %d runs)", one.prompt_tokens,
      one.tokens_per_second, 1000 * one.prompt_tokens / one.tokens_per_second, #one.runs))
  end
end

function M.show(r)
  bench_model.show(r, show, function(one) return one.prefill[#one.prefill].tokens_per_second end)
end

return M
