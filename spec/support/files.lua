-- Whole files.
local files = {}

-- The text of a file; nil, message where there is none.
function files.read(path)
  local f, message = io.open(path, "rb")
  if not f then return nil, message end
  local text = f:read "*a"
  f:close()
  return text
end

-- Returns the path.
function files.write(path, text)
  local f = assert(io.open(path, "wb"))
  assert(f:write(text))
  assert(f:close())
  return path
end

return files
