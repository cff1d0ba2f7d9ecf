local common = require "fp8llm.cmd.common"
local generate = require "fp8llm.generate"
local json = require "fp8llm.json"
local must = common.must

local M = {
  summary = "talk with a model",
  usage = "chat MODEL [--message TEXT]",
  text = [[
Without --message: a conversation line by line; /reset forgets it, /exit or end of input ends it.]],
  options = common.join({
    {"message", "string", "TEXT", "say this, print the answer and end"},
    {"system", "string", "TEXT", "the system message"},
    {"json", "flag", "", "with --message: print one JSON object"},
  }, common.sampling_options, common.model_options),
}

local function answer(chat, on_piece)
  local ids = must(chat.template:encode(chat.messages, {add_generation_prompt = true}))
  local result = must(generate(chat.seq, ids, {
    tokenizer = chat.tokenizer, sampler = chat.sampler, stop = chat.stop, max_tokens = chat.max_tokens,
    on_piece = on_piece,
  }))
  table.insert(chat.messages, {role = "assistant", content = result.text})
  return result
end

local function reset(chat, system)
  chat.messages = {}
  if system then chat.messages[1] = {role = "system", content = system} end
end

local function once(chat, opt)
  table.insert(chat.messages, {role = "user", content = opt.message})
  local result = answer(chat, not opt.json and common.write or nil)
  if opt.json then
    common.write(json.encode(common.result_object(result)) .. "\n")
  else
    common.write "\n"
    io.stderr:write(common.speeds(result), "\n")
  end
end

local function converse(chat, opt)
  while true do
    common.write "> "
    local line = io.read "*l"
    if not line or line == "/exit" then break end
    if line == "/reset" then
      reset(chat, opt.system)
    elseif line:match "%S" then
      table.insert(chat.messages, {role = "user", content = line})
      local result = answer(chat, common.write)
      common.write "\n"
      io.stderr:write("[", common.speeds(result), "]\n")
    end
  end
end

function M.run(opt, words)
  local name = common.argument(words, 1, "MODEL")
  common.no_more(words, 1)
  if opt.json and not opt.message then common.usage "--json needs --message" end
  local model = common.load(name, opt)
  local chat = {
    tokenizer = must(model:tokenizer()), template = must(model:template()), seq = must(model:sequence()),
    sampler = common.sampler(model, opt), stop = must(model:eos()), max_tokens = opt.max_tokens or 1024,
  }
  reset(chat, opt.system)
  if opt.message then once(chat, opt) else converse(chat, opt) end
end

return M
