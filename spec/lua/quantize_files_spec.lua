-- What fp8llm.quantize puts beside the weights, and what it says of others who read the result.
local fp8llm = require "fp8llm"
local files = dofile "spec/support/files.lua"
local tiny = dofile "spec/support/tiny_model.lua"
local cli = dofile "spec/support/run.lua" "lua/fp8llm/cli.lua"

local src, dst = "build/spec/quantize-files-src", "build/spec/quantize-files-dst"

local function fresh(options, change)
  os.execute("rm -rf " .. src .. " " .. dst .. " " .. dst .. ".tmp")
  local m = tiny.build(options)
  if change then change(m) end
  m:write(src)
end

describe("a quantized copy", function()
  it("has every file that loaders read, and no other weights", function()
    fresh {tied = true}
    local copied = {"chat_template.jinja", "chat_template.json", "added_tokens.json", "special_tokens_map.json",
      "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "qwen.tiktoken", "tekken.json",
      "preprocessor_config.json", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md",
      "additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja"}
    local left = {"README.md", "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth",
      "model.gguf", ".gitattributes", "flax_model.msgpack", "model.onnx", "original/params.json",
      "additional_chat_templates/notes.txt"}
    os.execute("mkdir -p " .. src .. "/additional_chat_templates " .. src .. "/original")
    for _, name in ipairs(copied) do files.write(src .. "/" .. name, "text of " .. name) end
    for _, name in ipairs(left) do files.write(src .. "/" .. name, "x") end
    assert(fp8llm.quantize {src = src, dst = dst, scheme = "fp8-dynamic"})
    for _, name in ipairs(copied) do assert.equal("text of " .. name, files.read(dst .. "/" .. name)) end
    for _, name in ipairs(left) do assert.equal(nil, (files.read(dst .. "/" .. name))) end
  end)
  it("answers with the named templates of its source", function()
    fresh {tied = true}
    os.execute("mkdir -p " .. src .. "/additional_chat_templates")
    files.write(src .. "/additional_chat_templates/tool_use.jinja", "tools: {{ tools | length }}")
    assert(fp8llm.quantize {src = src, dst = dst, scheme = "fp8-dynamic"})
    local messages = {{role = "user", content = "x"}}
    local function render(dir)
      local model = assert(fp8llm.load(dir, {context = 64}))
      local text = assert(assert(model:template "tool_use"):render(messages, {tools = {{type = "function"}}}))
      model:close()
      return text
    end
    assert.equal("tools: 1", render(src))
    assert.equal("tools: 1", render(dst))
  end)
  it("leaves nothing behind where it cannot be made", function()
    fresh {tied = true}
    os.execute("mkdir -p " .. dst .. ".tmp/additional_chat_templates && touch " .. dst
      .. ".tmp/additional_chat_templates/old.jinja")
    assert(fp8llm.quantize {src = src, dst = dst, scheme = "fp8-dynamic"})
    assert.equal(nil, (files.read(dst .. "/additional_chat_templates/old.jinja")))
  end)
  it("of a head alone, and of names without a prefix, is called as others expect it", function()
    for _, change in ipairs {
      function(m) m:tensor("model.embed_tokens.weight").name = "lm_head.weight" end,
      function(m) for _, t in ipairs(m.tensors) do t.name = t.name:gsub("^model%.", "") end end,
    } do
      fresh({tied = true}, change)
      assert(fp8llm.quantize {src = src, dst = dst, scheme = "fp8-dynamic"})
      local st = assert(fp8llm.safetensors(dst .. "/model.safetensors"))
      assert(st:tensor "model.embed_tokens.weight")
      assert(st:tensor "model.layers.0.mlp.up_proj.weight_scale")
      st:close()
    end
  end)
end)

describe("what others cannot load", function()
  local sizes = {tied = true, hidden = 128, ffn = 128, heads = 2, kv_heads = 2}
  local function warnings(options, ...)
    fresh(options)
    local _, err, status = cli("quantize", src, dst, ...)
    assert.equal(0, status)
    return err
  end
  local cases = {
    {"a part of what runs as one", sizes, {"--ignore", "model.layers.0.self_attn.k_proj"}, "self_attn.q_proj"},
    {"gate without up", sizes, {"--ignore", "model.layers.1.mlp.up_proj"}, "mlp.gate_proj"},
    {"sizes of FP8 products", {tied = true, hidden = 72, ffn = 136, heads = 9, kv_heads = 9}, {}, "hidden_size 72"},
    {"2:4", sizes, {"--sparse", "2:4", "--sparse-method", "magnitude"}, "2:4"},
  }
  for _, case in ipairs(cases) do
    it("is told: " .. case[1], function()
      local unpack = unpack or table.unpack -- luacheck: ignore 143
      local err = warnings(case[2], "--scheme", "fp8-dynamic", unpack(case[3]))
      assert.is_true(err:find(case[4], 1, true) ~= nil)
      assert.is_true(err:find("vLLM", 1, true) ~= nil)
    end)
  end
  it("and nothing is told of what they can", function()
    local err = warnings(sizes, "--scheme", "fp8-dynamic", "--ignore", "re:.*layers.0.self_attn.*")
    assert.equal(nil, err:find("warn", 1, true))
    assert.equal(nil, warnings(sizes, "--scheme", "fp8-block"):find("warn", 1, true))
  end)
end)
