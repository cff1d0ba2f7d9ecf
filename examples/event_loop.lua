-- Coroutines in an event loop, here LuaSocket's: several answers at a time, and nobody waits for another. In LÖVE,
-- love.update would call answer:poll() instead.
--     luajit examples/event_loop.lua [MODEL] [QUESTION ...]
local fp8llm = require "fp8llm"
local socket = require "socket"

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local questions = {arg[2] or "What is the capital of France?", arg[3] or "What is the capital of Italy?"}

local waiting = {} -- {fd =, task =}: coroutines whose answer has nothing to read yet
local function run(task)
  local alive, answer = assert(coroutine.resume(task))
  if alive and coroutine.status(task) == "suspended" then waiting[assert(answer:fd())] = task end
end

for i, question in ipairs(questions) do
  run(coroutine.create(function()
    print(i, assert(model:chat {question, temperature = 0, max_tokens = 60, wait = coroutine.yield}))
  end))
end

while next(waiting) do
  local sources = {}
  for fd in pairs(waiting) do sources[#sources + 1] = {getfd = function() return fd end} end
  for _, source in ipairs((socket.select(sources, nil))) do
    local task = waiting[source.getfd()]
    waiting[source.getfd()] = nil
    run(task)
  end
end
