-- The files beside tokenizer.json, against what transformers makes of them.
describe("the files beside tokenizer.json", function()
  local fp8llm, json = require "fp8llm", require "fp8llm.json"
  local files = dofile "spec/support/files.lua"
  local golden = assert(json.decode(assert(files.read "spec/golden/special_tokens.json")))
  local NAMES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "config.json"}

  -- A new folder with these files, name -> text.
  local function with_folder(texts, use)
    local dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir " .. dir))
    for name, text in pairs(texts) do files.write(dir .. "/" .. name, text) end
    local ok, message = pcall(use, dir)
    for _, name in ipairs(NAMES) do os.remove(dir .. "/" .. name) end
    os.remove(dir)
    if not ok then error(message, 0) end
  end

  local function texts_of(case)
    local base, added = golden.base, json.array {}
    for i, token in ipairs(case.added) do
      local copy = {id = 258 + i}
      for k, v in pairs(token) do copy[k] = v end
      added[i] = copy
    end
    base.added_tokens = added
    base.post_processor = case.post and golden.post or json.null
    local texts = {["tokenizer.json"] = json.encode(base)}
    for name, value in pairs(case.files) do texts[name] = json.encode(value) end
    return texts
  end

  for _, case in ipairs(golden.cases) do
    it("mean what they mean to transformers: " .. case.name, function()
      with_folder(texts_of(case), function(dir)
        local tok = assert(fp8llm.tokenizer(dir))
        local ids = tok:encode(golden.text, {parse_special = "all"})
        assert.equal(case.ids, table.concat(ids, " "))
        assert.equal(case.kept, tok:decode(ids))
        assert.equal(case.skipped, tok:decode(ids, {skip_special_tokens = true}))
      end)
    end)
  end

  it("are refused by name when they are malformed", function()
    for _, case in ipairs{
      {"tokenizer_config.json", '{"eos_token":1}', "tokenizer_config.json: eos_token is neither"},
      {"tokenizer_config.json", '{"eos_token":{}}', "eos_token: added token without content"},
      {"tokenizer_config.json", '{"added_tokens_decoder":[]}', "added_tokens_decoder is not an object"},
      {"tokenizer_config.json", '{"added_tokens_decoder":{"x":{"content":"y"}}}', "added_tokens_decoder x: not an id"},
      {"tokenizer_config.json", '{"added_tokens_decoder":{"5":{"content":"y","rstrip":1}}}', "5: rstrip is not true"},
      {"tokenizer_config.json", '{"additional_special_tokens":"x"}', "additional_special_tokens is not a list"},
      {"tokenizer_config.json", '[]', "tokenizer_config.json: not an object"},
      {"added_tokens.json", '{"x":"y"}', 'added_tokens.json: token "x" has no id'},
    } do
      local texts = texts_of {added = {}, files = {}}
      texts[case[1]] = case[2]
      with_folder(texts, function(dir)
        local tok, message, code = fp8llm.tokenizer(dir)
        assert.equal(nil, tok)
        assert.is_true(message:find(case[3], 1, true) ~= nil, message)
        assert.equal("FORMAT", code)
      end)
    end
  end)

  it("tell which ids are rows of the model without a token: they have no text", function()
    local texts = texts_of {added = {}, files = {}}
    texts["config.json"] = '{"vocab_size":300}'
    with_folder(texts, function(dir)
      local tok = assert(fp8llm.tokenizer(dir))
      local stream, x = tok:stream {}, tok:id "x"
      assert.equal("", tok:decode {259, 299})
      assert.equal("xx", tok:decode({x, 299, x}, {skip_special_tokens = true}))
      assert.equal("", stream:push(299))
      assert.equal("x", stream:push(x))
      local text, message, code = tok:decode {300}
      assert.same({nil, "token id 300 outside the vocabulary of 300", "ARG"}, {text, message, code})
    end)
  end)
end)
