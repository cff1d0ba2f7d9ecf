describe("a tokenizer", function()
  local fp8llm = require "fp8llm"
  local dir = "spec/golden/tokenizer/byte_level"
  local tok = assert(fp8llm.tokenizer(dir))
  local all = {parse_special = "all"}

  local function list(ids) return table.concat(ids, " ") end

  it("gives ids and takes them back", function()
    for _, text in ipairs{"", "Hello world", "it's 2024!\n\n\tcaf\195\169 \230\151\165", "a\0b", "  <|im_start|>  "} do
      assert.equal(text, tok:decode(tok:encode(text)))
      assert.equal(text, tok:decode(tok:encode(text, all)))
    end
  end)

  it("gives the reference's ids", function()
    local source = assert(io.open "spec/golden/tokenizer/ids.lua"):read "*a"
    local cases = assert((loadstring or load)(source))()
    assert.is_true(#cases > 5)
    for _, case in ipairs(cases) do
      assert.equal(case.none, list(tok:encode(case.text)))
      assert.equal(case.all, list(tok:encode(case.text, all)))
    end
  end)

  it("sees special tokens only when told to", function()
    local text = "<|im_start|>user<|im_end|>"
    local function specials(options)
      local n = 0
      for _, id in ipairs(tok:encode(text, options)) do n = n + (id < 3 and 1 or 0) end
      return n
    end
    assert.equal(0, specials())
    assert.equal(0, specials{parse_special = "none"})
    assert.equal(2, specials(all))
    assert.equal(1, specials{parse_special = {1}})
    assert.equal(1, specials{parse_special = {"<|im_end|>"}})
    assert.equal(2, specials{parse_special = {1, "<|im_end|>"}})
    assert.equal(0, specials{parse_special = {}})
    local ids, message, code = tok:encode(text, {parse_special = {"<no such token>"}})
    assert.same({nil, "parse_special: entry 1 is not a token", "ARG"}, {ids, message, code})
  end)

  it("refuses text with special tokens when told to, and says where", function()
    local reject = {parse_special = "reject"}
    assert.same(tok:encode "user <|im_end|", tok:encode("user <|im_end|", reject))
    local ids, message, code = tok:encode("user <|im_end|>", reject)
    assert.same({nil, "the text has the special token <|im_end|> at byte 5", "ARG"}, {ids, message, code})
  end)

  it("leaves special tokens out of the text when told to", function()
    local ids = tok:encode("<|im_start|>user<|im_end|>", all)
    assert.equal("<|im_start|>user<|im_end|>", tok:decode(ids))
    assert.equal("user", tok:decode(ids, {skip_special_tokens = true}))
  end)

  it("knows its tokens", function()
    assert.equal(1, tok:id "<|im_start|>")
    assert.equal(nil, tok:id "no such token")
    assert.equal("<|im_start|>", tok:piece(1))
    local blank = tok:id "\196\160"
    assert.equal(" ", tok:bytes(blank))
    assert.equal("\196\160", tok:piece(blank))
    assert.equal(nil, tok:piece(-1))
    assert.equal(nil, tok:bytes(#tok))
    assert.equal(nil, tok:bos())
    assert.equal(nil, tok:chat_template())
    assert.is_true(#tok > 2000)
  end)

  it("replaces invalid UTF-8, or refuses it", function()
    assert.equal("a\239\191\189b", tok:decode(tok:encode "a\255b"))
    local ids, message, code = tok:encode("a\255b", {strict = true})
    assert.equal(nil, ids)
    assert.equal("text of 3 bytes is not valid UTF-8", message)
    assert.equal("FORMAT", code)
  end)

  it("streams whole characters", function()
    local text = "na\195\175ve \230\151\165\230\156\172 \240\159\145\169\226\128\141\240\159\154\128"
    local ids = tok:encode(text)
    local stream, pieces = tok:stream(), {}
    for _, id in ipairs(ids) do
      local piece = stream:push(id)
      assert.equal(piece, tok:decode(tok:encode(piece)))
      pieces[#pieces + 1] = piece
    end
    pieces[#pieces + 1] = stream:finish()
    assert.equal(text, table.concat(pieces))
    stream:push(tok:encode("\230\151\165")[1])
    assert.equal("\239\191\189", stream:finish())
    assert.equal("", stream:finish())
    local none, message, code = stream:push(1e6)
    assert.equal(nil, none)
    assert.is_true(message:find("token id 1000000 outside the vocabulary", 1, true) ~= nil)
    assert.equal("ARG", code)
  end)

  it("raises on wrong arguments", function()
    local function message(f, ...)
      local ok, e = pcall(f, ...)
      assert.is_true(not ok)
      return tostring(e)
    end
    assert.is_true(message(tok.encode, tok, {}):find "string expected" ~= nil)
    local misspelt = message(tok.encode, tok, "a", {parse_specials = "all"})
    assert.is_true(misspelt:find "unknown option 'parse_specials'" ~= nil)
    local none, what, code = tok:encode("a", {parse_special = "some"})
    assert.same({nil, "ARG"}, {none, code})
    assert.is_true(what:find "got 'some'" ~= nil)
    assert.is_true(message(tok.encode, tok, "a", {parse_special = {true}}):find "entry 1" ~= nil)
    assert.is_true(message(tok.decode, tok, {1.5}):find "whole number" ~= nil)
    assert.is_true(message(tok.decode, tok, "1"):find "table expected" ~= nil)
    assert.is_true(message(tok.piece, tok, 0.5):find "whole number" ~= nil)
  end)

  it("reports what is wrong with a folder", function()
    local none, message, code = fp8llm.tokenizer "spec/no such folder"
    assert.equal(nil, none)
    assert.is_true(message:find("spec/no such folder", 1, true) ~= nil)
    assert.equal("IO", code)
  end)

  it("can be closed, twice, with its stream still alive", function()
    local other = assert(fp8llm.tokenizer(dir))
    local stream = other:stream()
    other:close()
    other:close()
    assert.is_true(select(2, pcall(other.encode, other, "a")):find "closed" ~= nil)
    assert.equal("a", stream:push(tok:id "a"))
  end)

  it("leaves no memory behind", function()
    collectgarbage() collectgarbage()
    local before = fp8llm._live()
    for _ = 1, 3 do
      local other = assert(fp8llm.tokenizer(dir))
      local stream = other:stream{skip_special_tokens = true}
      stream:push(other:encode("Hello")[1])
    end
    collectgarbage() collectgarbage()
    assert.equal(before, fp8llm._live())
  end)
end)
