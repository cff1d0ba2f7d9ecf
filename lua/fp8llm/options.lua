--- Command-line options declared as data, so that parsing and --help cannot disagree.
-- An option is {name, kind, argument, help}: name without dashes; kind "flag", "number",
-- "integer", "string", "list" (a string each time it is given) or a table of allowed words. A number may also have
-- both min and max.
local options = {}

local function convert(option, text)
  local name, kind = option[1], option[2]
  if kind == "string" or kind == "list" then return text end
  if type(kind) == "table" then
    for _, word in ipairs(kind) do
      if word == text then return text end
    end
    return nil, string.format("--%s: %s expected, got '%s'", name, table.concat(kind, " or "), text)
  end
  local value = tonumber(text)
  if not value or (kind == "integer" and value ~= math.floor(value)) then
    local what = kind == "integer" and "whole number" or "number"
    return nil, string.format("--%s: %s expected, got '%s'", name, what, text)
  end
  if option.min and (value < option.min or value > option.max) then
    local message = "--%s: a number from %.14g to %.14g expected, got '%s'"
    return nil, message:format(name, option.min, option.max, text)
  end
  return value
end

local function find(list, name)
  for _, option in ipairs(list) do
    if option[1] == name then return option end
  end
end

--- Split args (from index `first`) into option values by name, dashes as underscores, and the
-- other words in order. Both "--name value" and "--name=value"; "--" ends the options.
-- On misuse: nil, message.
function options.parse(list, args, first)
  local values, words = {}, {}
  local i = first
  while i <= #args do
    local a = args[i]
    local name, inline = a:match "^%-%-([^=]+)=(.*)$"
    name = name or a:match "^%-%-(.+)$"
    if a == "--" then
      for k = i + 1, #args do words[#words + 1] = args[k] end
      break
    elseif not name then
      words[#words + 1] = a
    else
      local option = find(list, name)
      if not option then return nil, "unknown option --" .. name end
      local key = name:gsub("-", "_")
      if option[2] == "flag" then
        if inline then return nil, "--" .. name .. " takes no value" end
        values[key] = true
      else
        if not inline then
          i = i + 1
          inline = args[i]
        end
        if not inline then return nil, "--" .. name .. ": a value is missing" end
        local value, message = convert(option, inline)
        if value == nil then return nil, message end
        if option[2] == "list" then
          values[key] = values[key] or {}
          table.insert(values[key], value)
        else
          values[key] = value
        end
      end
    end
    i = i + 1
  end
  return values, words
end

--- The lines of --help for a list of options.
function options.describe(list)
  local lines = {}
  for _, option in ipairs(list) do
    local head = "  --" .. option[1] .. (option[3] ~= "" and " " .. option[3] or "")
    lines[#lines + 1] = string.format("%-24s %s", head, option[4])
  end
  return table.concat(lines, "\n")
end

return options
