-- fp8llm.inspect: flavours, sizes and plans, on checkpoints of full length without data, and small ones.
local fp8llm = require "fp8llm"
local inspect = require("fp8llm.inspect").inspect
local json = require "fp8llm.json"
local files = dofile "spec/support/files.lua"
local sparse = dofile "spec/support/sparse_checkpoint.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local function about(want, got, tolerance)
  assert.is_true(math.abs(got / want - 1) <= tolerance, string.format("%g, expected about %g", got, want))
end

-- The largest resident set while f runs, above that of before; nil: this machine does not tell.
local function peak_bytes(f)
  local reset = io.open("/proc/self/clear_refs", "w")
  if not reset then return nil, f() end
  reset:write "5"
  reset:close()
  local function status(key)
    local text = files.read "/proc/self/status"
    return text and tonumber((text:match(key .. ":%s*(%d+)"))) * 1024
  end
  collectgarbage()
  local before = status "VmRSS"
  local result = f()
  return status "VmHWM" - before, result
end

local function clean(dir) os.execute("rm -rf '" .. dir .. "'") end

describe("inspect on full-length sparse files", function()
  local cases = {
    {"llama-3-8b", "fp8", on_disk = 9.08e9, token = 8.03e9, weights = 9.08e9, sparsity = "none", linears = 225},
    {"llama-3.1-8b", "fp8-2of4", on_disk = 9.08e9, token = 8.03e9, packed = 5.42e9, weights = 6.46e9,
      sparsity = "2:4 declared", dense = 6.98e9, linears = 225},
    {"llama-3.1-8b", "bitmask", on_disk = 6.46e9, token = 5.42e9, weights = 6.46e9, sparsity = "2:4 stored",
      linears = 225},
    {"llama-3.1-405b", "modelopt", shard = 5e9, on_disk = 410e9, token = 406e9, weights = 51.3e9,
      options = {tp = 8, context = 131072}, kv = 2 * 126 * 128 * 131072, sparsity = "none", linears = 883},
  }
  for _, case in ipairs(cases) do
    it(case[1] .. " " .. case[2] .. " takes what its publishers say", function()
      local dir = "build/spec/inspect-" .. case[1] .. "-" .. case[2]
      clean(dir)
      sparse.write(dir, case[1], case[2], case.shard)
      local peak, r = peak_bytes(function() return assert(inspect(dir, case.options)) end)
      about(case.on_disk, r.bytes_on_disk, 0.0015)
      about(case.token, r.bytes_per_token, 0.001)
      about(case.packed or case.token, r.packed_bytes_per_token, 0.001)
      about(case.weights, r.plan.weight_bytes, 0.0015)
      assert.equal(case.linears, #r.linears)
      assert.equal(case.sparsity, r.sparsity)
      if case.kv then assert.equal(case.kv, r.plan.kv_bytes) end
      if case.dense then about(case.dense, r.plan.sparse_dense_bytes, 0.001) end
      if not r.sparsity:match "2:4" then assert.equal(0, r.plan.sparse_dense_bytes) end
      local p = r.plan
      assert.equal(p.weight_bytes + p.kv_bytes + p.activation_bytes + p.rope_bytes, p.total_bytes)
      assert.same({"model.embed_tokens", "norms", "lm_head"}, {r.unquantized[1], r.unquantized[2], r.unquantized[3]})
      -- Holes are zeros: a warning, no failure.
      assert.is_true(r.warnings[#r.warnings]:find("scales that are 0", 1, true) ~= nil, r.warnings[#r.warnings])
      -- Headers and scales, not weights: the smallest of these files is 100 times as large.
      assert.is_true(not peak or peak < 64e6, peak)
      clean(dir)
    end)
  end
end)

describe("inspect of a small checkpoint", function()
  local dir = "build/spec/inspect"
  local flavours = {
    {"none", {}, flavour = "none", activations = "none"},
    {"AutoFP8 with KV scales", {quant = "fp8-static", kv_scales = true}, flavour = "autofp8", activations = "static"},
    {"AutoFP8 dynamic", {quant = "fp8-dynamic", tied = true}, flavour = "autofp8", activations = "token"},
    {"compressed-tensors", {quant = "ct-dynamic", kv_heads = 1}, flavour = "compressed-tensors",
      activations = "token"},
    {"modelopt", {quant = "modelopt", kv_scales = true, shards = 3}, flavour = "modelopt", activations = "static"},
  }
  for _, case in ipairs(flavours) do
    it("tells what " .. case[1] .. " is and what loading it takes", function()
      clean(dir)
      tiny.write(dir, case[2])
      local r = assert(inspect(dir, {tensors = true, context = 128}))
      assert.equal(case.flavour, r.quantization.flavour)
      assert.equal(case.activations, r.quantization.activations)
      assert.same({}, r.warnings)
      assert.equal(case[2].shards or 1, #r.files)
      local model = assert(fp8llm.load(dir, {context = 128, kv = "auto"}))
      local info = model:info()
      assert.equal(info.parameters, r.parameters)
      assert.equal(info.kv_bytes, r.plan.kv_bytes)
      about(info.weight_bytes, r.plan.weight_bytes, 0.1) -- ours has a scale for each row
      about(info.bytes_per_token, r.bytes_per_token, 0.1)
      about(info.scratch_bytes, r.plan.activation_bytes, 0.02) -- pieces are aligned
      about(info.memory_planned, r.plan.total_bytes, 0.02) -- what loading planned, from the same files
      assert.equal(info.kv_dtype, r.kv_cache.dtype)
      local l = r.linears[1]
      assert.equal("model.layers.0.self_attn.q_proj", l.name)
      assert.equal(case.flavour ~= "none", l.quantized)
      if l.quantized then
        local values = model:tensor "model.layers.0.self_attn.q_proj.weight_scale":to("f32"):totable()
        local all = {}
        for _, v in ipairs(type(values) == "table" and values or {values}) do
          all[#all + 1] = type(v) == "table" and v[1] or v
        end
        table.sort(all)
        assert.equal(#all, l.weight_scale.count)
        assert.equal(all[1], l.weight_scale.min)
        assert.equal(all[math.floor(#all / 2) + 1], l.weight_scale.median)
        assert.equal(all[#all], l.weight_scale.max)
      end
      assert.equal(case[2].kv_scales and 2 or 0, r.kv_cache.layers_with_scales)
      assert.equal(case[2].kv_scales and "F8_E4M3" or "BF16", r.kv_cache.dtype)
      model:close()
    end)
  end

  it("splits among devices: KV heads are kept twice where there are too few", function()
    clean(dir)
    tiny.write(dir, {quant = "fp8-static", heads = 4, kv_heads = 2, hidden = 64})
    local one = assert(inspect(dir, {tp = 1, context = 64, max_running = 3})).plan
    local four = assert(inspect(dir, {tp = 4, context = 64, max_running = 3})).plan
    assert.equal(2, one.kv_heads)
    assert.equal(1, four.kv_heads)
    assert.equal(one.kv_bytes, 2 * four.kv_bytes)
    assert.equal(one.kv_bytes, one.kv_bytes_per_token * 64 * 3)
    assert.is_true(four.weight_bytes > one.weight_bytes / 4 and four.weight_bytes < one.weight_bytes / 2)
    for _, wrong in ipairs {{tp = 3}, {tp = 0}, {context = 100000}, {max_running = 0}} do
      local nothing, _, code = inspect(dir, wrong)
      assert.equal(nil, nothing)
      assert.equal("ARG", code)
    end
  end)

  it("warns of scales that no loader takes, and names what is refused", function()
    clean(dir)
    local m = tiny.build {quant = "fp8-static"}
    local kept = {}
    for _, t in ipairs(m.tensors) do
      if t.name == "model.layers.0.mlp.up_proj.input_scale" then t.data = "\0\0\128\127" end -- infinity
      if t.name == "model.layers.1.mlp.up_proj.weight_scale" then t.data = "\0\0\0\0" end
      if t.name ~= "model.layers.1.mlp.gate_proj.weight_scale" then kept[#kept + 1] = t end
    end
    m.tensors = kept
    m:write(dir)
    local r = assert(inspect(dir))
    local all = table.concat(r.warnings, "\n")
    for _, part in ipairs {"layers.0.mlp.up_proj.input_scale: 1 of 1", "1 linears have scales that are 0",
      "layers.1.mlp.gate_proj.weight: F8_E4M3 without"} do
      assert.is_true(all:find(part, 1, true) ~= nil, all)
    end
    m.config.quantization_config = {quant_method = "awq"}
    m:write(dir)
    r = assert(inspect(dir))
    assert.is_true(r.refused:find("awq", 1, true) ~= nil, r.refused)
    local _, _, code = inspect "build/spec/nothing"
    assert.equal("IO", code)
  end)

  it("documents every member of the JSON report, and writes all that it documents", function()
    clean(dir)
    tiny.write(dir, {quant = "modelopt", kv_scales = true})
    local report = assert(json.decode(json.encode(assert(inspect(dir, {tensors = true})))))
    report.refused = "" -- only of a scheme that is
    for file, class in pairs {inspect = report, plan = report.plan} do
      local name = file == "plan" and "memory_plan" or "inspect_report"
      local block = files.read("lua/fp8llm/" .. file .. ".lua"):match("class fp8llm%." .. name .. ".-\n\n")
      local documented = {}
      for field in block:gmatch "@field ([%w_]+)" do
        documented[field] = true
        assert.is_true(class[field] ~= nil, field .. " is documented")
      end
      for field in pairs(class) do assert.is_true(documented[field], field .. " is written") end
    end
  end)
end)
