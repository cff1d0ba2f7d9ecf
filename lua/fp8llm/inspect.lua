--- What a checkpoint directory is and what it will need: from its JSON files, the headers of its
-- weight files and its scales. Weights are never read. `fp8llm inspect --json` prints the report;
-- members are added to it in later versions, none is renamed or removed.
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local plan = require "fp8llm.plan"

---@class fp8llm.inspect_scale what one or more scale tensors hold
---@field min number
---@field median number
---@field max number
---@field count integer values, the unusable ones too
---@field zeros integer
---@field broken integer negative, infinite or NaN

---@class fp8llm.inspect_linear one projection of a decoder layer, or the head
---@field name string "model.layers.0.mlp.up_proj"
---@field layer integer? 0-based; absent for the head
---@field kind string "up_proj", "lm_head"
---@field dtype string "F8_E4M3", "BF16", ...
---@field shape integer[] rows (outputs), columns (inputs)
---@field quantized boolean FP8 with a weight scale
---@field sparsity string? "2:4 stored" (compressed on disk), "2:4 declared" (by config.json; weights are not read)
---@field bytes integer as stored, with its scales and bias
---@field packed_bytes integer as run: 2:4 at 0.625 of its dense FP8 size
---@field weight_scale fp8llm.inspect_scale?
---@field input_scale fp8llm.inspect_scale?

---@class fp8llm.inspect_report
---@field dir string
---@field architecture string
---@field config table shape and numbers as the loader reads them
---@field quantization table flavour, activations, kv_fp8, declared_2of4, block_rows, block_columns
---@field refused string? why fp8llm.load would refuse the scheme
---@field chat_template boolean
---@field files string[]
---@field bytes_on_disk integer size of these files
---@field parameters integer
---@field types table<string, {tensors: integer, bytes: integer, elements: integer}> by dtype
---@field tensors table[] name, file, dtype, shape, bytes of each; with option tensors only
---@field unused {name: string, why: string}[] tensors that loading does not read
---@field linears fp8llm.inspect_linear[] by layer
---@field unquantized string[] what is not FP8; a linear that no layer has in FP8 as one pattern
---@field sparsity string "none", "2:4 declared", "2:4 stored"
---@field kv_cache table dtype, and of FP8 the layers with scales, k and v (fp8llm.inspect_scale)
---@field embedding_bytes integer as stored
---@field norm_bytes integer as stored, all of them
---@field bytes_per_token integer stored bytes that one decoded token reads, without the KV cache
---@field packed_bytes_per_token integer the same with 2:4 packed
---@field warnings string[]
---@field plan fp8llm.memory_plan memory of each device

local kinds = {
  q_proj = "self_attn", k_proj = "self_attn", v_proj = "self_attn", o_proj = "self_attn",
  gate_proj = "mlp", up_proj = "mlp", down_proj = "mlp", qkv_proj = "self_attn", gate_up_proj = "mlp",
}
local kind_order = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj",
  "down_proj", "lm_head"}

-- How X.weight may be called when it is stored otherwise.
local stored_forms = {"weight", "compressed", "weight.compressed"}

local function file_bytes(path)
  local f = io.open(path, "rb")
  if not f then return 0 end
  local size = f:seek "end"
  f:close()
  return size or 0
end

local function count(shape)
  local n = 1
  for _, d in ipairs(shape) do n = n * d end
  return n
end

-- Scales of several tensors as one: extremes, and the median of the medians.
local function merge(scales)
  local all, medians = nil, {}
  for _, s in ipairs(scales) do
    all = all or {min = s.min, max = s.max, count = 0, zeros = 0, broken = 0}
    all.min, all.max = math.min(all.min, s.min), math.max(all.max, s.max)
    all.count, all.zeros, all.broken = all.count + s.count, all.zeros + s.zeros, all.broken + s.broken
    medians[#medians + 1] = s.median
  end
  if not all then return nil end
  table.sort(medians)
  all.median = medians[math.floor(#medians / 2) + 1]
  return all
end

-- The tensors of each module: "model.layers.0.mlp.up_proj" -> {weight = tensor, weight_scale = tensor, ...}.
local function by_module(tensors)
  local modules = {}
  for _, t in ipairs(tensors) do
    local module, leaf = t.name:match "^(.-)%.(weight%.[%w_]+)$"
    if not module then module, leaf = t.name:match "^(.*)%.([%w_]+)$" end
    if module then
      modules[module] = modules[module] or {}
      modules[module][leaf] = t
    end
  end
  return modules
end

local function first_of(parts, ...)
  for _, leaf in ipairs {...} do
    if parts[leaf] then return parts[leaf] end
  end
end

local function weight_of(parts)
  for _, form in ipairs(stored_forms) do
    if parts[form] then return parts[form], form end
  end
end

-- Rows and columns of the weight that a compressed one stands for.
local function dense_shape(weight, form, parts)
  if form == "weight" then return weight.shape end
  if #weight.shape == 2 then return {weight.shape[1], weight.shape[2] * 2} end -- two of four are kept
  local mask = parts.bitmask or parts["weight.bitmask"]
  if mask and #mask.shape == 2 then return {mask.shape[1], mask.shape[2] * 8} end
  return weight.shape
end

local function describe_linear(name, parts, declared_2of4)
  local weight, form = weight_of(parts)
  local bytes = 0
  for _, t in pairs(parts) do bytes = bytes + t.bytes end
  local scale = first_of(parts, "weight_scale", "weight_scale_inv")
  local input = first_of(parts, "input_scale", "act_scale", "activation_scale")
  local shape = dense_shape(weight, form, parts)
  local l = {
    name = name, layer = tonumber((name:match "^model%.layers%.(%d+)%.")), kind = name:match "[%w_]+$",
    dtype = weight.dtype, shape = json.array(shape), quantized = weight.dtype == "F8_E4M3" and scale ~= nil,
    bytes = bytes, packed_bytes = bytes, weight_scale = scale and scale.scale, input_scale = input and input.scale,
  }
  if form ~= "weight" then
    l.sparsity = "2:4 stored"
  elseif declared_2of4 and l.layer and l.quantized then
    l.sparsity, l.packed_bytes = "2:4 declared", bytes - 0.375 * weight.bytes
  end
  return l, scale
end

local function check_linear(l, parts, scale, warnings)
  local weight = weight_of(parts)
  if weight.dtype == "F8_E4M3" and not scale then
    warnings[#warnings + 1] = weight.name .. ": F8_E4M3 without a weight_scale, cannot be loaded"
  end
  for leaf, s in pairs {weight_scale = l.weight_scale, input_scale = l.input_scale} do
    if s.broken > 0 then
      warnings[#warnings + 1] = string.format("%s.%s: %d of %d values are negative, infinite or NaN, cannot be loaded",
        l.name, leaf, s.broken, s.count)
    end
  end
end

-- Scales that are 0 are allowed where all weights are 0, which only reading them would show.
local function warn_of_zeros(linears, warnings)
  local n, first = 0, nil
  for _, l in ipairs(linears) do
    local zeros = (l.weight_scale and l.weight_scale.zeros or 0) + (l.input_scale and l.input_scale.zeros or 0)
    if zeros > 0 then n, first = n + 1, first or l.name end
  end
  if n > 0 then
    warnings[#warnings + 1] = string.format("%d linears have scales that are 0 (first %s): "
      .. "loading refuses them unless the weights are 0 too", n, first)
  end
end

local function order_of(kind)
  for i, k in ipairs(kind_order) do
    if k == kind then return i end
  end
end

local function collect_linears(modules, declared_2of4, warnings)
  local linears = json.array {}
  for name, parts in pairs(modules) do
    local kind = name:match "[%w_]+$"
    local decoder = name:match "^model%.layers%.%d+%." and kinds[kind]
    if weight_of(parts) and (decoder or name == "lm_head") then
      local l, scale = describe_linear(name, parts, declared_2of4)
      linears[#linears + 1] = l
      check_linear(l, parts, scale, warnings)
    end
  end
  table.sort(linears, function(a, b)
    if a.layer ~= b.layer then return (a.layer or math.huge) < (b.layer or math.huge) end
    return order_of(a.kind) < order_of(b.kind)
  end)
  table.sort(warnings)
  warn_of_zeros(linears, warnings)
  return linears
end

-- "model.layers.*.mlp.down_proj" when all layers have it, else each by name.
local function list_unquantized(linears, n_layers)
  local names, of_kind, order = json.array {"model.embed_tokens", "norms"}, {}, {}
  for _, l in ipairs(linears) do
    if not l.quantized then
      if not of_kind[l.kind] then
        of_kind[l.kind] = {}
        order[#order + 1] = l.kind
      end
      table.insert(of_kind[l.kind], l.name)
    end
  end
  for _, kind in ipairs(order) do
    local list = of_kind[kind]
    if #list == n_layers and kinds[kind] then
      names[#names + 1] = "model.layers.*." .. kinds[kind] .. "." .. kind
    else
      for _, name in ipairs(list) do names[#names + 1] = name end
    end
  end
  return names
end

local kv_names = {
  k = {"self_attn.k_scale", "self_attn.k_proj.k_scale", "self_attn.k_proj.output_scale", "self_attn.qkv_proj.k_scale",
    "self_attn.attn.k_scale", "self_attn.kv_scale"},
  v = {"self_attn.v_scale", "self_attn.v_proj.v_scale", "self_attn.v_proj.output_scale", "self_attn.qkv_proj.v_scale",
    "self_attn.attn.v_scale", "self_attn.kv_scale"},
}

local function kv_cache(d, tensors)
  local by_name, n = {}, 0
  for _, t in ipairs(tensors) do by_name[t.name] = t end
  local found = {k = {}, v = {}}
  for layer = 0, d.config.num_hidden_layers - 1 do
    local any = false
    for part, names in pairs(kv_names) do
      for _, name in ipairs(names) do
        local t = by_name[string.format("model.layers.%d.%s", layer, name)]
        if t and t.scale then
          table.insert(found[part], t.scale)
          any = true
          break
        end
      end
    end
    if any then n = n + 1 end
  end
  local f16 = d.config.torch_dtype == "F16"
  return {
    dtype = d.quantization.kv_fp8 and "F8_E4M3" or f16 and "F16" or "BF16", layers_with_scales = n,
    k = merge(found.k), v = merge(found.v),
  }
end

local function count_types(tensors)
  local types = {}
  for _, t in ipairs(tensors) do
    local sum = types[t.dtype] or {tensors = 0, bytes = 0, elements = 0}
    types[t.dtype] = sum
    sum.tensors, sum.bytes, sum.elements = sum.tensors + 1, sum.bytes + t.bytes, sum.elements + count(t.shape)
  end
  return types
end

-- Tensors that are neither scales nor parts of another one's layout.
local function count_parameters(modules)
  local n = 0
  for _, parts in pairs(modules) do
    local weight, form = weight_of(parts)
    if weight then n = n + count(dense_shape(weight, form, parts)) end
    if parts.bias then n = n + count(parts.bias.shape) end
  end
  return n
end

local function collect_files(dir, tensors)
  local seen, files, bytes = {}, json.array {}, 0
  for _, t in ipairs(tensors) do
    if not seen[t.file] then
      seen[t.file] = true
      files[#files + 1] = t.file
      bytes = bytes + file_bytes(dir .. "/" .. t.file)
    end
  end
  table.sort(files)
  return files, bytes
end

local function list_unused(tensors)
  local unused = json.array {}
  for _, t in ipairs(tensors) do
    if t.unused then unused[#unused + 1] = {name = t.name, why = t.unused} end
  end
  return unused
end

local function sparsity_of(linears)
  for _, l in ipairs(linears) do
    if l.sparsity then return l.sparsity end
  end
  return "none"
end

-- Embedding and norms, which are not linears.
local function other_bytes(modules)
  local embedding, norms = 0, 0
  for name, parts in pairs(modules) do
    local weight = weight_of(parts)
    if weight and name:match "norm$" then norms = norms + weight.bytes end
    if weight and name == "model.embed_tokens" then embedding = weight.bytes end
  end
  return embedding, norms
end

-- A step reads every linear and the norms, of an embedding that is not the head too only one row.
local function token_bytes(report)
  local others = report.norm_bytes + (report.config.tie_word_embeddings and report.embedding_bytes or 0)
  local stored, packed = others, others
  for _, l in ipairs(report.linears) do stored, packed = stored + l.bytes, packed + l.packed_bytes end
  return stored, packed
end

--- options: tensors (list them all), and those of fp8llm.plan: context, max_running, tp, kv, device.
---@param dir string
---@param options? table
---@return fp8llm.inspect_report? report
---@return string? message
---@return fp8llm.code? code
local function inspect(dir, options)
  options = options or {}
  local d, message, code = fp8llm.describe(dir)
  if not d then return nil, message, code end
  local modules = by_module(d.tensors)
  local warnings = json.array {}
  local r = {
    dir = dir, architecture = d.architecture, config = d.config, quantization = d.quantization, refused = d.refused,
    chat_template = d.chat_template, types = count_types(d.tensors), parameters = count_parameters(modules),
    linears = collect_linears(modules, d.quantization.declared_2of4, warnings), warnings = warnings,
    kv_cache = kv_cache(d, d.tensors), tensors = options.tensors and json.array(d.tensors) or nil,
  }
  for i, w in ipairs(d.warnings) do table.insert(warnings, i, w) end
  r.files, r.bytes_on_disk = collect_files(dir, d.tensors)
  r.unused = list_unused(d.tensors)
  r.unquantized = list_unquantized(r.linears, d.config.num_hidden_layers)
  r.sparsity = sparsity_of(r.linears)
  r.embedding_bytes, r.norm_bytes = other_bytes(modules)
  r.bytes_per_token, r.packed_bytes_per_token = token_bytes(r)
  r.plan, message = plan(r, options)
  if not r.plan then return nil, message, "ARG" end
  return r
end

return {inspect = inspect, merge = merge, kind_order = kind_order}
