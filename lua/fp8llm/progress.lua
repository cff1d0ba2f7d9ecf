--- A progress bar on stderr: only on a terminal, only for what takes over a second.
local fp8llm = require "fp8llm"

local terminal -- asked once

local function is_terminal()
  if terminal == nil then
    local status = os.execute "test -t 2" -- a number in Lua 5.1, true or nil later
    terminal = status == 0 or status == true
  end
  return terminal
end

local function clock_text(seconds)
  seconds = math.floor(seconds + 0.5)
  if seconds < 3600 then return string.format("%d:%02d", math.floor(seconds / 60), seconds % 60) end
  return string.format("%d:%02d:%02d", math.floor(seconds / 3600), math.floor(seconds / 60) % 60, seconds % 60)
end

local width = 30

--- progress(label) -> update(done, total), finish(). `total` may be left out when done is a
-- fraction. Both may be called at any rate; finish wipes the bar.
return function(label)
  local start, last, shown = fp8llm.clock(), 0, false
  local function update(done, total)
    local now = fp8llm.clock()
    if now - start < 1 or now - last < 0.1 or not is_terminal() then return end
    last, shown = now, true
    local part = math.min(1, done / (total or 1))
    local eta = part > 0 and clock_text((now - start) * (1 - part) / part) or "?"
    local filled = math.floor(part * width)
    local bar = ("="):rep(filled) .. (" "):rep(width - filled)
    io.stderr:write(string.format("\r%s [%s] %3d%% %s left \27[K", label, bar, math.floor(part * 100), eta))
    io.stderr:flush()
  end
  local function finish()
    if shown then io.stderr:write "\r\27[K" end
  end
  return update, finish
end
