--- misuse(name of a function, format, ...): raises a mistake of the program that calls this library, where it calls it.
local getinfo = debug and debug.getinfo -- not in every sandbox
local directory = getinfo and getinfo(1, "S").source:match "^(.*)misuse%.lua$" or "@"

local function ours(info)
  if info.source == "=(tail call)" then return true end
  return info.source:sub(1, #directory) == directory and not info.source:find "/cmd/"
end

return function(who, format, ...)
  local level, message = 2, who .. ": " .. string.format(format, ...)
  if not getinfo then error(message, 0) end
  local info = getinfo(level, "S")
  while info and ours(info) do
    level = level + 1
    info = getinfo(level, "S")
  end
  error(message, level)
end
