-- The command fp8llm: lua/fp8llm.sh starts this script. Each command is a module of
-- lua/fp8llm/cmd: {summary, usage, text, options, run(opt, words)}.
local options = require "fp8llm.options"
local printable = require "fp8llm.printable"

local commands = {"chat", "generate", "tokenize", "inspect", "quantize", "eval", "batch", "serve", "bench"}

local function load_command(name)
  for _, known in ipairs(commands) do
    if known == name then return require("fp8llm.cmd." .. name) end
  end
end

local function print_help()
  local lines = {"usage: fp8llm COMMAND ...", ""}
  for _, name in ipairs(commands) do
    lines[#lines + 1] = string.format("  %-10s %s", name, load_command(name).summary)
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "A MODEL is a directory, or org/name in the local Hugging Face cache."
  lines[#lines + 1] = "fp8llm COMMAND --help tells the rest; fp8llm --version the version."
  print(table.concat(lines, "\n"))
end

local function print_command_help(command)
  print("usage: fp8llm " .. command.usage .. "\n\n" .. command.text .. "\n\n" .. options.describe(command.options))
end

local function complain(message)
  io.stderr:write("fp8llm: ", printable(message), "\n")
end

local function run_command(name, args)
  local command = load_command(name)
  if not command then
    complain("no command '" .. name .. "', see fp8llm --help")
    return 2
  end
  for i = 2, #args do
    if args[i] == "--" then break end
    if args[i] == "--help" or args[i] == "-h" then
      print_command_help(command)
      return 0
    end
  end
  local opt, words = options.parse(command.options, args, 2)
  if not opt then
    complain(words .. ", see fp8llm " .. name .. " --help")
    return 2
  end
  local ok, trouble = pcall(command.run, opt, words)
  if ok then return 0 end
  if type(trouble) ~= "table" then
    complain(tostring(trouble))
    return 1
  end
  complain(trouble.message .. (trouble.status == 2 and ", see fp8llm " .. name .. " --help" or ""))
  return trouble.status
end

local function main(args)
  local name = args[1]
  if name == "--help" or name == "-h" or name == "help" then
    print_help()
    return 0
  elseif name == "--version" then
    print("fp8llm " .. require("fp8llm")._VERSION)
    return 0
  elseif not name then
    print_help()
    return 2
  end
  return run_command(name, args)
end

os.exit(main(arg))
