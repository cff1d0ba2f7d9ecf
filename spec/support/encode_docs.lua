-- luajit encode_docs.lua DIR DOCS IDS SPECIAL ADD: encode each document of the file DOCS
-- (a line with its length, then its bytes) with the tokenizer in DIR.  The file IDS receives a
-- line of ids for each; then the time is printed.  Checks on the way that the stream gives the
-- same text as decode, and that text without special tokens has the same ids when a template
-- puts it into a prompt, where every byte has a bit of trust.
local fp8llm = require "fp8llm"
local dir, docs, out, special, add = unpack(arg)

local tok = assert(fp8llm.tokenizer(dir))
local options = {parse_special = special, add_special_tokens = add == "true"}
local input, output = assert(io.open(docs, "rb")), assert(io.open(out, "wb"))
local template = assert(fp8llm.template("{{ messages[0].content }}", tok))
local seconds, bytes, count = 0, 0, 0
local masked = 0

-- 1 when the document is harmless and could be compared.
local function check_mask(doc)
  local harmless = tok:encode(doc, {parse_special = "reject", add_special_tokens = false})
  if not harmless then return 0 end
  local ids, message = template:encode {{role = "user", content = doc}}
  if not ids then
    assert(message:find "UTF%-8", message)
    return 0
  end
  if table.concat(ids, " ") ~= table.concat(harmless, " ") then
    error(string.format("other ids with bits of trust: %q", doc:sub(1, 300)))
  end
  return 1
end

for line in input:lines() do
  local doc = input:read(tonumber(line)) or ""
  local start = os.clock()
  local ids = assert(tok:encode(doc, options))
  seconds = seconds + os.clock() - start
  bytes, count = bytes + #doc, count + #ids
  output:write(table.concat(ids, " "), "\n")
  masked = masked + check_mask(doc)
  local stream, pieces = tok:stream(), {}
  for i = 1, #ids do pieces[i] = assert(stream:push(ids[i])) end
  pieces[#pieces + 1] = stream:finish()
  local whole = assert(tok:decode(ids))
  assert(table.concat(pieces) == whole, "stream and decode differ")
  output:write(#whole, "\n", whole)
end
output:close()
print(string.format("%d ids of %.1f MB, %.1f MB/s, %d harmless documents the same with bits of trust", count,
  bytes / 1e6, bytes / 1e6 / seconds, masked))
