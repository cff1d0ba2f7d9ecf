--- `fp8llm bench prefix`: what the prefix cache saves a second prompt that begins like the first.
local common = require "fp8llm.cmd.common"
local json = require "fp8llm.json"
local must = common.must

local M = {
  text = [[
two requests that share a prefix of --isl tokens (default 1500): the time to the first token of
the second as a part of the first's]],
  options = {},
}

-- The time to the first token of a prompt: `shared` tokens that depend on the run, then 20 others.
local function first_token(eng, run, which, shared, vocab)
  local ids = {}
  for i = 1, shared do ids[i] = (run * 7919 + i * 104729) % vocab end
  for i = 1, 20 do ids[#ids + 1] = (which * 31 + i * 7) % vocab end
  local request = must(eng:submit {ids = ids, max_tokens = 1, temperature = 0, cache_salt = "run" .. run})
  local usage = must(request:result()).usage
  request:close()
  return usage.first_token_s, usage.cached_tokens
end

function M.run(opt, name)
  local shared = opt.isl or 1500
  opt.context = opt.context or shared + 64
  opt.kv_tokens = 2 * opt.context
  local model = common.load(name, opt)
  local info, vocab = model:info(), model:config().vocab_size
  local eng = must(model:engine {})
  local first, second, ratio, cached = {}, {}, {}, 0
  for run = 1, opt.runs do
    first[run] = first_token(eng, run, 1, shared, vocab)
    second[run], cached = first_token(eng, run, 2, shared, vocab)
    ratio[run] = second[run] / first[run]
  end
  eng:close()
  model:close()
  return {
    shared_tokens = shared, cached_tokens = cached, first_s = common.median(first), second_s = common.median(second),
    ratio = common.median(ratio), runs = json.array(ratio), device = info.device, quantization = info.quantization,
  }
end

function M.show(r)
  common.printf("model      %s: %s, on %s", r.model, r.quantization, r.device)
  common.printf("first      token of a prompt of %d after %.0f ms", r.shared_tokens + 20, 1000 * r.first_s)
  common.printf("second     that begins with the same %d: %d from the cache, %.0f ms, %.1f %% (%d runs)",
    r.shared_tokens, r.cached_tokens, 1000 * r.second_s, 100 * r.ratio, #r.runs)
end

return M
