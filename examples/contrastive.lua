-- Contrastive decoding (Li et al. 2022): prefer what a strong model finds likelier than a weak one
-- does. Among tokens with at least `alpha` of the best one's probability, the largest
-- log p(strong) - log p(weak) wins. Both models must have the same vocabulary.
--     luajit examples/contrastive.lua [STRONG] [WEAK] [QUESTION]
local fp8llm = require "fp8llm"

local alpha = 0.1
local strong = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct"))
local weak = assert(fp8llm.load(arg[2] or "build/models/SmolLM2-135M-Instruct-FP8"))
local messages = {{role = "user", content = arg[3] or "Name three animals that live in the sea."}}
local engine = assert(strong:engine {})

local amateur = assert(weak:sequence())
local doubts = assert(amateur:feed(assert(weak:template():encode(messages, {add_generation_prompt = true}))))
local request = assert(engine:submit {messages = messages, policy = true, policy_logits = true, max_tokens = 40})
for step in request:steps() do
  local index, p = step.logits:clone():softmax():topk(math.min(1000, #step.logits)) -- alpha cuts far earlier
  local q = doubts:clone():softmax()
  local best, best_gain
  for i = 1, #index do
    local gain = math.log(p[i]) - math.log(math.max(q:get(index[i]), 1e-30))
    if p[i] >= alpha * p[1] and (not best or gain > best_gain) then best, best_gain = index[i] - 1, gain end
  end
  assert(step:accept(best))
  doubts = assert(amateur:feed {best})
end
print(request:result().choices[1].d)
engine:close()
