-- Which continuation does the model find most likely? The shared context is computed once.
--     luajit examples/score.lua [MODEL]
local fp8llm = require "fp8llm"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local context = "The opposite of hot is"
local choices = {" cold", " green", " seven", " Paris"}

local logprobs, greedy = model:score(context, choices)
assert(logprobs, greedy)

print(context .. " ...")
for i, choice in ipairs(choices) do
  print(string.format("%8.3f %s%s", logprobs[i], choice, greedy[i] and "   (what it would say itself)" or ""))
end

local best = 1
for i = 2, #choices do
  if logprobs[i] > logprobs[best] then best = i end
end
print("best:" .. choices[best])
