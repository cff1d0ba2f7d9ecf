--- Runs a script in a process of its own, for specs of the emulated GPU: what it is told to do (EMU_*)
-- holds for a whole process.
local emulated = {}

--- What the script says with these settings.  It has fp8llm, dir, say(...) and load(options), which loads
-- dir on the GPU with a context of 64 and 256 tokens of KV cache unless told otherwise.
function emulated.run(settings, dir, script)
  local path = dir .. "-script.lua"
  local f = assert(io.open(path, "w"))
  f:write(([[
package.cpath, package.path = %q, %q
local fp8llm, dir = require "fp8llm", %q
local function say(...) print(...) io.stdout:flush() end
local function load(options)
  local o = { device = "cuda", context = 64, kv_tokens = 256 }
  for k, v in pairs(options or {}) do o[k] = v or nil end -- false: without it
  return fp8llm.load(dir, o)
end
%s]]):format(package.cpath, package.path, dir, script))
  f:close()
  local p = io.popen(("%s sh spec/support/limited.sh 200 luajit %s 2>&1; echo status=$?"):format(settings, path))
  local said = p:read "*a"
  p:close()
  local status = said:match "status=(%d+)%s*$"
  assert(status == "0", "status " .. tostring(status) .. ":\n" .. said)
  return said
end

return emulated
