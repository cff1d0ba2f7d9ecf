--- Published Llama shapes by name, as the config.json of a model without weights: for
-- benchmarks with load_format = "dummy" and for plans of memory.
local json = require "fp8llm.json"

local shapes = {}

local llama3 = {vocab = 128256, theta = 500000}
local function llama31(factor)
  return {rope_type = "llama3", factor = factor, low_freq_factor = 1, high_freq_factor = 4,
    original_max_position_embeddings = 8192}
end

-- hidden, intermediate, layers, heads, KV heads, context
local known = {
  ["llama-2-7b"] = {4096, 11008, 32, 32, 32, 4096, vocab = 32000, theta = 10000},
  ["llama-3-8b"] = {4096, 14336, 32, 32, 8, 8192},
  ["llama-3-70b"] = {8192, 28672, 80, 64, 8, 8192},
  ["llama-3.1-8b"] = {4096, 14336, 32, 32, 8, 131072, rope = llama31(8)},
  ["llama-3.1-70b"] = {8192, 28672, 80, 64, 8, 131072, rope = llama31(8)},
  ["llama-3.1-405b"] = {16384, 53248, 126, 128, 8, 131072, rope = llama31(8)},
  ["llama-3.2-1b"] = {2048, 8192, 16, 32, 8, 131072, rope = llama31(32), tied = true},
  ["llama-3.2-3b"] = {3072, 8192, 28, 24, 8, 131072, rope = llama31(32), tied = true},
  ["smollm2-135m"] = {576, 1536, 30, 9, 3, 8192, vocab = 49152, theta = 100000, tied = true},
  ["smollm2-360m"] = {960, 2560, 32, 15, 5, 8192, vocab = 49152, theta = 100000, tied = true},
  ["smollm2-1.7b"] = {2048, 8192, 24, 32, 32, 8192, vocab = 49152, theta = 130000, tied = true},
}

--- The names, sorted.
function shapes.names()
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- A config.json as a table, in BF16; nil and a message for a name that is not known.
function shapes.config(name)
  local s = known[name]
  if not s then return nil, "no shape '" .. name .. "', there are " .. table.concat(shapes.names(), " ") end
  return {
    architectures = json.array {"LlamaForCausalLM"}, model_type = "llama", torch_dtype = "bfloat16",
    hidden_size = s[1], intermediate_size = s[2], num_hidden_layers = s[3], num_attention_heads = s[4],
    num_key_value_heads = s[5], max_position_embeddings = s[6], vocab_size = s.vocab or llama3.vocab,
    rope_theta = s.theta or llama3.theta, rope_scaling = s.rope, tie_word_embeddings = s.tied or false,
    hidden_act = "silu", rms_norm_eps = 1e-5,
  }
end

local function args(strategy, dynamic)
  return {num_bits = 8, type = "float", symmetric = true, strategy = strategy, dynamic = dynamic}
end

local function by_row(sparsity)
  return {
    quant_method = "compressed-tensors", format = "float-quantized", ignore = json.array {"lm_head"},
    config_groups = {group_0 = {
      targets = json.array {"Linear"}, weights = args("channel", false), input_activations = args("token", true),
    }},
    sparsity_config = sparsity,
  }
end

-- Number formats: torch_dtype, and the quantization_config where there is one.
local dtypes = {
  bf16 = {"bfloat16"},
  f16 = {"float16"},
  fp8 = {"bfloat16", {quant_method = "fp8", activation_scheme = "static", ignored_layers = json.array {"lm_head"}}},
  ["fp8-dynamic"] = {"bfloat16", by_row(nil)},
  ["fp8-2of4"] = {"bfloat16", by_row {
    format = "dense", sparsity_structure = "2:4", targets = json.array {"Linear"}, ignore = json.array {"lm_head"},
  }},
  ["fp8-block"] = {"bfloat16", {
    quant_method = "fp8", activation_scheme = "dynamic", weight_block_size = json.array {128, 128},
  }},
}
shapes.dtypes = {"bf16", "f16", "fp8", "fp8-dynamic", "fp8-block", "fp8-2of4"}

--- Change a configuration to another number format; nil and a message for one not known.
function shapes.set_dtype(config, dtype)
  local d = dtypes[dtype]
  if not d then return nil, "no dtype '" .. dtype .. "', there are " .. table.concat(shapes.dtypes, " ") end
  config.torch_dtype, config.quantization_config = d[1], d[2]
  config.dtype, config.compression_config = nil, nil
  return config
end

return shapes
