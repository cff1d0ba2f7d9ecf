-- A conversation on the terminal. Each turn gives the whole conversation; generate computes
-- only what the sequence does not hold yet.
--     luajit examples/chat.lua [MODEL]
local fp8llm = require "fp8llm"
local generate = require "fp8llm.generate"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local template = assert(model:template())
local sequence = assert(model:sequence())
local options = {
  tokenizer = model:tokenizer(),
  sampler = assert(fp8llm.sampler {temperature = 0.2, top_p = 0.9, seed = 42}),
  stop = model:eos(),
  max_tokens = 500,
  on_piece = function(piece)
    io.write(piece)
    io.flush()
  end,
}

local messages = {{role = "system", content = "You are a helpful assistant. Answer in one or two sentences."}}

while true do
  io.write "> "
  io.flush()
  local line = io.read "*l"
  if not line then break end
  table.insert(messages, {role = "user", content = line})
  local ids = assert(template:encode(messages, {add_generation_prompt = true}))
  local answer = assert(generate(sequence, ids, options))
  table.insert(messages, {role = "assistant", content = answer.text})
  print()
end
print()
