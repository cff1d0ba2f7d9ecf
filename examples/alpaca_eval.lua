-- Answers for AlpacaEval: reads its list of instructions, writes its list of model outputs, which
-- `alpaca_eval --model_outputs OUT.json` judges. All answers are computed together.
--     luajit examples/alpaca_eval.lua MODEL alpaca_eval.json OUT.json [NAME] [MAX_TOKENS]
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"

local dir, input, output = arg[1], arg[2], arg[3]
if not output then error("usage: alpaca_eval.lua MODEL alpaca_eval.json OUT.json [NAME] [MAX_TOKENS]", 0) end
local generator, max_tokens = arg[4] or dir:match "[^/]+$", tonumber(arg[5]) or 2048

local file = assert(io.open(input, "rb"))
local items = assert(json.decode(file:read "*a"))
file:close()

local model = assert(fp8llm.load(dir, {kv_tokens = 65536}))
local engine = assert(model:engine {max_running = 64})
local answers = json.array {}
for i, result, message in engine:map(items, function(item)
  return {messages = {{role = "user", content = item.instruction}}, temperature = 0, max_tokens = max_tokens}
end) do
  if not result then error(string.format("instruction %d: %s", i, message), 0) end
  answers[i] = {
    instruction = items[i].instruction, output = result.choices[1].d, generator = generator,
    dataset = items[i].dataset, datasplit = items[i].datasplit,
  }
end
engine:close()

file = assert(io.open(output, "wb"))
assert(file:write(json.encode(answers), "\n"))
assert(file:close())
