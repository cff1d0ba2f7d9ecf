--- Checkpoints of full size that take no room: real headers, and holes where the data would be.
-- For what reads headers only. Holes are zeros, so all scales are 0.
local files = dofile "spec/support/files.lua"
local json = require "fp8llm.json"
local shapes = require "fp8llm.shapes"

local sparse = {}

local element_bytes = {F8_E4M3 = 1, U8 = 1, BF16 = 2, F32 = 4, I64 = 8}

local function add(list, name, dtype, ...)
  local shape, bytes = {...}, element_bytes[dtype]
  for _, d in ipairs(shape) do bytes = bytes * d end
  list[#list + 1] = {name = name, dtype = dtype, shape = shape, bytes = bytes}
end

-- flavour: "fp8", "fp8-dynamic", "fp8-2of4", "bf16" (fp8llm.shapes), "bitmask", "modelopt".
local function add_linear(list, flavour, name, n, k)
  if flavour == "bf16" then return add(list, name .. ".weight", "BF16", n, k) end
  if flavour == "bitmask" then
    add(list, name .. ".compressed", "F8_E4M3", n, k / 2)
    add(list, name .. ".bitmask", "U8", n, k / 8)
    add(list, name .. ".shape", "I64", 2, 1)
  else
    add(list, name .. ".weight", "F8_E4M3", n, k)
  end
  if flavour == "fp8" or flavour == "modelopt" then
    add(list, name .. ".weight_scale", "F32")
    add(list, name .. ".input_scale", "F32")
  else
    add(list, name .. ".weight_scale", "BF16", n, 1)
  end
end

local function list_tensors(c, flavour)
  local list = {}
  local h, f = c.hidden_size, c.intermediate_size
  local e = h / c.num_attention_heads
  local kv = c.num_key_value_heads * e
  add(list, "model.embed_tokens.weight", "BF16", c.vocab_size, h)
  for i = 0, c.num_hidden_layers - 1 do
    local layer = "model.layers." .. i .. "."
    add(list, layer .. "input_layernorm.weight", "BF16", h)
    add_linear(list, flavour, layer .. "self_attn.q_proj", h, h)
    add_linear(list, flavour, layer .. "self_attn.k_proj", kv, h)
    add_linear(list, flavour, layer .. "self_attn.v_proj", kv, h)
    add_linear(list, flavour, layer .. "self_attn.o_proj", h, h)
    add(list, layer .. "post_attention_layernorm.weight", "BF16", h)
    add_linear(list, flavour, layer .. "mlp.gate_proj", f, h)
    add_linear(list, flavour, layer .. "mlp.up_proj", f, h)
    add_linear(list, flavour, layer .. "mlp.down_proj", h, f)
    if flavour == "modelopt" then
      add(list, layer .. "self_attn.k_proj.k_scale", "F32")
      add(list, layer .. "self_attn.v_proj.v_scale", "F32")
    end
  end
  add(list, "model.norm.weight", "BF16", h)
  if not c.tie_word_embeddings then add(list, "lm_head.weight", "BF16", c.vocab_size, h) end
  return list
end

local function little_endian(v)
  local bytes = {}
  for i = 1, 8 do
    bytes[i] = string.char(v % 256)
    v = math.floor(v / 256)
  end
  return table.concat(bytes)
end

local function write_shard(path, tensors)
  local entries, at = {}, 0
  for i, t in ipairs(tensors) do
    entries[i] = string.format('"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%.0f,%.0f]}', t.name, t.dtype,
      table.concat(t.shape, ","), at, at + t.bytes)
    at = at + t.bytes
  end
  local header = ("{" .. table.concat(entries, ",") .. "}"):gsub("%.0([],])", "%1")
  local f = assert(io.open(path, "wb"))
  assert(f:write(little_endian(#header), header))
  assert(f:seek("set", 8 + #header + at - 1))
  assert(f:write "\0")
  f:close()
end

local function quantization(config, flavour)
  if flavour == "modelopt" then
    config.quantization_config = {
      quant_method = "modelopt", quant_algo = "FP8", ignore = json.array {"lm_head"},
      kv_cache_scheme = {dynamic = false, num_bits = 8, type = "float"},
    }
  else
    assert(shapes.set_dtype(config, flavour == "bitmask" and "fp8-2of4" or flavour))
    if flavour == "bitmask" then config.quantization_config.sparsity_config.format = "sparse-24-bitmask" end
  end
  return config
end

--- Write a published shape (fp8llm.shapes) in a flavour into dir; files of at most shard_bytes.
function sparse.write(dir, shape, flavour, shard_bytes)
  local config = quantization(assert(shapes.config(shape)), flavour)
  os.execute("mkdir -p '" .. dir .. "'")
  files.write(dir .. "/config.json", json.encode(config))
  local shards, room = {}, 0
  for _, t in ipairs(list_tensors(config, flavour)) do
    if #shards == 0 or t.bytes > room then
      shards[#shards + 1] = {}
      room = shard_bytes or math.huge
    end
    table.insert(shards[#shards], t)
    room = room - t.bytes
  end
  if #shards == 1 then return write_shard(dir .. "/model.safetensors", shards[1]) end
  local map = {}
  for i, tensors in ipairs(shards) do
    local name = string.format("model-%05d-of-%05d.safetensors", i, #shards)
    for _, t in ipairs(tensors) do map[t.name] = name end
    write_shard(dir .. "/" .. name, tensors)
  end
  files.write(dir .. "/model.safetensors.index.json", json.encode {metadata = {}, weight_map = map})
end

return sparse
