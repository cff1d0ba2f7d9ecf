-- The command fp8llm: lua/fp8llm.sh starts this script. Each command is a module of
-- lua/fp8llm/cmd: {summary, usage, text, options, run(opt, words)}.
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local options = require "fp8llm.options"
local printable = require "fp8llm.printable"

local function load_command(name)
  for _, known in ipairs(common.commands) do
    if known == name then return require("fp8llm.cmd." .. name) end
  end
end

-- What a command ends with.
local statuses = {
  {0, "all of it was done"},
  {1, "it failed: a line on stderr says why"},
  {2, "it was called wrongly"},
  {3, "it ran, but some of its requests failed: their answers say why"},
  {130, "Ctrl-C (143: SIGTERM)"},
}

local function print_help()
  local lines = {"usage: fp8llm COMMAND ...", ""}
  for _, name in ipairs(common.commands) do
    lines[#lines + 1] = string.format("  %-10s %s", name, load_command(name).summary)
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "A MODEL is a directory, or org/name of the Hugging Face hub, once it has been pulled."
  lines[#lines + 1] = "fp8llm COMMAND --help tells the rest; fp8llm --version the version."
  lines[#lines + 1] = "\nExit status:"
  for _, status in ipairs(statuses) do lines[#lines + 1] = ("  %-10d %s"):format(status[1], status[2]) end
  common.print(table.concat(lines, "\n"))
end

local function print_command_help(command)
  common.printf("usage: fp8llm %s\n\n%s\n\n%s", command.usage, command.text, options.describe(command.options))
end

local function complain(message)
  io.stderr:write("fp8llm: ", printable(message), "\n")
end

-- The status of a command that did(...) what it does; what stops it is told in one line.
local function attempt(name, did, ...)
  local ok, trouble = pcall(did, ...)
  local status = ok and type(trouble) == "number" and trouble or 0
  if ok then ok, trouble = pcall(common.finish_output) end
  if ok then return status end
  fp8llm.status() -- the line of a bar
  if type(trouble) ~= "table" then
    complain(tostring(trouble))
    return 1
  end
  complain(trouble.message .. (trouble.status == 2 and ", see fp8llm " .. name .. " --help" or ""))
  return trouble.status
end

local function run_command(name, args)
  local command = load_command(name)
  if not command then
    complain("no command '" .. name .. "', see fp8llm --help")
    return 2
  end
  for i = 2, #args do
    if args[i] == "--" then break end
    if args[i] == "--help" or args[i] == "-h" then return attempt(name, print_command_help, command) end
  end
  local opt, words = options.parse(command.options, args, 2)
  if not opt then
    complain(words .. ", see fp8llm " .. name .. " --help")
    return 2
  end
  fp8llm.catch_interrupts()
  return attempt(name, command.run, opt, words)
end

local function main(args)
  local name = args[1]
  if name == "--help" or name == "-h" or name == "help" then
    return attempt(name, print_help)
  elseif name == "--version" then
    return attempt(name, common.print, "fp8llm " .. fp8llm._VERSION)
  elseif not name then
    local status = attempt("", print_help)
    return status == 0 and 2 or status
  end
  return run_command(name, args)
end

os.exit(main(arg))
