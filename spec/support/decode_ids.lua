-- luajit decode_ids.lua DIR LISTS TEXTS SKIP: decode each line of ids of the file LISTS with the
-- tokenizer in DIR. The file TEXTS receives the length and the bytes of each text.
local fp8llm = require "fp8llm"
local dir, lists, out, skip = unpack(arg)

local tok = assert(fp8llm.tokenizer(dir))
local output = assert(io.open(out, "wb"))
for line in assert(io.open(lists)):lines() do
  local ids = {}
  for id in line:gmatch "%d+" do ids[#ids + 1] = tonumber(id) end
  local text = assert(tok:decode(ids, {skip_special_tokens = skip == "true"}))
  output:write(#text, "\n", text)
end
output:close()
