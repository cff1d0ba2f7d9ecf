-- What model:chat does, by hand: a template, a sequence, a sampler and a loop of one's own.
--     luajit examples/by_hand.lua [MODEL] [QUESTION]
local fp8llm = require "fp8llm"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local question = arg[2] or "What is the capital of France?"
local prompt = assert(model:template():encode({{role = "user", content = question}}, {add_generation_prompt = true}))

local ends = {}
for _, id in ipairs(model:eos()) do ends[id] = true end

local sequence = assert(model:sequence())
local sampler = assert(fp8llm.sampler {temperature = 0})
local text = model:tokenizer():stream {}

local logits = assert(sequence:feed(prompt))
for _ = 1, 200 do
  local id = assert(sampler:sample(logits, sequence))
  if ends[id] then break end
  io.write((assert(text:push(id))))
  io.flush()
  logits = assert(sequence:feed {id})
end
print((text:finish()))
