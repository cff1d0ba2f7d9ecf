--- run(script) -> a function that runs that Lua script on the Lua that runs the specs, on the
-- module built for it: f(word, ...) -> stdout, stderr, status. A table as first argument may
-- hold input = text for stdin.
local files = dofile "spec/support/files.lua"

-- The entries of this Lua's search path that lead to what is installed: examples need LuaSocket.
local function installed(path)
  return (path:gsub("[^;]+;?", function(entry) return entry:find "^/usr/" and entry or "" end))
end

local function quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

local function interpreter()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

local function take(path)
  local text = assert(files.read(path))
  os.remove(path)
  return text
end

local function run(script, first, ...)
  local words, input = {first, ...}, nil
  if type(first) == "table" then
    words, input = {...}, first.input
  end
  local version = _VERSION:match "%d%.%d"
  local module_dir = version == "5.1" and "build" or "build/lua" .. version
  local out, err, source = os.tmpname(), os.tmpname(), os.tmpname()
  local command = {
    "LUA_CPATH=$PWD/" .. module_dir .. "/?.so\\;" .. quote(installed(package.cpath)),
    "LUA_PATH=$PWD/lua/?.lua\\;" .. quote(installed(package.path)), interpreter(), script,
  }
  for _, word in ipairs(words) do command[#command + 1] = quote(word) end
  files.write(source, input or "")
  local line = table.concat(command, " ") .. " <" .. source .. " >" .. out .. " 2>" .. err .. "; echo $?"
  local pipe = assert(io.popen(line))
  local status = tonumber(pipe:read "*l")
  pipe:close()
  os.remove(source)
  return take(out), take(err), status
end

return function(script)
  return function(...) return run(script, ...) end
end
