-- Other spellings of the same checkpoint, as the tools of several years write them: each gives the
-- logits of the plain one, and what would mean something else is refused by its name.
local fp8llm = require "fp8llm"
local inspect = require("fp8llm.inspect").inspect
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/checkpoint-spellings"
local ids = {262, 72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100}

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "*a"
  f:close()
  return text
end

local function write(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

-- Changes the model before it is written, and the texts of its files after.
local function make(options, change, edit)
  os.execute("rm -rf '" .. dir .. "'")
  local m = tiny.build(options)
  if change then change(m) end
  m:write(dir)
  for name, rewrite in pairs(edit or {}) do
    write(dir .. "/" .. name, rewrite(read(dir .. "/" .. name)))
  end
end

-- The last logits, as text that keeps every bit of an f32, and the dtype of the KV cache.
local function logits_of(...)
  make(...)
  local model = assert(fp8llm.load(dir, {context = 64, threads = 1}))
  local out, kv = assert(model:sequence():feed(ids)):totable(), model:info().kv_dtype
  model:close()
  for i, x in ipairs(out) do out[i] = string.format("%.9g", x) end
  return table.concat(out, " "), kv
end

local known = {} -- the logits of a plain model: each is computed once
local function plain(name, options)
  known[name] = known[name] or logits_of(options)
  return known[name]
end

local function refused(code, words, ...)
  make(...)
  local model, message, got = fp8llm.load(dir, {context = 64})
  assert.equal(nil, model)
  assert.equal(code, got)
  for _, word in ipairs(words) do
    if not message:find(word, 1, true) then assert.equal(word, message) end
  end
end

local function copy(t, changes)
  local out = {}
  for k, v in pairs(t) do out[k] = v end
  for k, v in pairs(changes) do out[k] = v end
  return out
end

-- ---- compressed-tensors ------------------------------------------------------------------------

local bare = {num_bits = 8, type = "float", symmetric = true, dynamic = false}
local tensor, channel = copy(bare, {strategy = "tensor"}), copy(bare, {strategy = "channel"})
local token = copy(bare, {strategy = "token", dynamic = true})

-- What the versions 0.4 to 0.13 write around the same groups.
local function versions(weights, inputs)
  local old = {block_structure = tiny.null, group_size = tiny.null, observer_kwargs = {}}
  local group = {targets = tiny.array {"Linear"}, weights = weights, input_activations = inputs,
    output_activations = tiny.null}
  local function section(changes, group_changes, args_changes)
    local g = copy(group, group_changes or {})
    g.weights = copy(g.weights, args_changes or {})
    g.input_activations = copy(g.input_activations, args_changes or {})
    return copy({quant_method = "compressed-tensors", format = "float-quantized", ignore = tiny.array {"lm_head"},
      config_groups = {group_0 = g}}, changes)
  end
  return {
    ["0.4"] = section({quantization_status = "frozen", global_compression_ratio = 1.2353, kv_cache_scheme = tiny.null},
      nil, copy(old, {observer = "minmax"})),
    ["0.6"] = section({quantization_status = "compressed", global_compression_ratio = tiny.null,
      sparsity_config = {}}, nil, copy(old, {actorder = tiny.null, observer = "mse"})),
    ["0.8"] = section({quantization_status = "compressed", version = "0.8.1",
      sparsity_config = {format = "dense", global_sparsity = 0.001, ignore = tiny.array {},
        registry_requires_subclass = false,
        sparsity_structure = "unstructured", targets = tiny.array {}}}, nil, copy(old, {actorder = tiny.null,
          observer = tiny.null})),
    ["0.11"] = section({quantization_status = "compressed", version = "0.11.0", transform_config = {}},
      {format = "float-quantized"}, copy(old, {actorder = tiny.null})),
    ["0.13"] = section({quantization_status = "compressed", version = "0.13.0", transform_config = tiny.null,
      sparsity_config = tiny.null, format = "mixed-precision"}, {format = "float-quantized"},
      copy(old, {actorder = tiny.null, scale_dtype = tiny.null, zp_dtype = tiny.null})),
    naive = section {format = "naive-quantized"},
    ["no format"] = section {format = tiny.null},
    ["status initialized"] = section {quantization_status = "initialized"},
  }
end

describe("compressed-tensors", function()
  for name, of in pairs {["ct-static"] = {tensor, tensor}, ["ct-dynamic"] = {channel, token}} do
    for version, section in pairs(versions(of[1], of[2])) do
      it(name .. " of version " .. version, function()
        assert.equal(plain(name, {quant = name}), (logits_of({quant = name}, function(m)
          m.config.quantization_config = section
        end)))
      end)
    end
    for _, targets in ipairs {{"Linear", "LlamaAttention"}, {"re:.*proj.*"}, {"re:.*_proj$"},
      {"re:model\\.layers\\.\\d+\\.(self_attn|mlp)\\..*"}, {"re:.*self_attn.*", "re:.*mlp.*"},
      {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "Linear"}} do
      it(name .. " with the targets " .. table.concat(targets, ", "), function()
        assert.equal(plain(name, {quant = name}), (logits_of({quant = name}, function(m)
          m.config.quantization_config.config_groups.group_0.targets = tiny.array(targets)
        end)))
      end)
    end
    for _, ignore in ipairs {{"re:.*lm_head"}, {"lm_head", "re:.*vision.*"}, {"lm_head", "model.layers.7.mlp.up_proj"},
      {}} do
      it(name .. " that ignores " .. table.concat(ignore, ", "), function()
        assert.equal(plain(name, {quant = name}), (logits_of({quant = name}, function(m)
          m.config.quantization_config.ignore = tiny.array(ignore)
        end)))
      end)
    end
  end
  it("has its KV cache in FP8 by the scheme in each of its spellings", function()
    local options = {quant = "ct-static", kv_scales = true}
    local want, dtype = logits_of(options)
    assert.equal("F8_E4M3", dtype)
    for _, scheme in ipairs {tensor, copy(tensor, {group_size = tiny.null, observer = "minmax", observer_kwargs = {},
      block_structure = tiny.null, actorder = tiny.null}), copy(tensor, {dynamic = 0})} do
      assert.equal(want, (logits_of(options, function(m) m.config.quantization_config.kv_cache_scheme = scheme end)))
    end
  end)
  it("of inputs that nothing knows is refused", function()
    local function inputs(changes)
      return function(m)
        m.config.quantization_config.config_groups.group_0.input_activations = copy(tensor, changes)
      end
    end
    for word, changes in pairs {['dynamic "local"'] = {dynamic = "local"}, ["4-bit float"] = {num_bits = 4},
      ["8-bit int"] = {type = "int"}, asymmetric = {symmetric = false},
        ["strategy attn_head"] = {strategy = "attn_head"}} do
      refused("UNSUPPORTED", {"group_0.input_activations", word}, {quant = "ct-static"}, inputs(changes))
    end
  end)
end)

-- ---- modelopt ----------------------------------------------------------------------------------

describe("modelopt", function()
  local options = {quant = "modelopt", kv_scales = true}
  -- The member of hf_quant_config.json, moved into config.json in the forms that were written there.
  local function in_config(section)
    return function(m)
      m.config.quantization_config = copy({quant_method = "modelopt"}, section)
      m.hf_quant_config = nil
    end
  end
  local want, dtype
  it("in hf_quant_config.json", function()
    want, dtype = logits_of(options)
    assert.equal("F8_E4M3", dtype)
  end)
  local producer = {name = "modelopt", version = "0.35.0"}
  local forms = {
    flat = {quant_algo = "FP8", kv_cache_quant_algo = "FP8", exclude_modules = tiny.array {"lm_head"}},
    ["lower case"] = {quant_algo = "fp8", kv_cache_quant_algo = "fp8", exclude_modules = tiny.array {"lm_head"}},
    ignore = {quant_algo = "FP8", kv_cache_quant_algo = "FP8", ignore = tiny.array {"lm_head*"}, producer = producer},
    ["scheme as a word"] = {quant_algo = "FP8", kv_cache_scheme = "FP8", ignore = tiny.array {"lm_head"},
      producer = producer},
    ["scheme as an object"] = {quant_algo = "FP8", producer = producer, ignore = tiny.array {"lm_head"},
      kv_cache_scheme = {dynamic = false, num_bits = 8, type = "float"}},
    nested = {producer = producer, quantization = {quant_algo = "FP8", kv_cache_quant_algo = "FP8",
      exclude_modules = tiny.array {"lm_head", "*.norm", "model.embed*"}}},
    ["modelopt_fp8"] = {quant_method = "modelopt_fp8", quant_algo = "FP8", kv_cache_quant_algo = "FP8"},
    groups = {quant_algo = "FP8", kv_cache_scheme = {dynamic = false, num_bits = 8, type = "float"},
      ignore = tiny.array {"lm_head"}, config_groups = {group_0 = {targets = tiny.array {"Linear"},
        weights = {dynamic = false, num_bits = 8, type = "float"},
        input_activations = {dynamic = false, num_bits = 8, type = "float"}}}},
  }
  for name, section in pairs(forms) do
    it("in config.json: " .. name, function()
      local got, kv = logits_of(options, in_config(section))
      assert.equal("F8_E4M3", kv)
      assert.equal(want, got)
    end)
  end
  for word, section in pairs {['quant_algo "FP9"'] = {quant_algo = "FP9"}, ['"NVFP4"'] = {quant_algo = "NVFP4"},
    ['"W4A16_AWQ"'] = {quant_algo = "W4A16_AWQ"}} do
    it("of " .. word .. " is refused", function()
      refused("UNSUPPORTED", {word}, options, in_config(section))
    end)
  end
  for name, section in pairs {FP10 = {quant_algo = "FP8", kv_cache_quant_algo = "FP10"},
    NVFP4_KV = {quant_algo = "FP8", kv_cache_scheme = "NVFP4_KV"}} do
    it("with a KV cache of " .. name .. " keeps keys and values plain, and that is told", function()
      make(options, in_config(section))
      local report = assert(inspect(dir))
      assert.equal("BF16", report.kv_cache.dtype)
      assert.is_true(table.concat(report.warnings, "\n"):find("KV cache scheme " .. name, 1, true) ~= nil)
    end)
  end
end)

-- ---- AutoFP8 and fine-grained FP8 --------------------------------------------------------------

describe("AutoFP8", function()
  it("may hold what later tools add to its section", function()
    for name, act in pairs {["fp8-static"] = "static", ["fp8-dynamic"] = "dynamic"} do
      for _, section in ipairs {
        {activation_scheme = act},
        {activation_scheme = act, ignored_layers = tiny.null, weight_block_size = tiny.null},
        {activation_scheme = act, ignored_layers = tiny.array {"lm_head"}, modules_to_not_convert = tiny.null,
          is_checkpoint_fp8_serialized = true},
        {activation_scheme = act, modules_to_not_convert = tiny.array {"lm_head"}, fmt = "e4m3", scale_fmt = "float",
          dequantize = false},
      } do
        assert.equal(plain(name, {quant = name}), (logits_of({quant = name}, function(m)
          m.config.quantization_config = copy({quant_method = "fp8"}, section)
        end)))
      end
    end
  end)
  it("may have no section, or a null one, in a model that is not quantized", function()
    for _, key in ipairs {"quantization_config", "compression_config"} do
      assert.equal(plain("bf16", {}), (logits_of({}, function(m) m.config[key] = tiny.null end)))
    end
  end)
end)

-- ---- config.json as text -----------------------------------------------------------------------

describe("config.json", function()
  local function text(edit) return (logits_of({}, nil, {["config.json"] = edit})) end
  local function put(members)
    return function(s) return (s:gsub("^{", function() return "{" .. members .. "," end)) end
  end
  it("may begin with a byte order mark", function()
    assert.equal(plain("bf16", {}), text(function(s) return "\239\187\191" .. s end))
  end)
  it("may hold what only Python's reader takes, where nobody reads it", function()
    assert.equal(plain("bf16", {}), text(put '"a":NaN,"b":Infinity,"c":[-Infinity],"hidden_size":7'))
  end)
  it("may hold blanks, members of transformers, and unknown ones", function()
    assert.equal(plain("bf16", {}), text(put(
      '\n\t"_name_or_path":"/x","transformers_version":"4.57.1","pretraining_tp":1,"use_cache":true,' ..
      '\r\n"a":{"b":[1,{}]}')))
  end)
  it("may name the activation as silu is named", function()
    for _, name in ipairs {"silu", "swish"} do
      assert.equal(plain("bf16", {}), (logits_of({}, function(m) m.config.hidden_act = name end)))
    end
    refused("UNSUPPORTED", {"hidden_act", "gelu_new"}, {}, function(m) m.config.hidden_act = "gelu_new" end)
  end)
  it("may call its dtype by both names", function()
    for _, name in ipairs {"bfloat16", "torch.bfloat16"} do
      assert.equal(plain("bf16", {}), (logits_of({}, function(m)
        m.config.dtype, m.config.torch_dtype = name, nil
      end)))
    end
  end)
  it("of RoPE may be old or new", function()
    local want = plain("linear", {rope = "linear"})
    for _, edit in ipairs {
      function(c) c.rope_scaling = {type = "linear", factor = 4} end,
      function(c) c.rope_scaling = {type = "linear", rope_type = "linear", factor = 4.0} end,
      function(c)
        c.rope_parameters = {rope_type = "linear", factor = 4, rope_theta = c.rope_theta}
        c.rope_scaling, c.rope_theta = nil, nil
      end,
      function(c) c.rope_parameters = {rope_type = "linear", factor = 4, rope_theta = c.rope_theta} end,
    } do
      assert.equal(want, (logits_of({rope = "linear"}, function(m)
        local factor = m.config.rope_scaling.factor
        edit(m.config)
        for _, key in ipairs {"rope_scaling", "rope_parameters"} do
          if m.config[key] then m.config[key].factor = factor end
        end
      end)))
    end
  end)
end)

-- ---- tensors and their files -------------------------------------------------------------------

describe("a tied model", function()
  local function head(value)
    return function(m)
      local e = m:tensor "model.embed_tokens.weight"
      m:put("lm_head.weight", e.dtype, {e.shape[1], e.shape[2]}, value or e.data)
    end
  end
  it("may repeat its embedding as head, tied or not", function()
    local want = plain("tied", {tied = true})
    assert.equal(want, (logits_of({tied = true}, head())))
    assert.equal(want, (logits_of({tied = true}, function(m)
      head()(m)
      m.config.tie_word_embeddings = false
    end)))
    assert.equal(want, (logits_of({tied = true}, function(m)
      head()(m)
      m.config.tie_word_embeddings = nil
    end)))
  end)
  it("that says it is not, and has no head, is refused by the head's name", function()
    for _, value in ipairs {false, "absent"} do
      refused("FORMAT", {"lm_head.weight"}, {tied = true}, function(m)
        if value == "absent" then m.config.tie_word_embeddings = nil
        else m.config.tie_word_embeddings = false end
      end)
    end
  end)
end)

describe("norms", function()
  it("may be F32 beside BF16 weights, and F16", function()
    for _, dtype in ipairs {"F32"} do
      assert.equal(plain("bf16", {}), (logits_of({}, function(m)
        for _, t in ipairs(m.tensors) do
          if t.name:find "norm%.weight$" then
            local values = {}
            for i = 1, #t.data, 2 do
              local a, b = t.data:byte(i, i + 1)
              values[#values + 1] = tiny.value("BF16", a + 256 * b)
            end
            t.dtype, t.data = dtype, tiny.pack(dtype, values)
          end
        end
      end)))
    end
  end)
end)

describe("scales", function()
  -- Powers of two, which every dtype holds.
  local function scales(dtype, shape)
    return function(m)
      for _, t in ipairs(m.tensors) do
        if t.name:find "_scale$" then
          local n = 1
          for _, size in ipairs(shape) do n = n * size end
          assert(n == 1)
          t.dtype, t.shape, t.data = dtype, tiny.array(shape), dtype == "F64" and "\0\0\0\0\0\0\160\63" or
            tiny.pack(dtype, {2 ^ -5})
        end
      end
    end
  end
  it("may be of every dtype and every shape of one number", function()
    local want = logits_of({quant = "fp8-static"}, scales("F32", {}))
    for _, dtype in ipairs {"F32", "BF16", "F16", "F64"} do
      for _, shape in ipairs {{}, {1}, {1, 1}} do
        assert.equal(want, (logits_of({quant = "fp8-static"}, scales(dtype, shape))))
      end
    end
  end)
end)

describe("an index", function()
  local function index(edit)
    return logits_of({shards = 3}, nil, {["model.safetensors.index.json"] = edit})
  end
  it("may have no metadata, an empty one, a wrong size, or a byte order mark", function()
    local want = plain("bf16", {})
    for _, edit in ipairs {
      function(s) return (s:gsub('"metadata":%b{},?', "")) end,
      function(s) return (s:gsub('"metadata":%b{}', '"metadata":{}')) end,
      function(s) return (s:gsub('"metadata":%b{}', '"metadata":{"total_size":1.5,"total_parameters":7}')) end,
      function(s) return "\239\187\191" .. s end,
    } do
      assert.equal(want, (index(edit)))
    end
  end)
end)

describe("inspect", function()
  it("reads what load reads", function()
    make({quant = "ct-static"}, function(m) m.config.quantization_config.quantization_status = "frozen" end,
      {["config.json"] = function(s) return "\239\187\191" .. s end})
    assert.equal("table", type(assert(inspect(dir)).linears))
  end)
end)
