-- What goes wrong in real quantized checkpoints (spec/lua/malformed_spec.lua has the rest): each is refused by
-- name, or loads with one warning that says what was done about it.
local fp8llm = require "fp8llm"
local files = dofile "spec/support/files.lua"
local tiny = dofile "spec/support/tiny_model.lua"
local broken = dofile "spec/support/broken.lua"(it, assert)

local folder = "build/spec/malformed-quant"
local layer = "model.layers.1."
local q_proj, k_proj = layer .. "self_attn.q_proj", layer .. "self_attn.k_proj"
local quantization, set, without, file, gone = broken.quantization, broken.set, broken.without, broken.file, broken.gone
local infinity, nan = "\0\0\128\127", "\0\0\192\127"

local function build(options, change) return {options = options, change = change} end

-- config_groups with other arguments for the weights or the inputs.
local function args(changes)
  local out = {num_bits = 8, type = "float", symmetric = true, strategy = "tensor", dynamic = false}
  for k, v in pairs(changes) do out[k] = v end
  return out
end

local function ct(weights, inputs, more)
  local c = {
    quant_method = "compressed-tensors", format = "float-quantized",
    config_groups = {group_0 = {targets = tiny.array {"Linear"}, weights = args(weights), input_activations = inputs}},
  }
  for k, v in pairs(more or {}) do c[k] = v end
  return quantization(c)
end

local function modelopt(algorithm)
  return file("hf_quant_config.json", '{"quantization":{"quant_algo":"' .. algorithm .. '"}}')
end

local function replace(name, find, text, options)
  return build(options, function(m)
    local t = assert(m:tensor(name), name)
    local at = assert(t.data:find(find, 1, true))
    t.data = t.data:sub(1, at - 1) .. text .. t.data:sub(at + #text)
  end)
end

local static, sparse = {quant = "fp8-static"}, {quant = "ct-dynamic", sparse = "24-bitmask"}
local general, old = {quant = "ct-dynamic", sparse = "bitmask"}, {sparse = "old-bitmask"}
local fused = {quant = "fp8-static", fused = "part"}
local kv, frozen = {quant = "fp8-static", kv_scales = true}, {quant = "ct-frozen"}

local refused = {
  {"int8 compressed-tensors", ct {type = "int"}, "UNSUPPORTED", "config_groups.group_0.weights", "8-bit int"},
  {"asymmetric weights", ct {symmetric = false}, "UNSUPPORTED", "asymmetric"},
  {"weights quantized on the fly", ct {dynamic = true}, "UNSUPPORTED", "weights", "dynamic"},
  {"weights in groups", ct {strategy = "group", group_size = 128}, "UNSUPPORTED", "strategy group"},
  {"int8 inputs", ct({}, args {type = "int"}), "UNSUPPORTED", "input_activations", "8-bit int"},
  {"inputs in groups of 64", ct({}, args {strategy = "group", group_size = 64, dynamic = true}), "UNSUPPORTED",
    "input_activations", "strategy group"},
  {"int-quantized", ct({}, nil, {format = "int-quantized"}), "UNSUPPORTED", "config.json", "int-quantized"},
  {"mxfp4", ct({}, nil, {format = "mxfp4-pack-quantized"}), "UNSUPPORTED", "config.json", "mxfp4-pack-quantized"},
  {"marlin-24", ct({}, nil, {format = "marlin-24"}), "UNSUPPORTED", "config.json", "marlin-24"},
  {"rotated weights", ct({}, nil, {transform_config = {config_groups = {}}}), "UNSUPPORTED", "transform_config"},
  {"a sparsity of another format", ct({}, nil, {sparsity_config = {format = "csr"}}), "UNSUPPORTED",
    "sparsity_config.format", "csr"},
  {"the older nesting around int4", {change = function(m)
    m.config.compression_config =
      {quantization_config = {quant_method = "compressed-tensors", format = "pack-quantized"}}
  end}, "UNSUPPORTED", "compression_config.quantization_config.format", "pack-quantized"},
  {"static block scales", quantization {quant_method = "fp8", activation_scheme = "static",
    weight_block_size = {128, 128}}, "UNSUPPORTED", "config.json", "activation_scheme", "weight_block_size"},
  {"half a block size", quantization {quant_method = "fp8", activation_scheme = "dynamic", weight_block_size = {128}},
    "FORMAT", "config.json", "weight_block_size"},
  {"another activation scheme", quantization {quant_method = "fp8", activation_scheme = "sometimes"}, "UNSUPPORTED",
    "activation_scheme", "sometimes"},
  {"AWQ", quantization {quant_method = "awq"}, "UNSUPPORTED", "quant_method", "awq"},
  {"MXFP4", quantization {quant_method = "mxfp4"}, "UNSUPPORTED", "quant_method", "mxfp4"},
  {"modelopt NVFP4 in config.json", quantization {quant_method = "modelopt", quant_algo = "NVFP4"}, "UNSUPPORTED",
    "config.json", "quant_algo", "NVFP4"},
  {"modelopt W4A8", modelopt "W4A8_AWQ", "UNSUPPORTED", "hf_quant_config.json", "quant_algo", "W4A8_AWQ"},
  {"modelopt MIXED_PRECISION", modelopt "MIXED_PRECISION", "UNSUPPORTED", "quant_algo", "MIXED_PRECISION"},
  {"a side file without its section", file("hf_quant_config.json", "{}"), "FORMAT", "hf_quant_config.json",
    "quantization"},
  {"TensorRT-LLM rank files", {change = function(m)
    m.config = {architecture = "LlamaForCausalLM", mapping = {world_size = 1}, quantization = {quant_algo = "FP8"}}
  end, after = function(dir) os.rename(dir .. "/model.safetensors", dir .. "/rank0.safetensors") end}, "UNSUPPORTED",
    "config.json", "TensorRT-LLM"},
  {"only .pth files", {after = function(dir)
    os.rename(dir .. "/model.safetensors", dir .. "/consolidated.00.pth")
  end}, "UNSUPPORTED", "consolidated.00.pth", "safetensors"},
  {"only a GGUF file, with config.json", {after = function(dir)
    os.rename(dir .. "/model.safetensors", dir .. "/model-q4.gguf")
  end}, "UNSUPPORTED", "model-q4.gguf", "safetensors"},
  {"only a GGUF file", {after = function(dir)
    os.rename(dir .. "/model.safetensors", dir .. "/model-q4.gguf")
    os.remove(dir .. "/config.json")
  end}, "UNSUPPORTED", "model-q4.gguf", "safetensors"},

  {"AMD's E5M2", build(static, function(m) m:tensor(q_proj .. ".weight").dtype = "F8_E5M2FNUZ" end), "UNSUPPORTED",
    q_proj .. ".weight", "F8_E5M2FNUZ"},
  {"4-bit weights", build({}, function(m)
    m:put(q_proj .. ".weight", "U8", {64, 32}, ("\0"):rep(64 * 32))
  end), "UNSUPPORTED", q_proj .. ".weight", "U8"},
  {"GPTQ tensors", build(static, function(m) m:tensor(q_proj .. ".weight").name = q_proj .. ".qweight" end),
    "UNSUPPORTED", q_proj .. ".qweight", "GPTQ"},
  {"an infinite weight scale", set(q_proj .. ".weight_scale", "F32", {}, infinity), "FORMAT", q_proj .. ".weight_scale",
    "inf"},
  {"a weight scale for each column", set(q_proj .. ".weight_scale", "F32", {1, 64}, ("\0\0\128\63"):rep(64)), "FORMAT",
    q_proj .. ".weight_scale", "[1,64]", "[64,64]"},
  {"E8M0 scales", set(q_proj .. ".weight_scale", "F8_E8M0", {1}, "\127"), "UNSUPPORTED", q_proj .. ".weight_scale",
    "F8_E8M0"},
  {"two input scales", set(q_proj .. ".input_scale", "F32", {2}, {1, 1}), "UNSUPPORTED", q_proj .. ".input_scale",
    "[2]"},
  {"a NaN input scale under its older name", build(static, function(m)
    m:remove(q_proj .. ".input_scale")
    m:put(q_proj .. ".act_scale", "F32", {}, nan)
  end), "FORMAT", q_proj .. ".act_scale", "nan"},
  {"a zero point", set(q_proj .. ".weight_zero_point", "I8", {1}, "\3"), "UNSUPPORTED", q_proj .. ".weight_zero_point",
    "symmetric"},
  {"a quantized lm_head without its scale", without("lm_head.weight_scale", {quant = "fp8-dynamic", quant_head = true}),
    "FORMAT", "lm_head.weight_scale"},
  {"a quantized lm_head without an input scale",
    without("lm_head.input_scale", {quant = "fp8-static", quant_head = true}), "FORMAT", "lm_head.input_scale",
    "static"},
  {"block scales of another size", build({quant = "fp8-block"}, function(m)
    m:put(q_proj .. ".weight_scale_inv", "F32", {2, 2}, {1, 1, 1, 1})
  end), "FORMAT", q_proj .. ".weight_scale_inv", "[2,2]", "[64,64]"},
  {"a plain weight whose scale is 0", build(frozen, function(m)
    m:put(q_proj .. ".weight_scale", "F32", {1}, {0})
  end), "FORMAT", q_proj .. ".weight_scale", "is 0"},

  {"a required attention bias that is missing", build({attention_bias = true}, function(m)
    m:remove(layer .. "self_attn.o_proj.bias")
  end), "FORMAT", layer .. "self_attn.o_proj.bias", "attention_bias"},
  {"attention biases that config.json adds", broken.config {attention_bias = true}, "FORMAT",
    "model.layers.0.self_attn.q_proj.bias", "attention_bias"},
  {"mlp biases that config.json adds", broken.config {mlp_bias = true}, "FORMAT", "model.layers.0.mlp.gate_proj.bias",
    "mlp_bias"},

  {"a fused weight of other heads", build(fused, function(m)
    m.config.num_key_value_heads = 4
  end), "FORMAT", "self_attn.qkv_proj.weight", "[128,64]", "[192,64]"},
  {"a fused weight with a scale too few", build(fused, function(m)
    m:put(layer .. "mlp.gate_up_proj.weight_scale", "F32", {3}, {1, 1, 1})
  end), "FORMAT", layer .. "mlp.gate_up_proj.weight_scale", "[3]", "[256,64]"},
  {"a fused weight without its input scale", without(layer .. "self_attn.qkv_proj.input_scale", fused), "FORMAT",
    layer .. "self_attn.qkv_proj.input_scale", "static"},

  {"a bitmask that is missing", without(q_proj .. ".bitmask", sparse), "FORMAT", q_proj .. ".compressed",
    q_proj .. ".bitmask"},
  {"a bitmask with three bits in a group", build(sparse, function(m)
    local t = m:tensor(q_proj .. ".bitmask")
    t.data = "\7" .. t.data:sub(2)
  end), "FORMAT", q_proj .. ".bitmask", "row 0"},
  {"a bitmask of another width", build(sparse, function(m)
    m:tensor(q_proj .. ".bitmask").shape = tiny.array {32, 16}
  end), "FORMAT", q_proj .. ".bitmask", "[32,16]", "64 x 64"},
  {"compressed values of another size", build(sparse, function(m)
    m:tensor(q_proj .. ".compressed").shape = tiny.array {32, 64}
  end), "FORMAT", q_proj .. ".compressed", "[32,64]", "64 x 64"},
  {"a shape of another weight", replace(q_proj .. ".shape", "\64\0", "\32\0", sparse), "FORMAT", q_proj .. ".bitmask",
    "32 x 64"},
  {"row offsets of another bitmask", replace(k_proj .. ".row_offsets", ("\0"):rep(8), "\1", general), "FORMAT",
    k_proj .. ".row_offsets", "row 0"},
  {"a compressed norm of another size", build(old, function(m)
    m:tensor("model.norm.weight.shape").data = "\63" .. ("\0"):rep(7)
  end), "FORMAT", "model.norm.weight", "64"},
  {"NaN among compressed values", build(sparse, function(m)
    local t = m:tensor(q_proj .. ".compressed")
    t.data = "\127" .. t.data:sub(2)
  end), "FORMAT", q_proj .. ".compressed", "1 of 4096", "NaN"},

  {"a NaN KV scale", build(kv, function(m) m:put(layer .. "self_attn.k_scale", "F32", {}, nan) end), "FORMAT",
    layer .. "self_attn.k_scale", "nan"},
  {"no tokens of one rope type", broken.config {rope_parameters = {type = "longrope", factor = 4}}, "UNSUPPORTED",
    "rope_parameters.rope_type", "longrope"},
  {"rope_parameters that are no object", broken.config {rope_parameters = "llama3"}, "FORMAT", "rope_parameters"},
  {"a shard named by the index that only its older form has", gone("model-00001-of-00002.safetensors", {shards = 2}),
    "IO", "model-00001-of-00002.safetensors"},
}

local function ignore(list, options)
  return build(options or static, function(m) m.config.quantization_config.ignored_layers = tiny.array(list) end)
end

local warned = {
  {"a zero scale of a zero weight", build(static, function(m)
    m:tensor(q_proj .. ".weight").data = ("\0\128"):rep(32 * 64)
    m:put(q_proj .. ".weight_scale", "F32", {}, {0})
  end)},
  {"an empty sparsity_config", build({quant = "ct-dynamic"}, function(m)
    m.config.quantization_config.sparsity_config = {}
  end)},
  {"an unstructured sparsity_config", build({quant = "ct-dynamic"}, function(m)
    m.config.quantization_config.sparsity_config = {format = "dense", sparsity_structure = "unstructured"}
  end)},
  {"an extra consolidated file", {options = static, after = function(dir)
    files.write(dir .. "/consolidated.safetensors", "no safetensors")
  end}},
  {"2:4 that is not", build({quant = "ct-dynamic", sparse = "dense"}, function(m)
    local t = m:tensor(q_proj .. ".weight")
    t.data = t.data:sub(1, 128) .. "\56\56\56\56" .. t.data:sub(133)
  end), "1 linears are not 2:4 as declared and run dense", q_proj .. ".weight: row 2, columns 0 to 3"},
  {"2:4 declared of others", build({quant = "ct-dynamic"}, function(m)
    m.config.quantization_config.sparsity_config =
      {format = "dense", sparsity_structure = "2:4", targets = tiny.array {"re:.*none"}}
  end)},
  {"an FP8 cache declared without scales", build(static, function(m)
    m.config.quantization_config.kv_cache_scheme = "static"
  end), "2 of 2 layers have no KV scales", "scale 1"},
  {"KV scales that are not set", build(kv, function(m)
    for i = 0, 1 do
      for _, name in ipairs {"k_scale", "v_scale"} do
        m:put("model.layers." .. i .. ".self_attn." .. name, "F32", {}, {-1})
      end
    end
  end), "2 of 2 layers have no KV scales"},
  {"a KV scale for each head", build(kv, function(m)
    m:put(layer .. "self_attn.v_scale", "F32", {2, 1, 1}, {1, 1})
  end), layer .. "self_attn.v_scale", "[2,1,1]", "a KV scale for each head", "BF16"},
  {"a KV cache of another type", build({quant = "ct-static"}, function(m)
    m.config.quantization_config.kv_cache_scheme = args {type = "int"}
  end), "KV cache scheme of 8-bit int", "BF16"},
  {"scales of a layer that stayed plain", build({}, function(m)
    m:put(q_proj .. ".weight_scale", "F32", {}, {1})
  end), "1 scales of weights that are not F8_E4M3", q_proj .. ".weight_scale"},
  {"FP8 that config.json does not tell of", build(static, function(m) m.config.quantization_config = nil end),
    "config.json tells of no quantization", "14 weights"},
  {"quantization that the tensors do not show", quantization {quant_method = "fp8", activation_scheme = "static"},
    "no weight is F8_E4M3", "autofp8"},
  {"an expression that lists what is quantized", ignore {"lm_head", "re:model\\.layers\\.[01]\\.mlp\\..*_proj"},
    "6 modules listed as not quantized", "model.layers.0.mlp.gate_proj.weight"},
  {"an expression that cannot be read", ignore {"lm_head", "re:model.(layers"}, "config.json", "re:model.(layers"},
  {"the head by another name", ignore {"model.lm_head"}},
  {"a plain linear that is not listed", build(static, function(m)
    m:put(q_proj .. ".weight", "BF16", {64, 64}, ("\0"):rep(8192))
    m:remove(q_proj .. ".weight_scale")
  end), "1 linears not listed as left out", q_proj .. ".weight", "BF16"},
  {"a side file that contradicts config.json", {options = static, after = modelopt "NVFP4".after},
    "hf_quant_config.json", "NVFP4", "ignored"},
  {"a tensor the index does not place", {options = {quant = "fp8-static", shards = 2}, after = broken.rewrite(
    "model.safetensors.index.json",
    function(text) return (text:gsub('"lm_head.weight":"[^"]*",?', '', 1)) end).after, change = function(m)
      m.config.tie_word_embeddings = true
    end}, "1 tensors", "lm_head.weight"},
}

describe("a broken quantized checkpoint", function()
  broken.refused(folder, refused)
end)

describe("a peculiar quantized checkpoint", function()
  broken.warned(folder .. "-warned", warned)

  it("loads with a KV cache that does not need the scales at fault", function()
    local dir = folder .. "-kv"
    local m = tiny.build(kv)
    m:put(layer .. "self_attn.v_scale", "F32", {2, 1, 1}, {1, 1})
    m:write(dir)
    local model = assert(fp8llm.load(dir, {context = 64, kv = "bf16"}))
    assert.equal("BF16", model:info().kv_dtype)
    model:close()
  end)
end)
