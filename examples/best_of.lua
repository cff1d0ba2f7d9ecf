-- Best of n: several answers to one question, computed together, the likeliest one shown.
--     luajit examples/best_of.lua [MODEL] [QUESTION] [N]
local fp8llm = require "fp8llm"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local question = arg[2] or "Why is the sky blue? One sentence."
local engine = assert(model:engine {})

local request = assert(engine:submit {
  messages = {{role = "user", content = question}},
  n = tonumber(arg[3]) or 4, max_tokens = 60, temperature = 0.8, seed = 1, logprobs = 0,
})
local best, best_mean
for _, choice in ipairs(assert(request:result()).choices) do
  local sum = 0
  for _, logprob in ipairs(choice.lp) do sum = sum + logprob end
  local mean = sum / #choice.lp -- per token, so that short answers do not win for being short
  print(string.format("%7.3f  %s", mean, (choice.d:gsub("%s+", " "))))
  if not best or mean > best_mean then best, best_mean = choice, mean end
end
print("best: " .. best.d)
engine:close()
