--- Texts of several kinds for tokenizer measurements: drawn from word lists by a fixed
-- sequence of numbers, so they are the same everywhere and need no file.
local sample_text = {kinds = {"prose", "code", "digits", "cjk", "mixed"}}

local function words(list)
  local t = {}
  for w in list:gmatch "%S+" do t[#t + 1] = w end
  return t
end

local stems = words [[
time year people way day thing life child world school state family student group country problem hand part place
case week company system program question work government number night point home water room mother area money story
fact month right study book eye job word business issue side kind head house service friend father power hour game
line end member law car city community name president team minute idea body information back parent face level
window measure harbour winter engine letter garden mountain silver bridge market sentence forest weather distance]]
local endings = words "s ed ing er ly ness ment able less ful"
local little = words "the of and to in a is that it was for on are as with his they at be this have from or by but not"
local stops = {". ", ", ", "; ", "? ", ".\n\n", " - "}
local marks = {"(", ")", " = ", "[i]", ";\n    ", " + ", "->", " == ", " {\n", "}\n\n", ", ", "\t", "0x1f", "_", "::"}
local characters = words [[
的 一 是 不 了 人 我 在 有 他 这 中 大 来 上 国 个 到 说 们 を は が で す 日 本 語 。 、 한 국 어 는]]

-- Numbers of a fixed sequence: 0 <= next(n) < n (Lehmer's generator, exact in doubles).
local function generator()
  local state = 42
  return function(n)
    state = state * 48271 % 2147483647
    return state % n
  end
end

local function word(next)
  if next(2) == 0 then return little[next(#little) + 1] end
  local w = stems[next(#stems) + 1]
  if next(4) == 0 then w = w .. endings[next(#endings) + 1] end
  if next(12) == 0 then w = w:sub(1, 1):upper() .. w:sub(2) end
  return w
end

local makers = {
  prose = function(next) return word(next) .. (next(9) == 0 and stops[next(#stops) + 1] or " ") end,
  code = function(next) return word(next) .. marks[next(#marks) + 1] end,
  digits = function(next) return next(100000) .. (next(3) == 0 and "." or " ") end,
  cjk = function(next) return characters[next(#characters) + 1] end,
}
function makers.mixed(next)
  local kind = sample_text.kinds[next(4) + 1]
  return makers[kind](next)
end

--- At least `bytes` bytes of a kind.
function sample_text.make(kind, bytes)
  local next, parts, n = generator(), {}, 0
  while n < bytes do
    local part = makers[kind](next)
    parts[#parts + 1] = part
    n = n + #part
  end
  return table.concat(parts)
end

return sample_text
