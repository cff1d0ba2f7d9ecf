-- Classifier-free guidance: what the prompt changes about the next token, made stronger. A policy
-- of the engine; the unconditional text is a second sequence that is fed the same tokens.
-- Sanchez et al. 2023: logits = without + scale * (with - without), both as log-probabilities.
--     luajit examples/guidance.lua [MODEL] [INSTRUCTION] [SCALE]
local fp8llm = require "fp8llm"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8", {kv_tokens = 16384}))
local instruction = arg[2] or "Write one sentence about the sea, in the voice of a pirate."
local scale = tonumber(arg[3]) or 1.5
local engine = assert(model:engine {})

local function log_softmax(logits)
  local index, max = logits:argmax()
  assert(index)
  local sum = 0
  for _, v in ipairs(logits:clone():add(-max):totable()) do sum = sum + math.exp(v) end
  return logits:add(-max - math.log(sum))
end

local without = assert(model:sequence())
local last = assert(without:feed(assert(model:template():encode({{role = "user", content = "Write one sentence."}},
                                                                {add_generation_prompt = true}))))
local request = assert(engine:submit {
  messages = {{role = "user", content = instruction}}, temperature = 0, max_tokens = 40,
  policy = true, policy_logits = true,
})
for step in request:steps() do
  local free = log_softmax(last:clone())
  log_softmax(step.logits):mul(scale):add(free:mul(1 - scale))
  local id = assert(step:sample())
  last = assert(without:feed {id})
end
print(request:result().choices[1].d)
engine:close()
