-- Broken checkpoints: each is a tiny valid one with one thing wrong, and each must be
-- refused with nil, a message that names the file and the tensor or field, and a code.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local broken = dofile "spec/support/broken.lua"(it, assert)

local folder = "build/spec/malformed"
local q_proj = "model.layers.1.self_attn.q_proj"
local config, quantization, tensor, set = broken.config, broken.quantization, broken.tensor, broken.set
local without, file, rewrite, gone, header = broken.without, broken.file, broken.rewrite, broken.gone, broken.header

local weights_int4 = {num_bits = 4, type = "int", symmetric = true, strategy = "group", group_size = 128}
local lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456\n"
local shard = "model-00002-of-00003.safetensors"
local nan_bf16, nan_f32, minus_one = "\192\127", "\0\0\192\127", tiny.pack("F32", {-1})

-- {what, how it is broken, code, what the message must hold...}
local cases = {
  {"no config.json", gone "config.json", "IO", "config.json"},
  {"empty config.json", file("config.json", ""), "FORMAT", "config.json", "line 1"},
  {"half a config.json", rewrite("config.json", function(s) return s:sub(1, 100) end), "FORMAT", "config.json"},
  {"config.json with 2000 levels", file("config.json", ("["):rep(2000) .. ("]"):rep(2000)), "LIMIT", "config.json",
    "deep"},
  {"config.json is a list", file("config.json", "[]"), "FORMAT", "config.json", "object"},
  {"config.json not UTF-8", file("config.json", '{"model_type":"\255"}'), "FORMAT", "config.json", "UTF-8"},
  {"another model", config {model_type = "mistral"}, "UNSUPPORTED", "config.json", "model_type", "mistral"},
  {"another architecture", config {architectures = {"LlamaForSequenceClassification"}}, "UNSUPPORTED",
    "architectures", "LlamaForSequenceClassification"},
  {"another activation", config {hidden_act = "gelu"}, "UNSUPPORTED", "config.json", "hidden_act", "gelu"},
  {"another rope type", config {rope_scaling = {rope_type = "yarn", factor = 4}}, "UNSUPPORTED", "rope_scaling",
    "yarn"},
  {"llama3 rope without a factor", config {rope_scaling = {rope_type = "llama3"}}, "FORMAT", "rope_scaling.factor"},
  {"heads that do not divide", config {num_key_value_heads = 3}, "FORMAT", "num_attention_heads 4",
    "num_key_value_heads 3"},
  {"an odd head_dim", config {head_dim = 15}, "FORMAT", "config.json", "head_dim 15"},
  {"no layers", config {num_hidden_layers = 0}, "FORMAT", "config.json", "num_hidden_layers", "got 0"},
  {"a negative size", config {hidden_size = -64}, "FORMAT", "config.json", "hidden_size", "-64"},
  {"a huge size", config {intermediate_size = 1e15}, "FORMAT", "config.json", "intermediate_size"},
  {"a size as text", config {vocab_size = "272"}, "FORMAT", "config.json", "vocab_size", '"272"'},
  {"a bad generation_config.json", file("generation_config.json", '{"eos_token_id": {}}'), "FORMAT",
    "generation_config.json", "eos_token_id"},

  {"GPTQ", quantization {quant_method = "gptq", bits = 4}, "UNSUPPORTED", "config.json", "quant_method", "gptq"},
  {"no quant_method", quantization {bits = 4}, "FORMAT", "config.json", "quant_method"},
  {"no activation scheme", quantization {quant_method = "fp8"}, "FORMAT", "config.json", "activation_scheme"},
  {"blocks of 64 columns", quantization {quant_method = "fp8", activation_scheme = "dynamic",
    weight_block_size = {128, 64}}, "UNSUPPORTED", "config.json", "weight_block_size", "64 columns"},
  {"int4 compressed-tensors", quantization {quant_method = "compressed-tensors", format = "float-quantized",
    config_groups = {group_0 = {weights = weights_int4}}}, "UNSUPPORTED", "config_groups.group_0.weights", "4-bit int"},
  {"packed compressed-tensors", quantization {quant_method = "compressed-tensors", format = "nvfp4-pack-quantized"},
    "UNSUPPORTED", "config.json", "nvfp4-pack-quantized"},
  {"another sparsity format", quantization {quant_method = "compressed-tensors", format = "float-quantized",
    sparsity_config = {format = "marlin-24"}}, "UNSUPPORTED", "config.json", "sparsity_config.format", "marlin-24"},
  {"modelopt NVFP4", file("hf_quant_config.json", '{"quantization":{"quant_algo":"NVFP4"}}'), "UNSUPPORTED",
    "hf_quant_config.json", "quant_algo", "NVFP4"},

  {"no weights", gone "model.safetensors", "IO", "model.safetensors"},
  {"only pickle files", {after = function(dir)
    os.rename(dir .. "/model.safetensors", dir .. "/pytorch_model.bin")
  end}, "UNSUPPORTED", "pytorch_model.bin"},
  {"a git-lfs pointer", file("model.safetensors", lfs), "FORMAT", "model.safetensors", "git-lfs", "123456"},
  {"a git-lfs pointer for a shard", file(shard, lfs, {shards = 3}), "FORMAT", shard, "git-lfs", "123456"},
  {"an empty file", file("model.safetensors", ""), "FORMAT", "model.safetensors", "0 bytes"},
  {"seven bytes", file("model.safetensors", ("\1"):rep(7)), "FORMAT", "model.safetensors", "7 bytes"},
  {"a header of 2^63 bytes", rewrite("model.safetensors", function(s) return ("\0"):rep(7) .. "\128" .. s:sub(9) end),
    "FORMAT", "model.safetensors", "9223372036854775808"},
  {"a header past the end", file("model.safetensors", "\99\0\0\0\0\0\0\0{}"), "FORMAT", "model.safetensors",
    "10 bytes"},
  {"a header that is no JSON", header('{"__metadata__"', '{ __metadata__ '), "FORMAT", "model.safetensors", "JSON"},
  {"a header not UTF-8", header("model.norm.weight", "model.norm.w\255ight"), "FORMAT", "model.safetensors", "UTF-8"},
  {"a NUL in a name", header("model.norm.weight", "model.norm.w\0ight"), "FORMAT", "model.safetensors", "control"},
  {"an unknown dtype", header('"dtype":"BF16"', '"dtype":"BF61"'), "FORMAT", "model.safetensors", "BF61"},
  {"no dtype", header('"dtype":"BF16"', '"dtipe":"BF16"'), "FORMAT", "model.embed_tokens.weight", "dtype is missing"},
  {"a negative dimension", header('"shape":[64]', '"shape":[-4]'), "FORMAT", "input_layernorm.weight", "shape"},
  {"a shape that does not fit its bytes", header('"shape":[64]', '"shape":[63]'), "FORMAT", "input_layernorm.weight",
    "[63]", "126", "128"},
  {"offsets that overlap", header('[0,34816]', '[0,34815]'), "FORMAT", "model.layers.0.input_layernorm.weight",
    "34815"},
  {"a name twice", header("model.layers.1.input_layernorm.weight", "model.layers.0.input_layernorm.weight"), "FORMAT",
    "model.safetensors", "model.layers.0.input_layernorm.weight", "twice"},
  {"a truncated file", rewrite("model.safetensors", function(s) return s:sub(1, -101) end), "FORMAT",
    "model.safetensors", "the file has"},
  {"bytes left over", rewrite("model.safetensors", function(s) return s .. "x" end), "FORMAT", "model.safetensors",
    "the file has"},
  {"a truncated shard", rewrite(shard, function(s) return s:sub(1, -2) end, {shards = 3}), "FORMAT", shard,
    "the file has"},
  {"a missing shard", gone(shard, {shards = 3}), "IO", shard},
  {"an index that is no JSON", file("model.safetensors.index.json", "{", {shards = 3}), "FORMAT",
    "model.safetensors.index.json"},
  {"an index without weight_map", file("model.safetensors.index.json", "{}", {shards = 3}), "FORMAT",
    "model.safetensors.index.json", "weight_map"},
  {"an index that leaves the folder", file("model.safetensors.index.json",
    '{"weight_map":{"model.norm.weight":"../x.safetensors"}}', {shards = 3}), "FORMAT",
    "model.safetensors.index.json", "model.norm.weight", "../x.safetensors"},
  {"an index that names a tensor its shard lacks", rewrite("model.safetensors.index.json", function(s)
    return (s:gsub("model%.norm%.weight", "model.morn.weight"))
  end, {shards = 3}), "FORMAT", "model.safetensors.index.json", "model.morn.weight", "model-00003-of-00003"},

  {"no embedding", without "model.embed_tokens.weight", "FORMAT", "model.embed_tokens.weight"},
  {"no final norm", without "model.norm.weight", "FORMAT", "model.norm.weight"},
  {"no up_proj", without "model.layers.1.mlp.up_proj.weight", "FORMAT", "model.layers.1.mlp.up_proj.weight"},
  {"no lm_head", without("lm_head.weight", {}), "FORMAT", "lm_head.weight", "tie_word_embeddings"},
  {"fewer rows than the vocabulary", config {vocab_size = 273}, "FORMAT", "model.safetensors",
    "model.embed_tokens.weight", "[272,64]", "273"},
  {"another hidden size", config {hidden_size = 68, head_dim = 16}, "FORMAT", "model.safetensors", "[272,64]", "68"},
  {"another ffn size", config {intermediate_size = 130}, "FORMAT", "model.layers.0.mlp.gate_proj.weight",
    "[128,64]", "130"},
  {"more layers than there are", config {num_hidden_layers = 3}, "FORMAT", "model.layers.2.input_layernorm.weight"},
  {"a transposed q_proj", tensor("model.layers.0.self_attn.k_proj.weight", function(t)
    t.shape = {64, 32}
  end), "FORMAT", "model.safetensors", "model.layers.0.self_attn.k_proj.weight", "[64,32]", "[32,64]"},
  {"a norm of another size", set("model.norm.weight", "BF16", {2}, {1, 1}), "FORMAT", "model.norm.weight", "[2]", "64"},
  {"a norm of integers", set("model.norm.weight", "U8", {64}, ("\1"):rep(64)), "UNSUPPORTED", "model.norm.weight",
    "U8"},
  {"a bias of another size", {options = {attention_bias = true}, change = function(m)
    m:put(q_proj .. ".bias", "BF16", {3}, {0, 0, 0})
  end}, "FORMAT", q_proj .. ".bias", "[3]", "[64]"},
  {"int8 weights", tensor(q_proj .. ".weight", function(t) t.dtype = "I8" end), "UNSUPPORTED", q_proj .. ".weight",
    "I8"},
  {"AMD's E4M3", tensor(q_proj .. ".weight", function(t) t.dtype = "F8_E4M3FNUZ" end), "UNSUPPORTED",
    q_proj .. ".weight", "F8_E4M3FNUZ"},
  {"E5M2 weights", tensor(q_proj .. ".weight", function(t) t.dtype = "F8_E5M2" end), "UNSUPPORTED",
    q_proj .. ".weight", "F8_E5M2"},
  {"NaN codes", tensor(q_proj .. ".weight", function(t) t.data = "\127\255" .. t.data:sub(3) end), "FORMAT",
    "model.safetensors", q_proj .. ".weight", "2 of 4096", "NaN"},
  {"no weight scale", without(q_proj .. ".weight_scale"), "FORMAT", "model.safetensors", q_proj .. ".weight_scale"},
  {"a NaN weight scale", set(q_proj .. ".weight_scale", "F32", {}, nan_f32), "FORMAT", q_proj .. ".weight_scale",
    "nan"},
  {"a NaN BF16 weight scale", set(q_proj .. ".weight_scale", "BF16", {1}, nan_bf16), "FORMAT",
    q_proj .. ".weight_scale", "nan"},
  {"a zero weight scale", set(q_proj .. ".weight_scale", "F32", {}, {0}), "FORMAT", q_proj .. ".weight_scale", "is 0"},
  {"a negative weight scale", set(q_proj .. ".weight_scale", "F32", {1}, minus_one), "FORMAT",
    q_proj .. ".weight_scale", "is -1"},
  {"three weight scales", set(q_proj .. ".weight_scale", "F32", {3}, {1, 1, 1}), "FORMAT",
    q_proj .. ".weight_scale", "[3]", "[64,64]"},
  {"an integer weight scale", set(q_proj .. ".weight_scale", "U8", {1}, "\1"), "UNSUPPORTED",
    q_proj .. ".weight_scale", "U8"},
  {"no input scale", without(q_proj .. ".input_scale"), "FORMAT", "model.safetensors", q_proj .. ".input_scale",
    "static"},
  {"a zero input scale", set(q_proj .. ".input_scale", "F32", {}, {0}), "FORMAT", q_proj .. ".input_scale", "is 0"},
  {"packed weights", {options = {quant = "fp8-static"}, change = function(m)
    m:tensor(q_proj .. ".weight").name = q_proj .. ".weight_packed"
  end}, "UNSUPPORTED", q_proj .. ".weight_packed"},
  {"compressed weights", {options = {quant = "fp8-static"}, change = function(m)
    m:tensor(q_proj .. ".weight").name = q_proj .. ".compressed"
  end}, "FORMAT", q_proj .. ".compressed", q_proj .. ".shape"},
}

describe("a broken checkpoint", function()
  it("cannot be a folder that is not there", function()
    local model, message, code = fp8llm.load(folder .. "/nowhere")
    assert.equal(nil, model)
    assert.equal("IO", code)
    assert.is_true(message:find("nowhere", 1, true) ~= nil)
  end)

  broken.refused(folder, cases)

  it("is valid before it is broken", function()
    local options = {{}, {shards = 3}, {quant = "fp8-static"}, {quant = "fp8-dynamic", tied = true},
      {quant = "ct-static"}, {quant = "ct-dynamic", dtype = "F16"}, {quant = "modelopt", kv_scales = true}}
    for i, o in ipairs(options) do
      local dir = folder .. "/valid" .. i
      tiny.write(dir, o)
      local model, message = fp8llm.load(dir, {context = 64})
      assert.equal(nil, message)
      assert.equal(272, #model:sequence():feed {262, 72, 105})
      model:close()
      os.execute("rm -rf '" .. dir .. "'")
    end
  end)
end)
