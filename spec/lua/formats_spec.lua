-- One model in many spellings: every layout of the same weights gives the same logits.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/formats"
local ids = {262, 72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100}

-- The last logits of a tiny model, as text that keeps every bit of an f32.
local function logits_of(options, change, load_options)
  os.execute("rm -rf '" .. dir .. "'")
  local m = tiny.build(options)
  if change then change(m) end
  m:write(dir)
  local o = {context = 64, threads = 1}
  for k, v in pairs(load_options or {}) do o[k] = v end
  local model = assert(fp8llm.load(dir, o))
  local out = assert(model:sequence():feed(ids)):totable()
  local quantization, kv = model:info().quantization, model:info().kv_dtype
  model:close()
  for i, x in ipairs(out) do out[i] = string.format("%.9g", x) end
  return table.concat(out, " "), quantization, kv
end

local function each_scale(m, change)
  for _, t in ipairs(m.tensors) do
    local module, kind = t.name:match "^(.*)%.(%a+_scale)$"
    if module then change(t, kind, m:tensor(module .. ".weight").shape[1]) end
  end
end

local function shape_scales(shape_of)
  return function(m)
    each_scale(m, function(t, kind, n)
      if kind == "weight_scale" and #t.data == 4 then
        local shape, copies = shape_of(n)
        t.shape, t.data = tiny.array(shape), t.data:rep(copies)
      end
    end)
  end
end

local function rename(from, to)
  return function(m)
    each_scale(m, function(t, kind)
      if kind == from then t.name = t.name:gsub(from .. "$", to) end
    end)
  end
end

-- Every scale rounded to BF16, kept in a tensor of that dtype or written out as F32 again.
local function round_scales(dtype)
  return function(m)
    each_scale(m, function(t)
      local values = {}
      for i = 1, #t.data, 4 do
        local a, b, c, d = t.data:byte(i, i + 3)
        local x = tiny.value("F32", a + 256 * (b + 256 * (c + 256 * d)))
        values[#values + 1] = tiny.value("BF16", tiny.code("BF16", x))
      end
      t.dtype, t.data = dtype, tiny.pack(dtype, values)
    end)
  end
end

describe("a static FP8 model", function()
  local want, name = logits_of {quant = "fp8-static"}
  local function same(options, change)
    options.quant = options.quant or "fp8-static"
    assert.equal(want, (logits_of(options, change)))
  end

  it("is AutoFP8", function() assert.equal("autofp8 static", name) end)
  it("differs from its BF16 original", function() assert.is_true(want ~= logits_of {}) end)
  it("may be compressed-tensors", function() same {quant = "ct-static"} end)
  it("may be modelopt", function() same {quant = "modelopt"} end)
  it("may have q, k, v and gate, up in one tensor each", function() same {fused = "part"} end)
  it("may nest its section as older tools did", function() same {quant = "ct-static", nested = true} end)
  it("may be sharded", function() same {shards = 4} end)
  it("may call its input scales act_scale", function() same({}, rename("input_scale", "act_scale")) end)
  it("may call its input scales activation_scale", function() same({}, rename("input_scale", "activation_scale")) end)
  it("may call its weight scales weight_scale_inv", function()
    same({}, rename("weight_scale", "weight_scale_inv"))
  end)
  it("may have scales of shape [1]", function() same({}, shape_scales(function() return {1}, 1 end)) end)
  it("may have a scale for each row", function() same({}, shape_scales(function(n) return {n}, n end)) end)
  it("may have a column of scales", function() same({}, shape_scales(function(n) return {n, 1}, n end)) end)
  it("may tell nothing of its quantization", function()
    same({}, function(m) m.config.quantization_config = nil end)
  end)
  it("may list ignored layers that are quantized", function()
    same({}, function(m) m.config.quantization_config.ignored_layers = {"model.layers.0.mlp.up_proj"} end)
  end)
  it("may have a modelopt section in config.json", function()
    same({}, function(m) m.config.quantization_config = {quant_method = "modelopt", quant_algo = "FP8"} end)
  end)
  it("may carry rotary tables of old checkpoints", function()
    same({}, function(m) m:put("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {2}, {1, 2}) end)
  end)
  it("may spell its config as transformers 5 does", function()
    same({}, function(m)
      m.config.rope_parameters = {rope_type = "default", rope_theta = m.config.rope_theta}
      m.config.rope_theta, m.config.rope_scaling = nil, nil
      m.config.dtype, m.config.torch_dtype = m.config.torch_dtype, nil
    end)
  end)
  it("may have BF16 scales", function()
    assert.equal(logits_of({quant = "fp8-static"}, round_scales "F32"),
      (logits_of({quant = "fp8-static"}, round_scales "BF16")))
  end)
  it("reads its scales", function() assert.is_true(want ~= logits_of({quant = "fp8-static"}, round_scales "F32")) end)
end)

describe("a dynamic FP8 model", function()
  local want, name = logits_of {quant = "ct-dynamic"}

  it("has a scale for each row and token", function()
    assert.equal("compressed-tensors dynamic", name)
    assert.is_true(want ~= logits_of {quant = "fp8-dynamic"})
  end)
  it("may be AutoFP8 with a scale for each row", function()
    assert.equal(want, (logits_of({quant = "ct-dynamic"}, function(m)
      m.config.quantization_config = {quant_method = "fp8", activation_scheme = "dynamic"}
    end)))
  end)
  it("may be FBGEMM's when no token reaches the bound", function()
    assert.equal(want, (logits_of({quant = "ct-dynamic"}, function(m)
      m.config.quantization_config = {quant_method = "fbgemm_fp8", activation_scale_ub = 1200}
    end)))
  end)
  it("heeds FBGEMM's bound", function()
    assert.is_true(want ~= logits_of({quant = "ct-dynamic"}, function(m)
      m.config.quantization_config = {quant_method = "fbgemm_fp8", activation_scale_ub = 0.5}
    end))
  end)
  it("may keep activations plain", function()
    local plain, what = logits_of({quant = "ct-dynamic"}, function(m)
      m.config.quantization_config.config_groups.group_0.input_activations = tiny.null
    end)
    assert.equal("compressed-tensors weight-only", what)
    assert.is_true(plain ~= want)
  end)
end)

describe("a model with block scales", function()
  local want, name = logits_of {quant = "fp8-block", hidden = 160, heads = 5, kv_heads = 1}
  local function same(options, change)
    options.hidden, options.heads, options.kv_heads = 160, 5, 1
    assert.equal(want, (logits_of(options, change)))
  end

  it("may be AutoFP8's or compressed-tensors'", function()
    assert.equal("autofp8 block", name)
    same {quant = "ct-block"}
  end)
  it("may call its scales weight_scale", function()
    same({quant = "fp8-block"}, function(m)
      for _, t in ipairs(m.tensors) do t.name = t.name:gsub("weight_scale_inv$", "weight_scale") end
    end)
  end)
  it("may tell nothing of its quantization", function()
    same({quant = "fp8-block"}, function(m) m.config.quantization_config = nil end)
  end)
  it("quantizes its inputs in groups", function()
    assert.is_true(want ~= logits_of({quant = "modelopt-block", hidden = 160, heads = 5, kv_heads = 1}))
  end)
end)

describe("a 2:4 model", function()
  it("gives the same logits however it is stored", function()
    local want = logits_of {quant = "ct-dynamic", sparse = "dense"}
    for _, o in ipairs {{sparse = "24-bitmask"}, {sparse = "bitmask"}, {sparse = "24-bitmask", nested = true},
      {sparse = "24-bitmask", shards = 3}, {sparse = "24-bitmask", fused = "tensor"}} do
      o.quant = "ct-dynamic"
      assert.equal(want, (logits_of(o)))
    end
  end)
  it("may be plain", function()
    local want = logits_of {sparse = "24-bitmask"}
    assert.equal(want, (logits_of {sparse = "old-bitmask"}))
    assert.is_true(want ~= logits_of {})
  end)
end)

describe("KV scales", function()
  local want, _, kv = logits_of {quant = "fp8-static", kv_scales = true}

  it("make the cache FP8", function()
    assert.equal("F8_E4M3", kv)
    assert.equal(want, (logits_of({quant = "fp8-static", kv_scales = true}, nil, {kv = "fp8"})))
    local bf16, _, name = logits_of({quant = "fp8-static", kv_scales = true}, nil, {kv = "bf16"})
    assert.equal("BF16", name)
    assert.equal(bf16, (logits_of {quant = "fp8-static"}))
    assert.is_true(bf16 ~= want)
  end)
  for _, names in ipairs {"proj", "output", "qkv", "attn"} do
    it("may be named as in " .. names, function()
      assert.equal(want, (logits_of {quant = "fp8-static", kv_scales = true, kv_names = names}))
    end)
  end
  it("may be declared by every layout", function()
    assert.equal(want, (logits_of {quant = "ct-static", kv_scales = true}))
    assert.equal(want, (logits_of {quant = "modelopt", kv_scales = true}))
  end)
  it("may be one for keys and values", function()
    local function equal(m)
      for i = 0, 1 do m:put("model.layers." .. i .. ".self_attn.k_scale", "F32", {}, {4 / 448}) end
    end
    local one = logits_of({quant = "fp8-static", kv_scales = true}, equal)
    assert.equal(one, (logits_of {quant = "fp8-static", kv_scales = true, kv_names = "only_v"}))
    assert.equal(one, (logits_of {quant = "fp8-static", kv_scales = 0.8, kv_names = "both"}))
  end)
  it("that are too small saturate, they do not overflow", function()
    local small = logits_of {quant = "fp8-static", kv_scales = 1e-4}
    assert.is_true(small ~= want)
    assert.equal(nil, small:find "nan")
    assert.equal(nil, small:find "inf")
  end)
end)

describe("a tied model", function()
  it("ignores the copy of the embedding some tools write as lm_head", function()
    assert.equal(logits_of {tied = true}, (logits_of({tied = true}, function(m)
      m:put("lm_head.weight", "BF16", {272, 64}, ("\0"):rep(272 * 64 * 2))
    end)))
  end)
end)
