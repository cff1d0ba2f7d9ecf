local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local printable = require "fp8llm.printable"
local must = common.must

local M = {
  summary = "talk with a model",
  usage = "chat MODEL [--message TEXT]",
  text = [[
Without --message: a conversation line by line; /help lists what else can be done, /exit or end of input
ends it. Ctrl-C stops an answer, twice it ends. Earlier lines are in $XDG_STATE_HOME/fp8llm/chat_history.
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

local help = [[
/system TEXT   what the model is told first (without TEXT: show it)   /temp T    the temperature
/undo          take the last question back                           /again     another answer
/save FILE     keep the conversation     /load FILE   bring it back   /reset     forget it
/exit          end, as Ctrl-D and Ctrl-C twice do; Ctrl-C stops an answer]]

-- Where the lines of earlier conversations are.
local function history_path()
  local state = os.getenv "XDG_STATE_HOME"
  if not state or state == "" then state = (os.getenv "HOME" or "") .. "/.local/state" end
  return state .. "/fp8llm/chat_history"
end

-- Remembers the lines of earlier conversations -> the file that takes further ones | nil
local function open_history()
  local path = history_path()
  local lines = {}
  local file = io.open(path, "rb")
  if file then
    for line in file:lines() do lines[#lines + 1] = line end
    file:close()
  end
  for i = math.max(1, #lines - 999), #lines do fp8llm.remember(lines[i]) end
  local quoted = "'" .. path:gsub("'", "'\\''") .. "'"
  os.execute(("umask 077; mkdir -p \"$(dirname %s)\" 2>/dev/null && touch %s 2>/dev/null"):format(quoted, quoted))
  return io.open(path, "ab")
end

-- An answer as it comes, until Ctrl-C.
local function show(piece)
  common.write(printable(piece))
  return not fp8llm.interrupted()
end

-- say or again of a conversation, for a person.
local function answer(chat, terminal, ask, fields)
  fields.on_piece = terminal and show or common.write
  local text, message = ask(chat, fields)
  if not text then
    io.stderr:write("fp8llm: ", printable(message), "\n")
    return message
  end
  common.write "\n"
  io.stderr:write("[", common.speeds(chat.last), "]\n")
end

local commands = {}

function commands.help() return help end

function commands.reset(chat) chat:reset() end

function commands.system(chat, text)
  if text == "" then return chat.fields.system or "nothing" end
  chat.fields.system = text
end

function commands.temp(chat, text)
  local value = tonumber(text)
  if not value or value < 0 then return "/temp T: a number from 0 on" end
  chat.fields.temperature = value
end

function commands.undo(chat)
  local question = chat:undo()
  return question and "taken back: " .. question or "nothing has been said"
end

function commands.save(chat, path)
  if path == "" then return "/save FILE: a file" end
  local ok, message = chat:save(path)
  return ok and "saved in " .. path or message
end

function commands.load(chat, path)
  if path == "" then return "/load FILE: a file" end
  local ok, message = chat:load(path)
  return ok and ("%d messages"):format(#chat:messages()) or message
end

-- What a line asks for -> true: the conversation ends
local function obey(chat, terminal, line)
  local name, rest = line:match "^/(%l+)%s*(.-)%s*$"
  if name == "exit" then return true end
  if name == "again" then
    answer(chat, terminal, chat.again, {})
  elseif name and commands[name] then
    local said = commands[name](chat, rest)
    if said then io.stderr:write(printable(said), "\n") end
  elseif name and terminal then
    io.stderr:write("no command /", name, "; /help lists them\n")
  elseif line:match "%S" then
    local trouble = answer(chat, terminal, chat.say, {line})
    if trouble and not terminal then common.fail("%s", trouble) end
  end
end

local function converse(chat, name)
  local terminal = fp8llm.interactive()
  if not terminal then
    for line in io.lines() do
      if obey(chat, false, line) then break end
    end
    return nil
  end
  local history, last = open_history(), nil
  fp8llm.hold_interrupts()
  common.write(printable(name) .. ". /help lists commands.\n")
  while true do
    local line = fp8llm.prompt "> "
    if line == nil then break end
    if line == false then
      common.write "\n"
      if last == false then return 130 end
      io.stderr:write "Ctrl-C again, or Ctrl-D, ends\n"
    else
      if line:match "%S" then
        fp8llm.remember(line)
        if history then
          history:write(line, "\n")
          history:flush()
        end
      end
      if obey(chat, true, line) then break end
    end
    last = line
  end
end

function M.run(opt, words)
  local name = common.argument(words, 1, "MODEL")
  common.no_more(words, 1)
  if opt.json and not opt.message then common.usage "--json needs --message" end
  local fields = common.request_fields(opt)
  fields.system = opt.system
  local chat = common.load(name, opt):conversation(fields)
  if opt.message then return once(chat, opt) end
  return converse(chat, name)
end

return M
