-- tiny_model.lua - tiny random Llama checkpoints for the tests, in every layout we read.
--
--   local tiny = dofile("spec/support/tiny_model.lua")
--   tiny.write(dir, {layers = 2, quant = "fp8-static", shards = 3})      -- straight to disk
--   local m = tiny.build(options)                                         -- or change it first:
--   m:tensor("model.norm.weight").shape = {1}   m.config.hidden_size = nil   m:write(dir)
--
-- or from a shell: luajit spec/support/tiny_model.lua DIR layers=2 quant=fp8-static
--
-- Pure Lua, the same bytes on LuaJIT and Lua 5.1 to 5.4 for the same options (below).
-- Weights keep activations near 1, so that the logits are neither flat nor overflowing.
local files = dofile "spec/support/files.lua"

local tiny = {}

local defaults = {
  seed = 1,
  vocab = 272, -- the tokenizer has 266 tokens; ids above them are padding
  hidden = 64,
  ffn = 128,
  layers = 2,
  heads = 4,
  kv_heads = 2,
  head_dim = nil, -- hidden / heads; any even number
  context = 512, -- max_position_embeddings
  theta = 10000,
  rope = nil, -- "llama3", "linear"
  dtype = "BF16", -- BF16, F16, F32
  quant = nil, -- a name of `recipes` below
  scale_dtype = "F32", -- of weight and input scales
  scale_ub = 1200, -- FBGEMM's bound on a token's absmax
  kv_scales = false, -- keys and values in FP8, with calibrated scales; a number: times that
  kv_names = nil, -- how they are spelled, a name of `kv_spellings` below; nil: as the layout does
  split_scales = false, -- q, k, v (and gate, up) with different static input scales
  fused = nil, -- qkv_proj and gate_up_proj as one tensor: "tensor" (one scale), "part" (one a part)
  quant_head = false, -- lm_head as the other linears
  sparse = nil, -- 2:4: "dense", "24-bitmask", "bitmask", "old-bitmask" (all tensors, not with quant)
  nested = false, -- the older compression_config
  tied = false,
  attention_bias = false,
  mlp_bias = false,
  shards = 1,
  tokenizer = true, -- tokenizer.json and tokenizer_config.json
}

-- JSON ---------------------------------------------------------------------------------------

tiny.null = setmetatable({}, { __tostring = function() return "null" end })
local array_mark = {}

--- A table that is written as a JSON array even when it is empty.
function tiny.array(t) return setmetatable(t, array_mark) end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quote(s)
  return '"' .. s:gsub('[%c"\\]', function(c)
    return escapes[c] or string.format("\\u%04x", c:byte())
  end) .. '"'
end

local function is_array(t) return getmetatable(t) == array_mark or t[1] ~= nil end

--- JSON text of a value; object members sorted by name.
function tiny.json(v)
  if v == tiny.null then return "null" end
  if type(v) == "string" then return quote(v) end
  if type(v) == "number" then
    return v == math.floor(v) and string.format("%.0f", v) or string.format("%.17g", v)
  end
  if type(v) ~= "table" then return tostring(v) end
  local out = {}
  if is_array(v) then
    for i, item in ipairs(v) do out[i] = tiny.json(item) end
    return "[" .. table.concat(out, ",") .. "]"
  end
  local keys = {}
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys)
  for i, k in ipairs(keys) do out[i] = quote(k) .. ":" .. tiny.json(v[k]) end
  return "{" .. table.concat(out, ",") .. "}"
end

-- Numbers ------------------------------------------------------------------------------------

-- layout of the files; scheme of the inputs; what shares a weight scale; frozen: weights left plain
local recipes = {
  ["fp8-static"] = { layout = "autofp8", act = "static", grain = "tensor" },
  ["fp8-dynamic"] = { layout = "autofp8", act = "token", grain = "tensor" },
  ["fp8-block"] = { layout = "autofp8", act = "group", grain = "block" },
  ["ct-static"] = { layout = "ct", act = "static", grain = "tensor" },
  ["ct-dynamic"] = { layout = "ct", act = "token", grain = "row" },
  ["ct-block"] = { layout = "ct", act = "group", grain = "block" },
  ["ct-weight-only"] = { layout = "ct", grain = "row" },
  ["ct-frozen"] = { layout = "ct", act = "static", grain = "tensor", frozen = true },
  ["modelopt"] = { layout = "modelopt", act = "static", grain = "tensor", algo = "FP8" },
  ["modelopt-rows"] = { layout = "modelopt", act = "token", grain = "row", algo = "FP8_PER_CHANNEL_PER_TOKEN" },
  ["modelopt-block"] = { layout = "modelopt", grain = "block", algo = "FP8_PB_WO" },
  ["fbgemm"] = { layout = "fbgemm", act = "token", grain = "row" },
}

local kv_spellings = {
  self_attn = { "k_scale", "v_scale" },
  proj = { "k_proj.k_scale", "v_proj.v_scale" },
  output = { "k_proj.output_scale", "v_proj.output_scale" },
  qkv = { "qkv_proj.k_scale", "qkv_proj.v_scale" },
  attn = { "attn.k_scale", "attn.v_scale" },
  both = { "kv_scale" },
  only_v = { nil, "v_scale" },
}

local formats = { -- mantissa bits, smallest normal exponent, bytes, largest code
  F32 = { 23, -126, 4, 0x7f7fffff },
  BF16 = { 7, -126, 2, 0x7f7f },
  F16 = { 10, -14, 2, 0x7bff },
  F8_E4M3 = { 3, -6, 1, 0x7e },
}

local function half_even(x)
  local n = math.floor(x)
  local rest = x - n
  if rest > 0.5 or (rest == 0.5 and n % 2 == 1) then n = n + 1 end
  return n
end

-- The exponent e with 2^e <= x < 2^(e+1).
local function exponent(x)
  local e = math.floor(math.log(x) / math.log(2))
  while 2 ^ e > x do e = e - 1 end
  while 2 ^ (e + 1) <= x do e = e + 1 end
  return e
end

--- The code of x, rounded to nearest even, saturating.
function tiny.code(dtype, x)
  local f = formats[dtype]
  local sign_bit = 256 ^ f[3] / 2
  local sign = x < 0 and sign_bit or 0
  x = math.abs(x)
  if x == 0 then return sign end
  local e = math.max(exponent(x), f[2])
  local code = (e - f[2]) * 2 ^ f[1] + half_even(x / 2 ^ (e - f[1]))
  return sign + math.min(code, f[4])
end

--- The value of a code (finite ones only).
function tiny.value(dtype, code)
  local f = formats[dtype]
  local sign_bit = 256 ^ f[3] / 2
  local sign = 1
  if code >= sign_bit then sign, code = -1, code - sign_bit end
  local e = math.floor(code / 2 ^ f[1])
  local man = code % 2 ^ f[1]
  if e > 0 then return sign * (man + 2 ^ f[1]) * 2 ^ (e - 1 + f[2] - f[1]) end
  return sign * man * 2 ^ (f[2] - f[1])
end

local function little_endian(n, bytes)
  local out = {}
  for i = 1, bytes do
    out[i] = string.char(n % 256)
    n = math.floor(n / 256)
  end
  return table.concat(out)
end

--- A list of numbers as the bytes of a tensor.
function tiny.pack(dtype, values)
  local bytes = formats[dtype][3]
  local out = {}
  for i, x in ipairs(values) do out[i] = little_endian(tiny.code(dtype, x), bytes) end
  return table.concat(out)
end

-- Park and Miller's minimal standard generator: exact in doubles and in 64-bit integers.
local function generator(seed)
  local state = (seed * 7919 + 12345) % 2147483647
  if state == 0 then state = 1 end
  local function uniform()
    state = (16807 * state) % 2147483647
    return state / 2147483647
  end
  for _ = 1, 8 do uniform() end
  -- The sum of four uniforms is near enough to a normal distribution; variance 1.
  return function() return (uniform() + uniform() + uniform() + uniform() - 2) * math.sqrt(3) end
end

-- Tensors ------------------------------------------------------------------------------------

local Model = {}
Model.__index = Model

--- The tensor {name, dtype, shape, data}, or nil.
function Model:tensor(name)
  for _, t in ipairs(self.tensors) do
    if t.name == name then return t end
  end
end

function Model:remove(name)
  for i, t in ipairs(self.tensors) do
    if t.name == name then return table.remove(self.tensors, i) end
  end
  error("no tensor " .. name)
end

--- Append a tensor, or replace the one of that name.  data: bytes or a list of numbers.
function Model:put(name, dtype, shape, data)
  if type(data) == "table" then data = tiny.pack(dtype, data) end
  local t = self:tensor(name)
  if not t then
    t = { name = name }
    self.tensors[#self.tensors + 1] = t
  end
  t.dtype, t.shape, t.data = dtype, tiny.array(shape), data
end

-- Calls f with the first and last element of each part of a [n,k] weight that shares a scale, in
-- the order of the scales. rows: of the linears in it.
local function each_grain(grain, rows, n, k, f)
  local function block(row, rows_of, column, columns)
    local spans = {}
    for r = row, row + rows_of - 1 do spans[#spans + 1] = { r * k + column + 1, r * k + column + columns } end
    f(spans)
  end
  if grain == "row" then
    for row = 0, n - 1 do block(row, 1, 0, k) end
  elseif grain == "block" then
    for row = 0, n - 1, 128 do
      for column = 0, k - 1, 128 do
        block(row, math.min(128, n - row), column, math.min(128, k - column))
      end
    end
  elseif grain == "part" then
    local row = 0
    for _, count in ipairs(rows) do
      block(row, count, 0, k)
      row = row + count
    end
  else
    block(0, n, 0, k)
  end
end

-- [n,k] of weights as E4M3 with a scale for each grain, amax / 448 in the scales' type.
local function quantize(w, grain, rows, n, k, dtype)
  local scales, codes = {}, {}
  each_grain(grain, rows, n, k, function(spans)
    local amax = 0
    for _, s in ipairs(spans) do
      for i = s[1], s[2] do amax = math.max(amax, math.abs(w[i])) end
    end
    local scale = tiny.value(dtype, tiny.code(dtype, amax / 448))
    scales[#scales + 1] = scale
    for _, s in ipairs(spans) do
      for i = s[1], s[2] do codes[i] = string.char(tiny.code("F8_E4M3", w[i] / scale)) end
    end
  end)
  return table.concat(codes), scales
end

-- Zeros for the two smallest of every four.
local function prune(w)
  for i = 1, #w - 3, 4 do
    for _ = 1, 2 do
      local least
      for j = i, i + 3 do
        if w[j] ~= 0 and (not least or math.abs(w[j]) < math.abs(w[least])) then least = j end
      end
      if least then w[least] = 0 end
    end
  end
end

local function weight_scale_shape(recipe, grain, rows, n, k)
  if grain == "row" then return recipe.layout == "modelopt" and { n } or { n, 1 } end
  if grain == "part" then return { #rows } end
  if grain == "tensor" then return recipe.layout == "ct" and { 1 } or {} end
  local blocks = { math.ceil(n / 128), math.ceil(k / 128) }
  return recipe.layout == "modelopt" and { blocks[1], 1, blocks[2], 1 } or blocks
end

-- One input has one scale: q, k and v share it, gate and up too.
local function input_scale(o, module)
  local into_attention = module:match("[qkv]_proj$") or module:match("qkv_proj$")
  local into_mlp = module:match("gate_proj$") or module:match("up_proj$")
  if o.split_scales and module:match("%.[kv]_proj$") then return 3 / 448 end
  if o.split_scales and module:match("%.up_proj$") then return 5 / 448 end
  return ((into_attention or into_mlp) and 4 or 2) / 448
end

-- Random rows of a linear, and its bias.
local function make_part(m, n, k, bias)
  local w, b = {}, bias and {}
  local width = 1 / math.sqrt(k)
  for i = 1, n * k do w[i] = m.random() * width end
  if m.options.sparse then prune(w) end
  if bias then
    for i = 1, n do b[i] = m.random() * 0.1 end
  end
  return w, b
end

local function store_quantized(m, module, w, rows, n, k)
  local o, recipe = m.options, recipes[m.options.quant]
  local grain = o.fused == "part" and recipe.grain == "tensor" and #rows > 1 and "part" or recipe.grain
  local codes, scales = quantize(w, grain, rows, n, k, o.scale_dtype)
  if recipe.frozen then
    m:put(module .. ".weight", o.dtype, { n, k }, w)
  else
    m:put(module .. ".weight", "F8_E4M3", { n, k }, codes)
  end
  local leaf = o.quant == "fp8-block" and ".weight_scale_inv" or ".weight_scale"
  m:put(module .. leaf, o.scale_dtype, weight_scale_shape(recipe, grain, rows, n, k), scales)
  if recipe.act == "static" then
    m:put(module .. ".input_scale", o.scale_dtype, recipe.layout == "ct" and { 1 } or {}, { input_scale(o, module) })
  end
end

-- names and rows of linears with the same input: each for itself, or fused under the last name.
local function add_linears(m, prefix, names, rows, k, bias, fused)
  local o = m.options
  local all, all_bias, n = {}, bias and {}, 0
  for i, name in ipairs(names) do
    local w, b = make_part(m, rows[i], k, bias)
    if fused then
      for _, x in ipairs(w) do all[#all + 1] = x end
      for _, x in ipairs(b or {}) do all_bias[#all_bias + 1] = x end
      n = n + rows[i]
    elseif o.quant then
      store_quantized(m, prefix .. name, w, { rows[i] }, rows[i], k)
    else
      m:put(prefix .. name .. ".weight", o.dtype, { rows[i], k }, w)
    end
    if b and not fused then m:put(prefix .. name .. ".bias", o.dtype, { rows[i] }, b) end
  end
  if not fused then return end
  if o.quant then
    store_quantized(m, prefix .. fused, all, rows, n, k)
  else
    m:put(prefix .. fused .. ".weight", o.dtype, { n, k }, all)
  end
  if bias then m:put(prefix .. fused .. ".bias", o.dtype, { n }, all_bias) end
end

local function add_norm(m, name, n)
  local w = {}
  for i = 1, n do w[i] = 1 + 0.1 * m.random() end
  m:put(name, m.options.dtype, { n }, w)
end

local function add_embedding(m, name, width)
  local o, w = m.options, {}
  for i = 1, o.vocab * o.hidden do w[i] = m.random() * width end
  m:put(name, o.dtype, { o.vocab, o.hidden }, w)
end

local function add_kv_scales(m, attn)
  local o = m.options
  local times = type(o.kv_scales) == "number" and o.kv_scales or 1
  local modelopt = o.quant and recipes[o.quant].layout == "modelopt"
  local names = kv_spellings[o.kv_names or (modelopt and "proj" or "self_attn")]
  for i = 1, 2 do
    if names[i] then m:put(attn .. names[i], "F32", {}, { (6 - i) / 448 * times }) end
  end
end

local function add_tensors(m)
  local o = m.options
  local e = o.head_dim
  add_embedding(m, "model.embed_tokens.weight", o.tied and 1 / math.sqrt(o.hidden) or 1)
  for i = 0, o.layers - 1 do
    local layer = "model.layers." .. i .. "."
    local attn, mlp = layer .. "self_attn.", layer .. "mlp."
    add_norm(m, layer .. "input_layernorm.weight", o.hidden)
    add_linears(m, attn, { "q_proj", "k_proj", "v_proj" }, { o.heads * e, o.kv_heads * e, o.kv_heads * e }, o.hidden,
      o.attention_bias, o.fused and "qkv_proj")
    add_linears(m, attn, { "o_proj" }, { o.hidden }, o.heads * e, o.attention_bias)
    add_norm(m, layer .. "post_attention_layernorm.weight", o.hidden)
    add_linears(m, mlp, { "gate_proj", "up_proj" }, { o.ffn, o.ffn }, o.hidden, o.mlp_bias, o.fused and "gate_up_proj")
    add_linears(m, mlp, { "down_proj" }, { o.hidden }, o.ffn, o.mlp_bias)
    if o.kv_scales then add_kv_scales(m, attn) end
  end
  add_norm(m, "model.norm.weight", o.hidden)
  if o.tied then return end
  if o.quant_head then
    add_linears(m, "", { "lm_head" }, { o.vocab }, o.hidden, false)
  else
    add_embedding(m, "lm_head.weight", 1 / math.sqrt(o.hidden))
  end
end

-- Bitmasks -----------------------------------------------------------------------------------

-- The values that are not zero, and one bit for each value; fill: at least two of each four.
local function compress_row(data, first, k, bytes, fill)
  local kept, bits = {}, {}
  local function is_set(c)
    local value = data:sub(first + c * bytes, first + (c + 1) * bytes - 1)
    return value:sub(1, -2):find("[^%z]") or value:byte(-1) % 128 ~= 0
  end
  for group = 0, k - 1, 4 do
    local n = 0
    for c = group, math.min(group + 3, k - 1) do
      bits[c] = is_set(c) and 1 or 0
      n = n + bits[c]
    end
    for c = group, group + 3 do
      if fill and n < 2 and bits[c] == 0 then bits[c], n = 1, n + 1 end
    end
  end
  local mask = {}
  for c = 0, k - 1 do
    if bits[c] == 1 then kept[#kept + 1] = data:sub(first + c * bytes, first + (c + 1) * bytes - 1) end
    local at = math.floor(c / 8) + 1
    mask[at] = (mask[at] or 0) + bits[c] * 2 ^ (c % 8)
  end
  for i, byte in ipairs(mask) do mask[i] = string.char(byte) end
  return table.concat(kept), table.concat(mask), #kept
end

local function integers(list)
  local out = {}
  for i, x in ipairs(list) do out[i] = little_endian(x, 8) end
  return table.concat(out)
end

--- Stores the tensor `name` as compressed values and a bitmask, called prefix .. ".compressed" etc.
function Model:compress(name, prefix, format)
  local t = assert(self:tensor(name), name)
  local bytes, shape = formats[t.dtype][3], t.shape
  local n, k = #shape == 2 and shape[1] or 1, shape[#shape]
  local kept, masks, offsets, total = {}, {}, {}, 0
  for row = 0, n - 1 do
    local count
    kept[row + 1], masks[row + 1], count = compress_row(t.data, row * k * bytes + 1, k, bytes, format == "24-bitmask")
    offsets[row + 1], total = total, total + count
  end
  local two = #shape == 2
  self:remove(name)
  local is_24 = format == "24-bitmask"
  self:put(prefix .. ".compressed", t.dtype, is_24 and { n, k / 2 } or { total }, table.concat(kept))
  local width = math.ceil(k / 8)
  self:put(prefix .. ".bitmask", "U8", two and { n, width } or { width }, table.concat(masks))
  self:put(prefix .. ".shape", "I64", is_24 and { #shape, 1 } or { #shape }, integers(shape))
  if not is_24 then self:put(prefix .. ".row_offsets", "I64", two and { n } or {}, integers(offsets)) end
end

local function compress_all(m)
  local format = m.options.sparse
  local names = {}
  for _, t in ipairs(m.tensors) do
    if format == "old-bitmask" or t.name:match("_proj%.weight$") then names[#names + 1] = t.name end
  end
  for _, name in ipairs(names) do
    m:compress(name, format == "old-bitmask" and name or name:gsub("%.weight$", ""), format)
  end
end

-- Files --------------------------------------------------------------------------------------

local torch_dtype = { BF16 = "bfloat16", F16 = "float16", F32 = "float32" }

local function ct_args(strategy, dynamic)
  return {
    num_bits = 8, type = "float", symmetric = true, strategy = strategy, dynamic = dynamic,
    group_size = strategy == "group" and 128 or tiny.null, actorder = tiny.null,
    block_structure = strategy == "block" and tiny.array({ 128, 128 }) or tiny.null,
    observer = dynamic and tiny.null or "minmax",
  }
end

local ct_strategies = {
  tensor = "tensor", row = "channel", block = "block", -- weights
  static = "tensor", token = "token", group = "group", -- inputs
}

local function ct_config(o, recipe)
  local inputs = recipe.act and ct_args(ct_strategies[recipe.act], recipe.act ~= "static") or tiny.null
  return {
    quant_method = "compressed-tensors",
    format = recipe.frozen and "dense" or recipe.act and "float-quantized" or "naive-quantized",
    quantization_status = recipe.frozen and "frozen" or "compressed", ignore = tiny.array({ "lm_head" }),
    kv_cache_scheme = o.kv_scales and ct_args("tensor", false) or tiny.null,
    config_groups = { group_0 = {
      targets = tiny.array({ "Linear" }), weights = ct_args(ct_strategies[recipe.grain], false),
      input_activations = inputs, output_activations = tiny.null,
    } },
  }
end

local sparsity_formats = {
  dense = "dense", ["24-bitmask"] = "sparse-24-bitmask", bitmask = "sparse-bitmask", ["old-bitmask"] = "sparse-bitmask",
}

local function sparsity_config(o)
  return o.sparse and {
    format = sparsity_formats[o.sparse], sparsity_structure = "2:4", global_sparsity = 0.5,
    targets = tiny.array({ "Linear" }), ignore = tiny.array({ "lm_head" }), registry_requires_subclass = false,
  }
end

local function quantization_config(o)
  local recipe = recipes[o.quant]
  local config
  if o.quant and not recipe then error("no recipe " .. o.quant) end
  if not recipe then
    config = o.sparse and { quant_method = "compressed-tensors" }
  elseif recipe.layout == "autofp8" then
    config = {
      quant_method = "fp8", activation_scheme = recipe.act == "static" and "static" or "dynamic",
      ignored_layers = tiny.array({ "lm_head" }), kv_cache_scheme = o.kv_scales and "static" or nil,
      weight_block_size = recipe.grain == "block" and tiny.array({ 128, 128 }) or nil,
    }
  elseif recipe.layout == "fbgemm" then
    config = {
      quant_method = "fbgemm_fp8", activation_scale_ub = o.scale_ub,
      modules_to_not_convert = tiny.array({ "lm_head" }),
    }
  elseif recipe.layout == "ct" then
    config = ct_config(o, recipe)
  end
  if config then config.sparsity_config = sparsity_config(o) end
  return config or nil
end

-- Sparsity beside quantization, as compressed-tensors wrote it before quantization_config was both.
local function nest(config)
  local sparsity = config.sparsity_config
  config.sparsity_config = nil
  return { quantization_config = config.config_groups and config or nil, sparsity_config = sparsity }
end

local function make_config(o)
  local rope
  if o.rope == "llama3" then
    rope = {
      rope_type = "llama3", factor = 8, low_freq_factor = 1, high_freq_factor = 4,
      original_max_position_embeddings = math.max(1, math.floor(o.context / 8)),
    }
  elseif o.rope == "linear" then
    rope = { rope_type = "linear", factor = 2 }
  end
  return {
    architectures = tiny.array({ "LlamaForCausalLM" }), model_type = "llama",
    vocab_size = o.vocab, hidden_size = o.hidden, intermediate_size = o.ffn,
    num_hidden_layers = o.layers, num_attention_heads = o.heads,
    num_key_value_heads = o.kv_heads, head_dim = o.head_dim, hidden_act = "silu",
    max_position_embeddings = o.context, rms_norm_eps = 1e-5, rope_theta = o.theta,
    rope_scaling = rope or tiny.null, tie_word_embeddings = o.tied,
    attention_bias = o.attention_bias, mlp_bias = o.mlp_bias,
    bos_token_id = 262, eos_token_id = 263, torch_dtype = torch_dtype[o.dtype],
    quantization_config = not o.nested and quantization_config(o) or nil,
    compression_config = o.nested and nest(quantization_config(o)) or nil,
  }
end

local function utf8(cp)
  if cp < 0x80 then return string.char(cp) end
  return string.char(0xc0 + math.floor(cp / 64), 0x80 + cp % 64)
end

-- Byte-level tokenizers write bytes that are no visible Latin-1 letter as U+0100 and up.
local function byte_letters()
  local letter, spare = {}, 256
  for b = 0, 255 do
    local visible = (b >= 33 and b <= 126) or (b >= 161 and b ~= 173)
    letter[b] = utf8(visible and b or spare)
    if not visible then spare = spare + 1 end
  end
  return letter
end

local specials = { "<|begin|>", "<|end|>", "<|role|>", "<|pad|>" }

local chat_template = "{{ bos_token }}{% for message in messages %}<|role|>{{ message['role'] }}\n"
  .. "{{ message['content'] }}<|end|>\n{% endfor %}"
  .. "{% if add_generation_prompt %}<|role|>assistant\n{% endif %}"

local function make_tokenizer()
  local letter, vocab = byte_letters(), {}
  for b = 0, 255 do vocab[letter[b]] = b end
  local space = letter[32]
  local merges = { { "h", "e" }, { "i", "n" }, { "o", "n" }, { "l", "l" }, { space, "t" }, { space .. "t", "he" } }
  local lines = {}
  for i, pair in ipairs(merges) do
    vocab[pair[1] .. pair[2]] = 255 + i
    lines[i] = pair[1] .. " " .. pair[2]
  end
  local added = {}
  for i, content in ipairs(specials) do
    added[i] = {
      id = 255 + #merges + i, content = content, special = true, normalized = false,
      single_word = false, lstrip = false, rstrip = false,
    }
  end
  local byte_level = { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = true }
  return {
    version = "1.0", truncation = tiny.null, padding = tiny.null, added_tokens = added,
    normalizer = tiny.null, pre_tokenizer = byte_level, post_processor = tiny.null,
    decoder = byte_level,
    model = {
      type = "BPE", dropout = tiny.null, unk_token = tiny.null, fuse_unk = false,
      continuing_subword_prefix = tiny.null, end_of_word_suffix = tiny.null,
      byte_fallback = false, ignore_merges = false, vocab = vocab, merges = lines,
    },
  }
end

local function make_tokenizer_config(o)
  return {
    bos_token = specials[1], eos_token = specials[2], pad_token = specials[4],
    tokenizer_class = "PreTrainedTokenizerFast", clean_up_tokenization_spaces = false,
    model_max_length = o.context, chat_template = chat_template,
  }
end

local function build(o)
  o.head_dim = o.head_dim or o.hidden / o.heads
  local m = setmetatable({ options = o, tensors = {}, random = generator(o.seed) }, Model)
  m.config = make_config(o)
  m.generation_config = {
    bos_token_id = 262, eos_token_id = tiny.array({ 263 }), do_sample = true,
    temperature = 0.7, top_p = 0.9,
  }
  if o.tokenizer then
    m.tokenizer = make_tokenizer()
    m.tokenizer_config = make_tokenizer_config(o)
  end
  local recipe = recipes[o.quant]
  if recipe and recipe.algo then
    m.hf_quant_config = {
      producer = { name = "modelopt", version = "0.15.1" },
      quantization = {
        quant_algo = recipe.algo, kv_cache_quant_algo = o.kv_scales and "FP8" or tiny.null,
        exclude_modules = tiny.array({ "lm_head" }),
      },
    }
  end
  add_tensors(m)
  if o.sparse and o.sparse ~= "dense" then compress_all(m) end
  return m
end

local function copy(v)
  if type(v) ~= "table" or v == tiny.null then return v end
  local out = {}
  for k, item in pairs(v) do out[k] = copy(item) end
  return setmetatable(out, getmetatable(v))
end

local built = {}

--- A checkpoint in memory: config, generation_config, tokenizer, tokenizer_config,
--- hf_quant_config (Lua tables, nil: no file), tensors (a list in file order).  The same
--- options again give a copy of the first result.
function tiny.build(options)
  local o = {}
  for k, v in pairs(defaults) do o[k] = v end
  for k, v in pairs(options or {}) do o[k] = v end
  local key = tiny.json(o)
  built[key] = built[key] or build(o)
  return copy(built[key])
end

--- The bytes of a safetensors file.  No sorting and no padding: readers must not count on it.
function tiny.safetensors(tensors)
  local header, data, at = { '"__metadata__":{"format":"pt"}' }, {}, 0
  for i, t in ipairs(tensors) do
    local entry = { dtype = t.dtype, shape = t.shape, data_offsets = { at, at + #t.data } }
    header[i + 1] = quote(t.name) .. ":" .. tiny.json(entry)
    data[i] = t.data
    at = at + #t.data
  end
  local text = "{" .. table.concat(header, ",") .. "}"
  return little_endian(#text, 8) .. text .. table.concat(data)
end

--- All files into dir, which is made.  dir must not hold a single quote.
function Model:write(dir)
  assert(not dir:find("'"), "a quote in the path")
  os.execute("mkdir -p '" .. dir .. "'")
  for _, name in ipairs({ "config", "generation_config", "tokenizer", "tokenizer_config", "hf_quant_config" }) do
    if self[name] then files.write(dir .. "/" .. name .. ".json", tiny.json(self[name])) end
  end
  local shards = self.options.shards
  if shards == 1 then
    files.write(dir .. "/model.safetensors", tiny.safetensors(self.tensors))
    return
  end
  local map, total = {}, 0
  for s = 1, shards do
    local name = string.format("model-%05d-of-%05d.safetensors", s, shards)
    local part = {}
    local from = math.floor((s - 1) * #self.tensors / shards) + 1
    for i = from, math.floor(s * #self.tensors / shards) do
      part[#part + 1] = self.tensors[i]
      map[self.tensors[i].name] = name
      total = total + #self.tensors[i].data
    end
    files.write(dir .. "/" .. name, tiny.safetensors(part))
  end
  local index = { metadata = { total_size = total }, weight_map = map }
  files.write(dir .. "/model.safetensors.index.json", tiny.json(index))
end

function tiny.write(dir, options)
  local m = tiny.build(options)
  m:write(dir)
  return m
end

local function main(args)
  local options = {}
  for i = 2, #args do
    local k, v = args[i]:match("^([%w_]+)=(.*)$")
    if not k then error("need key=value, got " .. args[i], 0) end
    if v == "true" or v == "false" then
      options[k] = v == "true"
    else
      options[k] = tonumber(v) or v
    end
  end
  tiny.write(args[1], options)
end

if arg and arg[0] and arg[0]:match("tiny_model%.lua$") and arg[1] then main(arg) end

return tiny
