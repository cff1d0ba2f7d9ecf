-- luajit encode_docs.lua DIR DOCS IDS SPECIAL ADD: encode each document of the file DOCS
-- (a line with its length, then its bytes) with the tokenizer in DIR.  The file IDS receives a
-- line of ids for each; then the time is printed.  Checks on the way that the stream gives the
-- same text as decode; with valid UTF-8 and no special tokens that is the document.
local fp8llm = require "fp8llm"
local dir, docs, out, special, add = unpack(arg)

local tok = assert(fp8llm.tokenizer(dir))
local options = {parse_special = special, add_special_tokens = add == "true"}
local input, output = assert(io.open(docs, "rb")), assert(io.open(out, "wb"))
local seconds, bytes, count = 0, 0, 0
for line in input:lines() do
  local doc = input:read(tonumber(line)) or ""
  local start = os.clock()
  local ids = assert(tok:encode(doc, options))
  seconds = seconds + os.clock() - start
  bytes, count = bytes + #doc, count + #ids
  output:write(table.concat(ids, " "), "\n")
  local stream, pieces = tok:stream(), {}
  for i = 1, #ids do pieces[i] = assert(stream:push(ids[i])) end
  pieces[#pieces + 1] = stream:finish()
  local whole = assert(tok:decode(ids))
  assert(table.concat(pieces) == whole, "stream and decode differ")
  output:write(#whole, "\n", whole)
end
output:close()
print(string.format("%d ids of %.1f MB, %.1f MB/s", count, bytes / 1e6, bytes / 1e6 / seconds))
