--- JSON for the command: small, strict, in plain Lua.
-- Arrays are tables with elements 1..n (json.array marks an empty one), objects have string
-- keys and are written in sorted order. null is json.null; what other libraries have for it (a userdata) is written
-- as null, too. Texts that are no UTF-8 are written with U+FFFD in place of what is wrong.
-- It takes the texts that src/text/json_value.c takes, which reads the bodies of requests.
-- __jsontype tells the C side and other Lua JSON libraries the same.
local json = {null = setmetatable({}, {__tostring = function() return "null" end, __jsontype = "null"})}

local array_mt = {__jsontype = "array"}
local max_depth = 200

function json.array(t) return setmetatable(t, array_mt) end

local escapes = {['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t"}

local replacement = "\239\191\189"
-- The forms of a character by its first byte: {from, to, pattern of the bytes after it}.
local forms = {
  {0xC2, 0xDF, "^[\128-\191]"}, {0xE0, 0xE0, "^[\160-\191][\128-\191]"},
  {0xE1, 0xEC, "^[\128-\191][\128-\191]"}, {0xED, 0xED, "^[\128-\159][\128-\191]"},
  {0xEE, 0xEF, "^[\128-\191][\128-\191]"}, {0xF0, 0xF0, "^[\144-\191][\128-\191][\128-\191]"},
  {0xF1, 0xF3, "^[\128-\191][\128-\191][\128-\191]"}, {0xF4, 0xF4, "^[\128-\143][\128-\191][\128-\191]"},
}
local tails = {}
for _, form in ipairs(forms) do
  for first = form[1], form[2] do tails[first] = form[3] end
end

-- Where the next byte >= 128 that belongs to no character is, from `at` on | nil
local function invalid_utf8(s, at)
  at = s:find("[\128-\255]", at)
  while at do
    local tail = tails[s:byte(at)]
    local _, last = s:find(tail or "^%z", at + 1)
    if not (tail and last) then return at end
    at = s:find("[\128-\255]", last + 1)
  end
end

local function repair(s)
  local parts, from, at = {}, 1, invalid_utf8(s, 1)
  if not at then return s end
  while at do
    parts[#parts + 1] = s:sub(from, at - 1)
    parts[#parts + 1] = replacement
    from = at + 1
    at = invalid_utf8(s, from)
  end
  parts[#parts + 1] = s:sub(from)
  return table.concat(parts)
end

local function quote(s)
  s = repair(s)
  return '"' .. s:gsub('[%c"\\\127]', function(c)
    return escapes[c] or string.format("\\u%04x", c:byte())
  end) .. '"'
end

local function number(v)
  if v ~= v or v == math.huge or v == -math.huge then return "null" end
  if v == math.floor(v) and math.abs(v) < 2 ^ 53 then return string.format("%.0f", v) end
  return string.format("%.9g", v)
end

local write

-- Marked as a list, here or by lua-cjson.
local function is_marked(v)
  local mt = getmetatable(v)
  if type(mt) ~= "table" then return false end
  if rawget(mt, "__jsontype") == "array" then return true end
  local cjson = package.loaded.cjson
  return type(cjson) == "table" and (mt == cjson.array_mt or mt == cjson.empty_array_mt)
end

local function is_null(v)
  if v == json.null then return true end
  local cjson = package.loaded.cjson
  return type(v) == "userdata" and not (type(cjson) == "table" and v == cjson.empty_array)
end

local function write_table(out, v, depth, lists, is_list)
  if depth > max_depth then error("json: nested deeper than " .. max_depth, 0) end
  if #v > 0 or is_marked(v) or (is_list and next(v) == nil) then
    out[#out + 1] = "["
    for i = 1, #v do
      if i > 1 then out[#out + 1] = "," end
      write(out, v[i], depth + 1, lists)
    end
    out[#out + 1] = "]"
    return
  end
  local keys = {}
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys)
  out[#out + 1] = "{"
  for i, k in ipairs(keys) do
    out[#out + 1] = (i > 1 and "," or "") .. quote(k) .. ":"
    write(out, v[k], depth + 1, lists, lists and lists[k])
  end
  out[#out + 1] = "}"
end

function write(out, v, depth, lists, is_list)
  local kind = type(v)
  if is_null(v) then out[#out + 1] = "null"
  elseif kind == "userdata" then out[#out + 1] = "[]"
  elseif kind == "table" then write_table(out, v, depth, lists, is_list)
  elseif kind == "string" then out[#out + 1] = quote(v)
  elseif kind == "number" then out[#out + 1] = number(v)
  elseif kind == "boolean" then out[#out + 1] = tostring(v)
  else error("json: cannot write a " .. kind, 0)
  end
end

--- lists, optional: {name = true} of members whose empty tables are lists.
function json.encode(v, lists)
  local out = {}
  write(out, v, 1, lists)
  return table.concat(out)
end

-- Reading. A reader is {text=, at=}; every parse_* leaves `at` behind what it read.

local function bad(r, what)
  local _, line = r.text:sub(1, r.at - 1):gsub("\n", "")
  error(string.format("line %d: %s", line + 1, what), 0)
end

local function utf8_char(c)
  if c < 0x80 then return string.char(c) end
  local tail = {}
  local limit = 0x40
  repeat
    table.insert(tail, 1, string.char(0x80 + c % 0x40))
    c = math.floor(c / 0x40)
    limit = limit / 2
  until c < limit
  return string.char(0x100 - 2 * limit + c) .. table.concat(tail)
end

local unescape = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/"}

local function hex4(r, at)
  local digits = r.text:match("^%x%x%x%x", at) or bad(r, "four hexadecimal digits expected after \\u")
  return tonumber(digits, 16)
end

-- r.at is at the backslash.
local function parse_escape(r)
  local c = r.text:sub(r.at + 1, r.at + 1)
  if unescape[c] then
    r.at = r.at + 2
    return unescape[c]
  end
  if c ~= "u" then bad(r, "invalid escape") end
  local code = hex4(r, r.at + 2)
  r.at = r.at + 6
  if code >= 0xD800 and code < 0xDC00 and r.text:sub(r.at, r.at + 1) == "\\u" then
    local low = hex4(r, r.at + 2)
    if low >= 0xDC00 and low < 0xE000 then
      r.at = r.at + 6
      return utf8_char(0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00)
    end
  end
  if code >= 0xD800 and code < 0xE000 then code = 0xFFFD end
  return utf8_char(code)
end

local function parse_string(r)
  local parts = {}
  r.at = r.at + 1
  while true do
    local plain = r.text:match('^[^"\\%z\1-\31]+', r.at)
    if plain then
      parts[#parts + 1] = plain
      r.at = r.at + #plain
    end
    local c = r.text:sub(r.at, r.at)
    if c == '"' then
      r.at = r.at + 1
      return table.concat(parts)
    elseif c == "\\" then parts[#parts + 1] = parse_escape(r)
    else bad(r, c == "" and "string without end" or "control character in a string")
    end
  end
end

local function skip_space(r) r.at = r.text:match("^[ \t\r\n]*()", r.at) end

local parse_value

-- One list of members between brackets: what(r) reads one.
local function parse_members(r, close, what)
  r.at = r.at + 1
  skip_space(r)
  if r.text:sub(r.at, r.at) == close then
    r.at = r.at + 1
    return
  end
  while true do
    what()
    skip_space(r)
    local c = r.text:sub(r.at, r.at)
    r.at = r.at + 1
    if c == close then return end
    if c ~= "," then
      r.at = r.at - 1
      bad(r, "',' or '" .. close .. "' expected")
    end
    skip_space(r)
  end
end

local function parse_object(r, depth)
  local object = {}
  parse_members(r, "}", function()
    if r.text:sub(r.at, r.at) ~= '"' then bad(r, "object key expected") end
    local key = parse_string(r)
    skip_space(r)
    if r.text:sub(r.at, r.at) ~= ":" then bad(r, "':' expected") end
    r.at = r.at + 1
    object[key] = parse_value(r, depth + 1)
  end)
  return object
end

local function parse_array(r, depth)
  local array = json.array {}
  parse_members(r, "]", function() array[#array + 1] = parse_value(r, depth + 1) end)
  return array
end

-- The last three as Python writes them.
local words = {
  ["true"] = true, ["false"] = false, null = json.null, NaN = 0 / 0, Infinity = math.huge, ["-Infinity"] = -math.huge,
}

local function parse_number(r)
  local whole = r.text:match("^%-?%d+", r.at)
  if not whole or whole:find "^%-?0%d" then bad(r, "value expected") end
  local fraction = r.text:match("^%.%d+", r.at + #whole) or ""
  local exponent = r.text:match("^[eE][+-]?%d+", r.at + #whole + #fraction) or ""
  local digits = whole .. fraction .. exponent
  if #digits > 1000 then bad(r, "number longer than 1000 characters") end
  r.at = r.at + #digits
  if digits == "-0" then return 0 end -- an integer has no sign of zero: LuaJIT's and 5.1's numbers have
  return tonumber(digits)
end

function parse_value(r, depth)
  skip_space(r)
  local c = r.text:sub(r.at, r.at)
  if depth > max_depth and (c == "{" or c == "[") then bad(r, "nested deeper than " .. max_depth) end
  if c == "{" then return parse_object(r, depth) end
  if c == "[" then return parse_array(r, depth) end
  if c == '"' then return parse_string(r) end
  local word = r.text:match("^%-?%a+", r.at)
  if word and words[word] ~= nil then
    r.at = r.at + #word
    return words[word]
  end
  return parse_number(r)
end

--- The value of a JSON text, or nil and a message with the line.
function json.decode(text)
  local r = {text = text, at = 1}
  if invalid_utf8(text, 1) then return nil, "not valid UTF-8" end
  local ok, value = pcall(function()
    local v = parse_value(r, 1)
    skip_space(r)
    if r.at <= #text then bad(r, "text after the value") end
    return v
  end)
  if not ok then return nil, value end
  return value
end

return json
