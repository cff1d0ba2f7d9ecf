-- Fields of requests alone and in pairs: what comes out is compared with a loop of its own over
-- the model, which applies the rules that vLLM documents for each field.
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/request_pairs"
local prompt = {5, 9, 33}
local model, tok, eng

local function open()
  model = assert(fp8llm.load(dir, {context = 128, kv_tokens = 1024, max_step_rows = 32, prefix_cache = false}))
  tok = assert(fp8llm.tokenizer(dir))
  eng = assert(model:engine{})
end

-- Greedy ids; those of `banned` are not chosen before `least` tokens.
local runs = {}
local function free_run(n, banned, least)
  local key = table.concat({n, least, least > 0 and table.concat(banned, ",") or ""}, " ")
  if runs[key] then return runs[key] end
  local seq, out = assert(model:sequence()), {}
  local logits = assert(seq:feed(prompt))
  for i = 1, n do
    local bias = {}
    for _, id in ipairs(i <= least and banned or {}) do bias[id] = -100 end
    local sampler = assert(fp8llm.sampler {temperature = 0, logit_bias = next(bias) and bias})
    out[i] = assert(sampler:sample(logits, seq))
    logits = assert(seq:feed(out[i]))
  end
  seq:close()
  runs[key] = out
  return out
end

local function contains(list, id)
  for _, other in ipairs(list or {}) do if other == id then return true end end
  return false
end

-- What vLLM would answer: ids, text, finish_reason, the id or text that stopped.
local function expected(r, eos)
  local banned = {eos}
  for _, id in ipairs(r.stop_token_ids or {}) do banned[#banned + 1] = id end
  local run = free_run(r.max_tokens, banned, r.min_tokens or 0)
  local stream = tok:stream {skip_special_tokens = r.skip_special_tokens ~= false}
  local ids, text, checked = {}, "", 0
  for i, id in ipairs(run) do
    local listed, ends = contains(r.stop_token_ids, id), not r.ignore_eos and id == eos
    ids[i] = id
    if not (listed or ends) or r.include_stop_str_in_output then text = text .. stream:push(id) end
    if r.stop and i > (r.min_tokens or 0) then
      local from, to = text:find(r.stop, math.max(1, checked - #r.stop + 2), true)
      if from then return ids, text:sub(1, r.include_stop_str_in_output and to or from - 1), "stop", r.stop end
    end
    checked = #text
    if ends or listed then return ids, text, "stop", id end
  end
  return ids, text .. stream:finish(), "length"
end

local function compare(request, eos)
  local name = json.encode(request)
  local ids, text, finish, reason = expected(request, eos)
  request.ids, request.temperature = prompt, 0
  local result = assert(assert(eng:submit(request)):result())
  assert.equal(request.n or 1, #result.choices)
  for _, choice in ipairs(result.choices) do
    local want = {}
    if request.echo then for i, id in ipairs(prompt) do want[i] = id end end
    for _, id in ipairs(ids) do want[#want + 1] = id end
    assert.same(want, choice.t, name)
    local head = request.echo and tok:decode(prompt, {skip_special_tokens = request.skip_special_tokens ~= false}) or ""
    assert.equal(head .. text, choice.d, name)
    assert.equal(finish, choice.fin, name)
    assert.equal(reason, choice.reason, name)
    assert.equal(request.logprobs and #want, choice.lp and #choice.lp, name)
  end
end

describe("the fields of a request", function()
  tiny.write(dir, {seed = 7, quant = "fp8-dynamic", kv_heads = 1})
  open()
  -- The end of text is an ordinary token of the run, so that every field has something to do.
  local run = free_run(16, {}, 0)
  local eos, stop_id = run[12], run[9]
  local stop = tok:decode {run[5], run[6]}
  eng:close()
  model:close()
  local path = dir .. "/generation_config.json"
  local f = assert(io.open(path))
  local config = json.decode(f:read "*a")
  f:close()
  config.eos_token_id = json.array {eos}
  f = assert(io.open(path, "w"))
  f:write(json.encode(config))
  f:close()
  open()

  local fields = {
    {"stop", stop}, {"stop", tok:decode {run[2]}}, {"stop_token_ids", {stop_id}}, {"stop_token_ids", {eos, run[3]}},
    {"include_stop_str_in_output", true}, {"min_tokens", 4}, {"min_tokens", 11}, {"ignore_eos", true},
    {"skip_special_tokens", false}, {"echo", true}, {"logprobs", 0}, {"logprobs", 2}, {"n", 2}, {"max_tokens", 15},
    {"max_tokens", 3},
  }

  local function request(...)
    local r = {max_tokens = 14}
    for _, field in ipairs {...} do r[field[1]] = field[2] end
    if (r.min_tokens or 0) > r.max_tokens then r.max_tokens = r.min_tokens end
    return r
  end

  it("mean what vLLM means by them", function()
    for _, field in ipairs(fields) do compare(request(field), eos) end
  end)

  it("and so in pairs", function()
    for i, one in ipairs(fields) do
      for k = i + 1, #fields do compare(request(one, fields[k]), eos) end
    end
  end)

  it("and so with the text or id that stops kept, in threes", function()
    local keep = {"include_stop_str_in_output", true}
    for i, one in ipairs(fields) do
      for k = i + 1, #fields do compare(request(keep, one, fields[k]), eos) end
    end
  end)
end)
