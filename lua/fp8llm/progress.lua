--- A progress bar on stderr: only on a terminal, only for what takes over a second.
local fp8llm = require "fp8llm"

local function is_terminal()
  local status = os.execute "test -t 2" -- a number in Lua 5.1, true or nil later
  return status == 0 or status == true
end

local function clock_text(seconds)
  seconds = math.floor(seconds + 0.5)
  if seconds < 3600 then return string.format("%d:%02d", math.floor(seconds / 60), seconds % 60) end
  return string.format("%d:%02d:%02d", math.floor(seconds / 3600), math.floor(seconds / 60) % 60, seconds % 60)
end

local width = 30

--- progress() -> bar. bar(what, part, note) draws how far `what` is, 0 <= part <= 1, and the note
-- (may be nil); another `what` starts a new estimate; bar() wipes the line. It may be called at any
-- rate.
-- `env` is for tests: {clock =, is_terminal =, write =}.
return function(env)
  env = env or {}
  local clock = env.clock or fp8llm.clock
  local write = env.write or function(s) io.stderr:write(s):flush() end
  local label, start, last, terminal, shown = nil, clock(), 0, nil, false

  local function draw(part, note, seconds)
    if terminal == nil then terminal = (env.is_terminal or is_terminal)() end
    if not terminal then return end
    part = math.max(0, math.min(1, part))
    local left = part > 0 and clock_text(seconds * (1 - part) / part) .. " left" or ""
    if note then left = note .. (left ~= "" and ", " or "") .. left end
    local filled = math.floor(part * width)
    local bar = ("="):rep(filled) .. (" "):rep(width - filled)
    write(string.format("\r%s [%s] %3d%% %s\27[K", label, bar, math.floor(part * 100), left))
    shown = true
  end

  return function(what, part, note)
    local now = clock()
    if what == nil then
      if shown then write "\r\27[K" end
      shown = false
    else
      if label and what ~= label then start = now end
      label = what
      if now - start >= 1 and now - last >= 0.1 then
        last = now
        draw(part, note, now - start)
      end
    end
  end
end
