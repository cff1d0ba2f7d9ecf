-- The shortest way from a question to an answer.
--     luajit examples/hello.lua [MODEL] [QUESTION] [TOKENS]
local fp8llm = require "fp8llm"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local question, tokens = arg[2] or "What is the capital of France?", tonumber(arg[3]) or 200
print(assert(model:chat {question, temperature = 0, max_tokens = tokens}))
