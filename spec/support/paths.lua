-- Where specs find modules: this checkout, then what is installed; nothing relative to the current directory.
--     dofile "spec/support/paths.lua" (BUILD)
local pipe = assert(io.popen "pwd -P")
local root = pipe:read "*l"
pipe:close()

-- The entries of Lua's default that begin at the root.
local function installed(path)
  return (path:gsub("[^;]+;?", function(entry) return entry:find "^/" and entry or "" end))
end

return function(build)
  local version = _VERSION:match "%d%.%d"
  build = build:find "^/" and build or root .. "/" .. build
  package.cpath = build .. (version == "5.1" and "" or "/lua" .. version) .. "/?.so;" .. installed(package.cpath)
  package.path = root .. "/lua/?.lua;" .. root .. "/?.lua;" .. installed(package.path)
end
