--- misuse(name of a function, format, ...): raises a mistake of the program that calls this library, where it calls it.
local directory = debug.getinfo(1, "S").source:match "^(.*)misuse%.lua$" or "@"

return function(who, format, ...)
  local level = 2
  local function ours(info)
    if info.source == "=(tail call)" then return true end
    return info.source:sub(1, #directory) == directory and not info.source:find "/cmd/"
  end
  local info = debug.getinfo(level, "S")
  while info and ours(info) do
    level = level + 1
    info = debug.getinfo(level, "S")
  end
  error(who .. ": " .. string.format(format, ...), level)
end
