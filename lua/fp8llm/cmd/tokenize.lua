local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local printable = require "fp8llm.printable"
local must = common.must

local M = {
  summary = "text to token ids and back",
  usage = "tokenize MODEL [TEXT]",
  text = [[
Prints one token a line: its id, its text. Without TEXT the text is read from stdin. Only the
tokenizer is loaded, so MODEL may be a directory without weights.]],
  options = {
    {"ids", "flag", "", "print only the ids, on one line"},
    {"count", "flag", "", "print only how many tokens"},
    {"decode", "flag", "", "the other way: TEXT is ids, print the text"},
    {"chat", "string", "FILE", "a JSON list of messages through the chat template instead of TEXT"},
    {"tools", "string", "FILE", "with --chat: a JSON list of tools for the template"},
    {"generation-prompt", "flag", "", "with --chat: end where the answer begins"},
    {"no-add", "flag", "", "do not add the model's special tokens (BOS)"},
    {"special", "flag", "", "read special tokens written in TEXT as such"},
    {"json", "flag", "", "print one JSON object"},
  },
}

-- The text rather than its value: that keeps the order of members, which templates print.
local function read_tools(path)
  local text = common.read_file(path):gsub("^%s+", "")
  if text:sub(1, 1) ~= "[" then common.fail("%s: a JSON list of tools expected", path) end
  return text
end

local function chat_ids(tokenizer, opt)
  local template = must(fp8llm.template(tokenizer))
  local ids, message = template:encode(common.read_file(opt.chat), {
    add_generation_prompt = opt.generation_prompt or false,
    tools = opt.tools and read_tools(opt.tools),
  })
  if not ids then common.fail("%s: %s", message:find "^tools: " and opt.tools or opt.chat, message) end
  return ids
end

local function text_ids(tokenizer, text, opt)
  return must(tokenizer:encode(text, {
    add_special_tokens = not opt.no_add, parse_special = opt.special and "all" or "none",
  }))
end

local function decode(tokenizer, text, opt)
  local ids = json.array {}
  for word in text:gmatch "[^%s,%[%]]+" do
    local id = tonumber(word)
    if not id or id ~= math.floor(id) or id < 0 then common.usage("--decode: '%s' is not a token id", word) end
    ids[#ids + 1] = id
  end
  local decoded = must(tokenizer:decode(ids))
  common.write(opt.json and json.encode {ids = ids, text = decoded} .. "\n" or decoded .. "\n")
end

local function print_pieces(tokenizer, ids)
  for _, id in ipairs(ids) do
    common.write(string.format("%d\t%s\n", id, printable(tokenizer:piece(id) or "")))
  end
end

function M.run(opt, words)
  local dir = common.find(common.argument(words, 1, "MODEL"))
  common.no_more(words, 2)
  if opt.tools and not opt.chat then common.usage "--tools: only with --chat" end
  local tokenizer = must(fp8llm.tokenizer(dir))
  local ids
  if opt.chat then
    ids = chat_ids(tokenizer, opt)
  else
    local text = words[2] or common.read_stdin()
    if opt.decode then return decode(tokenizer, text, opt) end
    ids = text_ids(tokenizer, text, opt)
  end
  if opt.json then
    local pieces = json.array {}
    for i, id in ipairs(ids) do pieces[i] = tokenizer:piece(id) or "" end
    common.write(json.encode {ids = json.array(ids), pieces = pieces, count = #ids} .. "\n")
  elseif opt.count then common.write(#ids .. "\n")
  elseif opt.ids then common.write(table.concat(ids, " ") .. "\n")
  else print_pieces(tokenizer, ids)
  end
end

return M
