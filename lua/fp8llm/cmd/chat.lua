local common = require "fp8llm.cmd.common"
local json = require "fp8llm.json"
local must = common.must

local M = {
  summary = "talk with a model",
  usage = "chat MODEL [--message TEXT]",
  text = [[
Without --message: a conversation line by line; /reset forgets it, /exit or end of input ends it.
Where neither options nor the model say: temperature 0.7, top-p 0.95 and answers of at most 1024 tokens.]],
  options = common.join({
    {"message", "string", "TEXT", "say this, print the answer and end"},
    {"system", "string", "TEXT", "the system message"},
    {"json", "flag", "", "with --message: print one JSON object"},
  }, common.sampling_options, common.model_options),
}

local function once(chat, opt)
  must(chat:say {opt.message, on_piece = not opt.json and common.write or nil})
  if opt.json then
    common.write(json.encode(common.result_object(chat.last)) .. "\n")
  else
    common.write "\n"
    io.stderr:write(common.speeds(chat.last), "\n")
  end
end

local function converse(chat)
  while true do
    common.write "> "
    local line = io.read "*l"
    if not line or line == "/exit" then break end
    if line == "/reset" then
      chat:reset()
    elseif line:match "%S" then
      must(chat:say {line, on_piece = common.write})
      common.write "\n"
      io.stderr:write("[", common.speeds(chat.last), "]\n")
    end
  end
end

function M.run(opt, words)
  local name = common.argument(words, 1, "MODEL")
  common.no_more(words, 1)
  if opt.json and not opt.message then common.usage "--json needs --message" end
  local fields = common.request_fields(opt)
  fields.system = opt.system
  local chat = common.load(name, opt):conversation(fields)
  if opt.message then once(chat, opt) else converse(chat) end
end

return M
