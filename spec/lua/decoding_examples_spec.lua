-- Best-of, beam search, contrastive decoding and guidance give what their formulas say: each is
-- computed here a second time, by hand, with sequences and plain Lua numbers.
local fp8llm = require "fp8llm"
local run = dofile "spec/support/run.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local function succeed(name, ...)
  local out, err, status = run("examples/" .. name)(...)
  if status ~= 0 then error(name .. ": status " .. tostring(status) .. ": " .. err, 2) end
  return out
end

-- log softmax of a row as a list: entry i is token i - 1.
local function log_softmax(row)
  local list, max, sum = row:totable(), -math.huge, 0
  for _, v in ipairs(list) do max = math.max(max, v) end
  for _, v in ipairs(list) do sum = sum + math.exp(v - max) end
  for i, v in ipairs(list) do list[i] = v - max - math.log(sum) end
  return list
end

local function best_of(list, score)
  local best, most
  for i, v in ipairs(list) do
    local s = score(i, v)
    if s and (not most or s > most) then best, most = i - 1, s end
  end
  return best, most
end

-- Decode a question with two models (or one twice): choose(a, b) of their log-probabilities.
local function decode(models, prompts, tokens, choose)
  local tok, ends, seqs, rows = models[1]:tokenizer(), {}, {}, {}
  for _, id in ipairs(models[1]:eos()) do ends[id] = true end
  for i = 1, 2 do
    seqs[i] = assert(models[i]:sequence())
    rows[i] = assert(seqs[i]:feed(assert(models[i]:template():encode({{role = "user", content = prompts[i]}},
      {add_generation_prompt = true}))))
  end
  local out = {}
  for _ = 1, tokens do
    local id = choose(log_softmax(rows[1]), log_softmax(rows[2]))
    if ends[id] then break end
    out[#out + 1] = id
    for i = 1, 2 do rows[i] = assert(seqs[i]:feed {id}) end
  end
  for i = 1, 2 do seqs[i]:close() end
  return (assert(tok:decode(out, {skip_special_tokens = true})))
end

local function contrastive(strong, weak, question)
  return decode({strong, weak}, {question, question}, 40, function(a, b)
    local _, top = best_of(a, function(_, v) return v end)
    return (best_of(a, function(i, v)
      return v >= top + math.log(0.1) and v - math.max(b[i], math.log(1e-30)) or nil
    end))
  end)
end

local function guided(model, instruction, scale)
  return decode({model, model}, {instruction, "Write one sentence."}, 40, function(a, b)
    return (best_of(a, function(i, v) return b[i] + scale * (v - b[i]) end))
  end)
end

-- The texts and scores that best_of.lua prints, and its choice.
local function read_best_of(out)
  local list = {}
  for mean, text in out:gmatch " *(%-%d+%.%d%d%d)  ([^\n]*)\n" do list[#list + 1] = {tonumber(mean), text} end
  return list, out:match "\nbest: (.*)\n$"
end

local function check_best_of(model, dir, question, n)
  local engine = assert(model:engine {})
  local choices = assert(engine:submit {
    messages = {{role = "user", content = question}}, n = n, max_tokens = 60, temperature = 0.8, seed = 1, logprobs = 0,
  }):result().choices
  engine:close()
  local shown, best = read_best_of(succeed("best_of.lua", dir, question, tostring(n)))
  assert.equal(n, #shown)
  local most, text = -math.huge, nil
  for i, choice in ipairs(choices) do
    local sum = 0
    for _, lp in ipairs(choice.lp) do sum = sum + lp end
    assert.is_true(math.abs(sum / #choice.lp - shown[i][1]) < 6e-4)
    if sum / #choice.lp > most then most, text = sum / #choice.lp, choice.d end
  end
  assert.equal(text, best)
end

-- All that a beam of `width` keeps, step by step: {score, ids}, the best first.
local function beams_by_hand(model, prompt, width, tokens)
  local beams = {{score = 0, ids = {}}}
  for _ = 1, tokens do
    local all = {}
    for _, beam in ipairs(beams) do
      local seq, ids = assert(model:sequence()), {}
      for i, id in ipairs(prompt) do ids[i] = id end
      for _, id in ipairs(beam.ids) do ids[#ids + 1] = id end
      for i, lp in ipairs(log_softmax(assert(seq:feed(ids)))) do
        all[#all + 1] = {score = beam.score + lp, last = i - 1, from = beam}
      end
      seq:close()
    end
    table.sort(all, function(a, b) return a.score > b.score end)
    beams = {}
    for i = 1, width do
      local ids = {}
      for k, id in ipairs(all[i].from.ids) do ids[k] = id end
      ids[#ids + 1] = all[i].last
      beams[i] = {score = all[i].score, ids = ids}
    end
  end
  return beams
end

local function check_beams(model, dir, text, width, tokens)
  local tok = model:tokenizer()
  local prompt = assert(tok:encode(text))
  local out = succeed("beam_search.lua", dir, text, tostring(width), tostring(tokens))
  for _, beam in ipairs(beams_by_hand(model, prompt, width, tokens)) do
    local ids = {}
    for i, id in ipairs(prompt) do ids[i] = id end
    for _, id in ipairs(beam.ids) do ids[#ids + 1] = id end
    local whole = tok:decode(ids)
    local score = tonumber(out:match "^ *(%-?[%d.]+)  ")
    assert.is_true(math.abs(score - beam.score) < 2e-3, score .. " " .. beam.score)
    local line = out:match "^ *%-?[%d.]+  " .. whole .. "\n"
    assert.equal(line, out:sub(1, #line))
    out = out:sub(#line + 1)
  end
  assert.equal("", out)
end

-- `thorough`: also that the method does something.
local function check_all(dir, weak_dir, options, thorough)
  local model, weak = assert(fp8llm.load(dir, options)), assert(fp8llm.load(weak_dir, options))
  local question = "Name three animals that live in the sea."
  it("best_of.lua", function() check_best_of(model, dir, "Why is the sky blue?", 3) end)
  it("beam_search.lua", function() check_beams(model, dir, "The three primary colours are", 3, 4) end)
  it("contrastive.lua", function()
    local want = contrastive(model, weak, question)
    assert.equal(want .. "\n", succeed("contrastive.lua", dir, weak_dir, question))
    if thorough then assert.is_true(want ~= contrastive(model, model, question)) end -- against itself: greedy
  end)
  it("guidance.lua", function()
    local instruction = "Write one sentence about the sea."
    local want = guided(model, instruction, 1.5)
    assert.equal(want .. "\n", succeed("guidance.lua", dir, instruction, "1.5"))
    if thorough then assert.is_true(want ~= guided(model, instruction, 1)) end
  end)
end

describe("by hand on a tiny model:", function()
  local dir, weak = "build/spec/decoding", "build/spec/decoding-weak"
  tiny.write(dir, {seed = 5, context = 1024, vocab = 266})
  tiny.write(weak, {seed = 6, context = 1024, vocab = 266})
  check_all(dir, weak, {}, true)
end)

if jit then -- luacheck: ignore
  describe("by hand on the real model:", function()
    local real = "build/models/SmolLM2-135M-Instruct"
    check_all(real .. "-FP8", real, {context = 1024})
  end)
end
