-- Beam search: the likeliest texts of a given length, by forking sequences. A fork shares the KV
-- cache of its parent, so a beam costs only what it computes itself.
--     luajit examples/beam_search.lua [MODEL] [PROMPT] [WIDTH] [TOKENS]
local fp8llm = require "fp8llm"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local tokenizer = model:tokenizer()
local prompt = assert(tokenizer:encode(arg[2] or "The three primary colours are"))
local width, tokens = tonumber(arg[3]) or 4, tonumber(arg[4]) or 12

-- The k likeliest ids after a row of logits, with their log-probabilities.
local function candidates(logits, k)
  local row = logits:clone():softmax()
  local index, p = row:topk(k)
  local out = {}
  for i = 1, k do out[i] = {id = index[i] - 1, logprob = math.log(p[i])} end
  return out
end

local first = assert(model:sequence())
local beams = {{sequence = first, logits = assert(first:feed(prompt)), score = 0}}
for _ = 1, tokens do
  local all = {}
  for _, beam in ipairs(beams) do
    for _, c in ipairs(candidates(beam.logits, width)) do
      all[#all + 1] = {beam = beam, id = c.id, score = beam.score + c.logprob}
    end
  end
  table.sort(all, function(a, b) return a.score > b.score end)
  local kept = {}
  for i = 1, math.min(width, #all) do
    local sequence = assert(all[i].beam.sequence:fork())
    kept[i] = {sequence = sequence, logits = assert(sequence:feed {all[i].id}), score = all[i].score}
  end
  for _, beam in ipairs(beams) do beam.sequence:close() end
  beams = kept
end
for _, beam in ipairs(beams) do
  print(string.format("%8.3f  %s", beam.score, tokenizer:decode(beam.sequence:ids())))
end
