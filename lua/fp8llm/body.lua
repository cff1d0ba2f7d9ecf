--- Finding single values in the JSON text of a request, without decoding it: a body of many MB would hold an nginx
-- worker for seconds, and what was decoded is not what was written. Whether all of it is JSON is the engine's to say;
-- of a text that is, the members are found exactly as the engine finds them.
local json = require "fp8llm.json"

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local body = {}

-- A step is a bracket, a string or a member. Others have their turn now and then, and there is an end.
local turn, most = 20000, 1000000
local quote, backslash, comma, object, array = ('"\\,{['):byte(1, -1)

local ngx = rawget(_G, "ngx") -- nil outside of nginx, where nobody else waits for a turn

--- Work on one text in several calls shares an account of steps: give it to them as their limit. most: of steps, by
-- default a million.
function body.work(limit) return {steps = 0, pause = turn, most = limit or most} end

local function step(state, n)
  state.steps = state.steps + n
  if state.steps > state.most then return false end
  if ngx and state.steps > state.pause then
    state.pause = state.steps + turn
    ngx.sleep(0.001) -- 0 is a warning in the log of an nginx without a patch of OpenResty's
  end
  return true
end

-- `at` is at the opening quote -> where the string ends | nil
local function string_end(state, text, at)
  repeat
    at = find(text, '"', at + 1, true)
    if not at then return nil end
    local before = at - 1
    while byte(text, before) == backslash do before = before - 1 end
    local escapes = at - 1 - before
    if not step(state, 1 + escapes / 16) then return nil end
  until escapes % 2 == 0
  return at
end

local function container_end(state, text, at)
  local depth = 1
  repeat
    at = find(text, '["%[%]{}]', at + 1)
    if not at or not step(state, 1) then return nil end
    local c = byte(text, at)
    if c == quote then
      at = string_end(state, text, at)
      if not at then return nil end
    elseif c == object or c == array then
      depth = depth + 1
    else
      depth = depth - 1
    end
  until depth == 0
  return at
end

local function value_end(state, text, at)
  local c = byte(text, at)
  if c == quote then return string_end(state, text, at) end
  if c == object or c == array then return container_end(state, text, at) end
  local stop = find(text, "[,%]}%s]", at)
  return stop and stop > at and step(state, 1) and stop - 1 or nil
end

-- A key and its colon -> the key, where its value begins | nil. No key that anybody looks for is long.
local function read_key(state, text, at)
  local stop = byte(text, at) == quote and string_end(state, text, at)
  local value = stop and match(text, "^%s*:%s*()", stop + 1)
  if not value then return nil end
  return stop - at < 256 and json.decode(sub(text, at, stop)) or "", value
end

-- Calls found(key or index, first, last) for each value of the object or list, until it returns true.
-- -> where it ended: at the last bracket, if it is JSON | nil, message
local function each(text, kind, found, limit)
  local state = type(limit) == "table" and limit or body.work(limit)
  local at, index = match(text, "^%s*()"), 0
  if byte(text, at) ~= kind then return nil, "need " .. (kind == object and "an object" or "a list") end
  at = match(text, "^%s*()", at + 1)
  while not find(text, "^[%]}]", at) do
    index = index + 1
    local key = index
    if kind == object then key, at = read_key(state, text, at) end
    local last = key and value_end(state, text, at)
    if not last then
      return nil, state.steps > state.most and "more than a million values, brackets and escapes" or "not valid JSON"
    end
    if found(key, at, last) then return last end
    at = match(text, "^%s*()", last + 1)
    if byte(text, at) ~= comma then break end
    at = match(text, "^%s*()", at + 1)
  end
  return at
end

--- The members of an object -> {name = JSON text of its value} | nil, message. names: a list, nil for all; of a name
-- that is repeated the last one counts. Yields now and then: for phases in which nginx may. limit: of values, brackets
-- and escapes (default a million), or what body.work gave.
function body.members(text, names, limit)
  local wanted, members = {}, {}
  for _, name in ipairs(names or {}) do wanted[name] = true end
  local ok, message = each(text, object, function(key, first, last)
    if not names or wanted[key] then members[key] = sub(text, first, last) end
  end, limit)
  if not ok then return nil, message end
  return members, ok
end

--- The JSON texts of a list's items, the first `count` of them | nil, message. limit: as of members.
function body.items(text, count, limit)
  local items = {}
  local ok, message = each(text, array, function(index, first, last)
    items[index] = sub(text, first, last)
    return index == count
  end, limit)
  if not ok then return nil, message end
  return items
end

--- The JSON text of a list's last item, nil of an empty list | nil, message
function body.last(text)
  local from, to
  local ok, message = each(text, array, function(_, first, last) from, to = first, last end)
  if not ok then return nil, message end
  return from and sub(text, from, to)
end

--- The value of a JSON text of at most `limit` bytes | nil, message. null and no text are nil.
function body.value(text, limit)
  if not text then return nil end
  if #text > (limit or 65536) then return nil, "longer than " .. (limit or 65536) .. " bytes" end
  local value, message = json.decode(text)
  if value == json.null then return nil end
  return value, message
end

return body
