-- A conversation on the terminal. Each turn computes only what the model has not read yet.
--     luajit examples/chat.lua [MODEL]
local fp8llm = require "fp8llm"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local chat = model:conversation {
  system = "You are a helpful assistant. Answer in one or two sentences.",
  temperature = 0.2, top_p = 0.9, seed = 42, max_tokens = 500,
  on_piece = function(piece) io.write(piece) io.flush() end,
}

io.write "> "
for line in io.lines() do
  assert(chat:say(line))
  io.write "\n> "
end
print()
