-- Checkpoints as various tools write them: what is read, what is told of, and what is refused.
local fp8llm = require "fp8llm"
local inspect = require("fp8llm.inspect").inspect
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/checkpoint-forms"
local ids = {262, 72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100}
local layer0 = "model.layers.0."
local args = {num_bits = 8, type = "float", symmetric = true, strategy = "tensor", dynamic = false}
local token = {num_bits = 8, type = "float", symmetric = true, strategy = "token", dynamic = true}
local channel = {num_bits = 8, type = "float", symmetric = true, strategy = "channel", dynamic = false}

local function write(options, change)
  os.execute("rm -rf '" .. dir .. "'")
  local m = tiny.build(options)
  if change then change(m) end
  m:write(dir)
  return m
end

-- The last logits, as text that keeps every bit, and what model:info says.
local function logits_of(options, change, load_options)
  write(options, change)
  local o = {context = 64, threads = 1}
  for k, v in pairs(load_options or {}) do o[k] = v end
  local model = assert(fp8llm.load(dir, o))
  local out, info = assert(model:sequence():feed(ids)):totable(), model:info()
  model:close()
  for i, x in ipairs(out) do out[i] = string.format("%.9g", x) end
  return table.concat(out, " "), info
end

local function report(options, change)
  write(options, change)
  return assert(inspect(dir))
end

-- One of the lists has an entry with all the words.
local function has(list, ...)
  for _, entry in ipairs(list) do
    local text, all = type(entry) == "table" and entry.name .. ": " .. entry.why or entry, true
    for _, word in ipairs {...} do all = all and text:find(word, 1, true) ~= nil end
    if all then return true end
  end
  return false
end

local function refused(options, change, ...)
  write(options, change)
  local model, message, code = fp8llm.load(dir, {context = 64})
  assert.equal(nil, model)
  assert.equal("UNSUPPORTED", code)
  for _, word in ipairs {...} do assert.is_true(message:find(word, 1, true) ~= nil) end
  assert.is_true(has({assert(inspect(dir)).refused}, ...))
end

describe("a scheme for each linear", function()
  -- Attention of one model, feed-forward parts of another.
  local function graft(from)
    local other = tiny.build {quant = from}
    return function(m)
      for i = #m.tensors, 1, -1 do
        if m.tensors[i].name:find "%.mlp%." then table.remove(m.tensors, i) end
      end
      for _, t in ipairs(other.tensors) do
        if t.name:find "%.mlp%." then m.tensors[#m.tensors + 1] = t end
      end
    end
  end
  local function groups(m, mlp)
    m.config.quantization_config = {quant_method = "compressed-tensors", format = "float-quantized",
      ignore = tiny.array {"lm_head"}, config_groups = {
        a = {targets = tiny.array {"re:.*self_attn.*"}, weights = args, input_activations = args}, b = mlp}}
  end
  local function mlp_of(inputs)
    return {targets = tiny.array {"re:.*mlp.*"}, weights = channel, input_activations = inputs}
  end

  it("may be static beside dynamic, in every layout that can say so", function()
    local seen = {}
    local want, info = logits_of({quant = "ct-static"}, function(m)
      graft "ct-dynamic"(m)
      groups(m, mlp_of(token))
    end)
    assert.equal("compressed-tensors mixed", info.quantization)
    seen[want] = true
    for _, other in ipairs {"ct-static", "ct-dynamic"} do
      local plain = logits_of {quant = other}
      assert.equal(nil, seen[plain])
      seen[plain] = true
    end
    local modelopt = logits_of({quant = "ct-static"}, function(m)
      graft "ct-dynamic"(m)
      local layers = {}
      for i = 0, 1 do
        for _, p in ipairs {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"} do
          layers["model.layers." .. i .. "." .. p] = {quant_algo = "FP8"}
        end
        for _, p in ipairs {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} do
          layers["model.layers." .. i .. "." .. p] = {quant_algo = "FP8_PER_CHANNEL_PER_TOKEN"}
        end
      end
      m.config.quantization_config = {quant_method = "modelopt", quant_algo = "MIXED_PRECISION",
        quantized_layers = layers}
    end)
    assert.equal(want, modelopt)
    local fp8, dynamic = {dtype = "fp8_e4m3", qscheme = "per_tensor", is_dynamic = false},
      {dtype = "fp8_e4m3", qscheme = "per_channel", is_dynamic = true}
    assert.equal(want, (logits_of({quant = "ct-static"}, function(m)
      graft "ct-dynamic"(m)
      m.config.quantization_config = {quant_method = "quark", exclude = tiny.array {"lm_head"},
        global_quant_config = {weight = fp8, input_tensors = fp8},
        layer_quant_config = {["*.mlp.*"] = {weight = fp8, input_tensors = dynamic}}}
    end)))
  end)
  it("may leave inputs plain", function()
    local weight_only = logits_of({quant = "ct-static"}, function(m)
      graft "ct-dynamic"(m)
      groups(m, mlp_of(nil))
    end)
    assert.is_true(weight_only ~= logits_of({quant = "ct-static"}, function(m)
      graft "ct-dynamic"(m)
      groups(m, mlp_of(token))
    end))
  end)
  it("splits a fused linear of unequal parts", function()
    local want = logits_of {quant = "ct-static"}
    local got = logits_of({quant = "ct-static"}, function(m)
      m.config.quantization_config.config_groups = {
        all = {targets = tiny.array {"Linear"}, weights = args, input_activations = args},
        one = {targets = tiny.array {layer0 .. "self_attn.k_proj"}, weights = args, input_activations = token}}
    end)
    assert.is_true(want ~= got)
  end)
  it("shows itself by its scales where no target names the linear", function()
    assert.equal(logits_of {quant = "ct-static"}, (logits_of({quant = "ct-static"}, function(m)
      m.config.quantization_config.config_groups.group_0.targets = tiny.array {"re:.*mlp.*"}
    end)))
  end)
  it("is AMD Quark's", function()
    local fp8 = {dtype = "fp8_e4m3", qscheme = "per_tensor", is_dynamic = false}
    local both = {weight = fp8, input_tensors = fp8, output_tensors = fp8}
    local got, info = logits_of({quant = "ct-static", kv_scales = true, kv_names = "output"}, function(m)
      m.config.quantization_config = {quant_method = "quark", exclude = tiny.array {"lm_head"},
        global_quant_config = {weight = fp8, input_tensors = fp8},
        layer_quant_config = {["*k_proj"] = both, ["*v_proj"] = both},
        export = {kv_cache_group = tiny.array {"*k_proj", "*v_proj"}}}
    end)
    assert.equal("F8_E4M3", info.kv_dtype)
    assert.equal("quark static", info.quantization)
    assert.equal(logits_of {quant = "ct-static", kv_scales = true}, got)
  end)
end)

describe("groups that concern no linear", function()
  local attention = {targets = tiny.array {"LlamaAttention"}, weights = tiny.null, input_activations = args}
  it("change nothing", function()
    local want = logits_of {quant = "ct-dynamic", kv_scales = true}
    for _, group in ipairs {attention, {targets = tiny.array {}, weights = {num_bits = 4, type = "int"}},
      {targets = tiny.array {"re:.*experts.*"}, weights = {num_bits = 4, type = "int"}}} do
      assert.equal(want, (logits_of({quant = "ct-dynamic", kv_scales = true}, function(m)
        m.config.quantization_config.config_groups.group_1 = group
      end)))
    end
  end)
  it("may stand alone, for the KV cache", function()
    local got, info = logits_of({}, function(m)
      m.config.quantization_config = {quant_method = "compressed-tensors", format = "dense",
        config_groups = {group_0 = attention}, kv_cache_scheme = args}
      for i = 0, 1 do
        for _, x in ipairs {"k", "v", "q"} do
          m:put("model.layers." .. i .. ".self_attn." .. x .. "_scale", "F32", {1}, {0.01})
        end
      end
    end)
    assert.equal("F8_E4M3", info.kv_dtype)
    assert.is_true(got ~= logits_of {})
  end)
end)

describe("a tied model", function()
  it("may store the head alone", function()
    local want = logits_of {tied = true}
    assert.equal(want, (logits_of({tied = true}, function(m)
      m:tensor("model.embed_tokens.weight").name = "lm_head.weight"
    end)))
  end)
  it("tells of a head that is not used", function()
    local r = report({tied = true}, function(m)
      m:put("lm_head.weight", "BF16", {272, 64}, ("\0"):rep(272 * 64 * 2))
    end)
    assert.is_true(has(r.unused, "lm_head.weight", "ties"))
  end)
end)

describe("a model saved without its head", function()
  local function bare(m)
    for _, t in ipairs(m.tensors) do t.name = t.name:gsub("^model%.", "") end
  end
  it("has no prefix", function()
    for _, o in ipairs {{tied = true}, {quant = "fp8-static"}, {shards = 3}} do
      local want = logits_of(o)
      assert.equal(want, (logits_of(o, bare)))
    end
    assert.equal(logits_of {tied = true}, (logits_of({tied = true}, function(m)
      bare(m)
      m.config.architectures = tiny.array {"LlamaModel"}
    end)))
  end)
  it("is inspected like others", function()
    local want, got = report {quant = "fp8-static"}, report({quant = "fp8-static"}, bare)
    assert.equal(#want.linears, #got.linears)
    assert.equal(want.bytes_per_token, got.bytes_per_token)
  end)
end)

describe("spellings of config.json", function()
  it("give the same numbers", function()
    local f16, bf16 = logits_of {dtype = "F16"}, logits_of {}
    for _, name in ipairs {"auto", "torch.float16", tiny.null} do
      assert.equal(f16, (logits_of({dtype = "F16"}, function(m) m.config.torch_dtype = name end)))
    end
    for _, name in ipairs {"auto", "torch.bfloat16", tiny.null} do
      assert.equal(bf16, (logits_of({}, function(m) m.config.torch_dtype = name end)))
    end
    assert.equal(bf16, (logits_of({}, function(m) m.config.hidden_act = "swish" end)))
  end)
  it("of RoPE: rope_scaling counts before rope_parameters", function()
    assert.equal(logits_of {rope = "linear"}, (logits_of({rope = "linear"}, function(m)
      m.config.rope_parameters = {rope_type = "default", rope_theta = m.config.rope_theta}
    end)))
  end)
  it("may hold nonsense that nobody needs", function()
    assert.equal(logits_of {}, (logits_of({}, function(m)
      m.config.bos_token_id, m.config.pad_token_id = tiny.array {1, 2}, "<pad>"
      m.generation_config.top_p, m.generation_config.temperature = 7, "hot"
    end)))
  end)
end)

describe("norms of F64", function()
  it("are read", function()
    local want = logits_of {}
    local function double(x) -- x: 0.5 <= |x| < 8 of few bits, as 8 bytes
      local sign, exponent = x < 0 and 128 or 0, 0
      x = math.abs(x)
      if x == 0 then return ("\0"):rep(8) end
      while x >= 2 do x, exponent = x / 2, exponent + 1 end
      while x < 1 do x, exponent = x * 2, exponent - 1 end
      local bits = exponent + 1023
      local fraction = (x - 1) * 2 ^ 20
      local high = math.floor(fraction)
      assert(fraction == high, "a value of few bits")
      return "\0\0\0\0" .. string.char(high % 256, math.floor(high / 256) % 256,
        (bits % 16) * 16 + math.floor(high / 65536), sign + math.floor(bits / 16))
    end
    assert.equal(want, (logits_of({}, function(m)
      for _, t in ipairs(m.tensors) do
        if t.name:find "norm%.weight$" then
          local out = {}
          for i = 1, #t.data, 2 do
            local a, b = t.data:byte(i, i + 1)
            out[#out + 1] = double(tiny.value("BF16", a + 256 * b))
          end
          t.dtype, t.data = "F64", table.concat(out)
        end
      end
    end)))
  end)
end)

describe("2:4 rows that end inside a byte of the bitmask", function()
  it("are read", function()
    local o = {hidden = 60, ffn = 132, heads = 2, kv_heads = 1, quant = "ct-dynamic", sparse = "dense"}
    local want = logits_of(o)
    o.sparse = "24-bitmask"
    assert.equal(want, (logits_of(o)))
    assert.equal("60", tostring(report(o).linears[1].shape[2]))
  end)
end)

describe("every tensor", function()
  it("is read or known, in each layout we write", function()
    for _, o in ipairs {{}, {quant = "fp8-static", kv_scales = true}, {quant = "ct-dynamic", sparse = "24-bitmask"},
      {quant = "modelopt", kv_scales = true}, {quant = "ct-frozen"}, {sparse = "old-bitmask"},
      {attention_bias = true, mlp_bias = true, shards = 2}, {quant = "fp8-static", fused = "tensor"}} do
      local r = report(o)
      assert.same({}, {r.unused[1]})
      assert.same({}, {r.warnings[1]})
    end
  end)
  it("is known to be unneeded, with the reason", function()
    local r = report({quant = "fp8-static"}, function(m)
      m:put(layer0 .. "self_attn.rotary_emb.inv_freq", "F32", {2}, {1, 2})
      m:put(layer0 .. "self_attn.q_scale", "F32", {1}, {2})
      m:put(layer0 .. "self_attn.k_scale", "F32", {1}, {2})
      m:put(layer0 .. "self_attn.q_proj.bias", "BF16", {64}, ("\0"):rep(128))
      m:put(layer0 .. "mlp.up_proj.weight_zero_point", "I8", {1}, "\0")
      m:put(layer0 .. "mlp.up_proj.pre_quant_scale", "F32", {1}, {1})
    end)
    assert.same({}, {r.warnings[1]})
    assert.is_true(has(r.unused, "rotary_emb.inv_freq", "positions"))
    assert.is_true(has(r.unused, "q_scale", "not quantized here"))
    assert.is_true(has(r.unused, "k_scale", "not FP8"))
    assert.is_true(has(r.unused, "q_proj.bias", "zero"))
    assert.is_true(has(r.unused, "up_proj.weight_zero_point"))
    assert.is_true(has(r.unused, "pre_quant_scale", "factor of one"))
    assert.equal(6, #r.unused)
  end)
  it("is told of otherwise", function()
    local function strangers(m)
      m:put("model.layers.2.mlp.up_proj.weight", "BF16", {1, 1}, "\0\0")
      m:put("score.weight", "BF16", {1, 1}, "\0\0")
      m:put(layer0 .. "self_attn.o_proj.bias", "F32", {64}, ("\0\0\128\63"):rep(64))
      m:put(layer0 .. "mlp.down_proj.output_scale", "F32", {}, {2})
    end
    local r = report({quant = "fp8-static"}, strangers)
    assert.is_true(has(r.warnings, "1 tensors are not used", "model.layers.2.mlp", "fewer layers"))
    assert.is_true(has(r.warnings, "score.weight", "no part of a Llama"))
    assert.is_true(has(r.warnings, "o_proj.bias", "no such bias"))
    assert.is_true(has(r.warnings, "down_proj.output_scale", "outputs"))
    assert.equal(logits_of {quant = "fp8-static"}, (logits_of({quant = "fp8-static"}, strangers)))
  end)
  it("that would change results is refused", function()
    local function with(name, dtype, shape, data)
      return function(m) m:put(layer0 .. name, dtype, shape, data) end
    end
    local up = "mlp.up_proj."
    for _, o in ipairs {{}, {quant = "fp8-static"}} do
      refused(o, with("self_attn.q_norm.weight", "F32", {16}, ("\0\0\128\63"):rep(16)), "q_norm.weight", "norm")
      refused(o, with("post_feedforward_layernorm.weight", "F32", {1}, {1}), "post_feedforward")
      refused(o, with(up .. "pre_quant_scale", "F32", {2}, {1, 2}), "pre_quant_scale", "factor")
      refused(o, with(up .. "weight_scale_2", "F32", {}, {0.5}), "weight_scale_2", "factor")
      refused(o, with(up .. "input_offset", "F32", {}, {0.5}), "input_offset", "offset")
      refused(o, with(up .. "weight_zero_point", "I8", {1}, "\3"), "weight_zero_point", "symmetric")
      refused(o, with(up .. "lora_A.weight", "F32", {1}, {1}), "lora_A")
    end
  end)
  it("named by an index alone may be missing when nobody needs it", function()
    write {shards = 2}
    local path = dir .. "/model.safetensors.index.json"
    local f = assert(io.open(path))
    local text = f:read "*a"
    f:close()
    text = text:gsub('"weight_map":{',
      '%0"model.layers.0.self_attn.rotary_emb.inv_freq":"model-00001-of-00002.safetensors",')
    f = assert(io.open(path, "w"))
    f:write(text)
    f:close()
    assert(fp8llm.load(dir, {context = 64})):close()
  end)
end)

describe("an affine FP8 KV cache", function()
  local function affine(m)
    for i = 0, 1 do
      local attention = "model.layers." .. i .. ".self_attn."
      m:put(attention .. "k_proj.k_bias", "F32", {1, 2, 1, 16}, ("\0\0\128\63"):rep(32))
      m:put(attention .. "v_proj.v_bias", "F32", {1, 2, 1, 16}, ("\0\0\128\64"):rep(32))
    end
  end
  it("is not made: keys and values stay BF16, and that is told", function()
    local o = {quant = "modelopt", kv_scales = true, kv_names = "proj"}
    local got, info = logits_of(o, affine)
    assert.equal("BF16", info.kv_dtype)
    assert.equal(logits_of(o, nil, {kv = "bf16"}), got)
    local r = report(o, affine)
    assert.is_true(has(r.warnings, "k_proj.k_bias", "offsets of an FP8 KV cache", "stay BF16"))
    assert.equal("BF16", r.kv_cache.dtype)
  end)
  it("is refused to who asks for it", function()
    write({quant = "modelopt", kv_scales = true, kv_names = "proj"}, affine)
    local model, message, code = fp8llm.load(dir, {context = 64, kv = "fp8"})
    assert.equal(nil, model)
    assert.equal("UNSUPPORTED", code)
    assert.is_true(message:find("k_bias", 1, true) ~= nil)
  end)
  it("with offsets of zero is one without", function()
    local o = {quant = "modelopt", kv_scales = true, kv_names = "proj"}
    local want = logits_of(o)
    assert.equal(want, (logits_of(o, function(m)
      for i = 0, 1 do m:put("model.layers." .. i .. ".self_attn.k_proj.k_bias", "F32", {1}, {0}) end
    end)))
  end)
end)
