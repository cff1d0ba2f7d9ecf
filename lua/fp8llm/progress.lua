--- A progress bar on stderr: only on a terminal, only for what takes over a second, never wider than the terminal.
local fp8llm = require "fp8llm"

local function clock_text(seconds)
  seconds = math.floor(seconds + 0.5)
  if seconds < 3600 then return string.format("%d:%02d", math.floor(seconds / 60), seconds % 60) end
  return string.format("%d:%02d:%02d", math.floor(seconds / 3600), math.floor(seconds / 60) % 60, seconds % 60)
end

local widest, narrowest = 30, 5 -- of a bar

-- At most n characters of a text that may come from a file: nothing in it moves the cursor.
local function shorten(text, n)
  text = text:gsub("[%c\127]", "?"):gsub("\194[\128-\159]", "?")
  local at = 1
  for _ = 1, n do at = text:match("^[%z\1-\127\192-\255][\128-\191]*()", at) or text:match("^.()", at) or at end
  return text:sub(1, at - 1)
end

local function line_of(label, part, right, columns)
  local room = columns - 1 -- the last column of a terminal may break the line
  local percent = string.format("%3d%% ", math.floor(part * 100))
  local width = math.min(widest, room - #label - #percent - #right - 4)
  if width < narrowest then return shorten(label .. " " .. percent .. right, room) end
  local filled = math.floor(part * width)
  return shorten(string.format("%s [%s%s] %s%s", label, ("="):rep(filled), (" "):rep(width - filled), percent, right),
    room)
end

--- progress() -> bar. bar(what, part, note) draws how far `what` is, 0 <= part <= 1, or nil where nobody knows, and
-- the note (may be nil); another `what` starts a new estimate; bar() wipes the line. It may be called at any rate.
-- `env` is for tests: {clock =, terminal = function() return columns end, status = function(text or nil)}.
return function(env)
  env = env or {}
  local clock, status = env.clock or fp8llm.clock, env.status or fp8llm.status
  local terminal = env.terminal or fp8llm.terminal
  local label, start, last = nil, clock(), 0

  local function draw(part, note, seconds)
    local columns = terminal()
    if not columns then return end
    if not part then
      status(shorten(label .. " " .. (note or ""), columns - 1))
      return
    end
    part = math.max(0, math.min(1, part))
    local left = part > 0 and clock_text(seconds * (1 - part) / part) .. " left" or ""
    if note then left = note .. (left ~= "" and ", " or "") .. left end
    status(line_of(label, part, left, columns))
  end

  return function(what, part, note)
    local now = clock()
    if what == nil then
      status()
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
