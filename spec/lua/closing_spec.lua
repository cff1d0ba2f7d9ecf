-- Code of the caller's that runs in the middle of a method, and closes or uses what the method uses.
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/closing"
tiny.write(dir, {layers = 1, hidden = 32, ffn = 32, heads = 2, kv_heads = 1, quant = "fp8-dynamic", context = 64})

-- The Lua that runs this, with the module it has found; memory that was given back is overwritten.
local function command(path)
  local found = package.cpath:match "[^;]+"
  return ("MALLOC_PERTURB_=165 LUA_CPATH='%s;%s' LUA_PATH='%s' %s %s %s"):format(found, package.cpath, package.path,
    arg[-1], path, dir)
end

describe("an object that is closed in the middle of a call", function()
  it("lives until the call is done", function()
    local pipe = io.popen(command "spec/support/closing.lua" .. " 2>&1; echo ended $?")
    local said = pipe:read "*a"
    pipe:close()
    assert.is_true(tonumber(said:match "^(%d+)\nended 0\n$" or 0) > 500, said:sub(-3000))
  end)
end)
