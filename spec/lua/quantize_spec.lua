-- fp8llm.quantize: what it writes, how close it is, and what it refuses.
local fp8llm = require "fp8llm"
local files = dofile "spec/support/files.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local src, dst, lines = "build/spec/quantize-src", "build/spec/quantize-dst", "build/spec/quantize.jsonl"
tiny.write(src, {seed = 3, kv_heads = 1, tied = true})

local function remove(dir)
  for _, name in ipairs{"model.safetensors", "config.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "hf_quant_config.json", "junk"} do os.remove(dir .. "/" .. name) end
  os.remove(dir)
end

local chat = '{"messages":[{"role":"user","content":"one two"},{"role":"assistant","content":"three"}]}\n'
files.write(lines, chat .. '{"text":"plain words, no chat"}\n\n' .. chat)

local function quantize(changes)
  local o = {src = src, dst = dst, scheme = "fp8-static", calibrate = lines}
  for k, v in pairs(changes or {}) do o[k] = v or nil end -- false: without it
  return fp8llm.quantize(o)
end

-- Mean distance of the logprobs of some text from those of src, the name of the scheme and the packed bytes.
local function distance(dir)
  local ids = {}
  for i = 1, 60 do ids[i] = (i * 37) % 250 end
  local function scores(of)
    local m = assert(fp8llm.load(of))
    local out = assert(assert(m:sequence()):score(ids)):totable()
    local info = m:info()
    m:close()
    return out, info.quantization, info.weight_bytes
  end
  local a, sum = scores(src), 0
  local b, name, bytes = scores(dir)
  for i = 2, #a do sum = sum + math.abs(a[i] - b[i]) end
  return sum / #a, name, bytes
end

describe("fp8-static", function()
  remove(dst)
  local phases = {}
  local report = assert(quantize{progress = function(phase, f)
    assert(f >= 0 and f <= 1)
    phases[phase] = f
  end})

  it("is done whatever its progress function does, which it looks up once", function()
    local looked, called = 0, 0
    local function progress()
      called = called + 1
      error "on purpose"
    end
    local o = {src = src, dst = dst .. "-once", scheme = "fp8-dynamic"}
    remove(o.dst)
    assert(fp8llm.quantize(setmetatable(o, {__index = function(_, name)
      if name ~= "progress" then return nil end
      looked = looked + 1
      return looked == 1 and progress or error "looked up in the middle of quantizing"
    end})))
    remove(o.dst)
    assert.is_true(called > 0)
    assert.is_true(not pcall(quantize, {progress = 5}))
  end)

  it("reports what it did", function()
    assert.equal(14, report.linears)
    assert.equal(3, report.samples)
    assert.is_true(report.tokens > 10)
    assert.is_true(report.bytes_out < report.bytes_in)
    assert.equal(1, phases.write)
    assert.is_true(phases.calibrate ~= nil and phases.measure ~= nil)
  end)

  it("writes the AutoFP8 layout and leaves the rest alone", function()
    local old, new = assert(fp8llm.safetensors(src .. "/model.safetensors")),
      assert(fp8llm.safetensors(dst .. "/model.safetensors"))
    assert.equal(#old + 28, #new)
    for _, name in ipairs(old:names()) do
      local before, after = old:info(name), new:info(name)
      assert.same(before.shape, after.shape)
      local linear = name:find "proj%.weight$" ~= nil
      assert.equal(linear and "e4m3" or before.dtype, after.dtype)
      if linear then
        for _, leaf in ipairs{"weight_scale", "input_scale"} do
          local info = new:info((name:gsub("weight$", leaf)))
          assert.equal("f32", info.dtype)
          assert.same({}, info.shape)
        end
      else
        assert.same(old:tensor(name):totable(), new:tensor(name):totable())
      end
    end
    local config = files.read(dst .. "/config.json")
    assert.is_true(config:find('"quant_method": "fp8"', 1, true) ~= nil)
    assert.is_true(config:find('"activation_scheme": "static"', 1, true) ~= nil)
    assert.equal(files.read(src .. "/tokenizer.json"), files.read(dst .. "/tokenizer.json"))
    assert.equal(nil, files.read(dst .. ".tmp/config.json"))
  end)

  it("uses amax / 448 and the nearest code", function()
    local old, new = assert(fp8llm.safetensors(src .. "/model.safetensors")),
      assert(fp8llm.safetensors(dst .. "/model.safetensors"))
    local name = "model.layers.1.mlp.down_proj.weight"
    local w = old:tensor(name):to("f32")
    local scale = new:tensor("model.layers.1.mlp.down_proj.weight_scale"):totable()
    local codes, wanted = new:tensor(name), w:quantize{scheme = "tensor"}
    scale = type(scale) == "table" and scale[1] or scale
    local max = 0
    local shape = w:shape()
    for i = 1, shape[1] do for j = 1, shape[2] do max = math.max(max, math.abs(w:get(i, j))) end end
    assert.is_true(math.abs(scale - max / 448) <= 1e-7 * scale)
    assert.same(wanted:totable(), codes:totable())
  end)

  it("gives a model close to the original", function()
    local difference = distance(dst)
    assert.is_true(difference > 0 and difference < 0.2, "mean difference " .. difference)
  end)
end)

-- What every recipe writes for the linear [n,k] and for layer 0's KV cache: shapes by name.
local function names_of(dir)
  local file = assert(fp8llm.safetensors(dir .. "/model.safetensors"))
  local out = {}
  for _, name in ipairs(file:names()) do
    local i = file:info(name)
    out[name] = i.dtype .. " " .. table.concat(i.shape, ",")
  end
  return out, file
end

local up, attn = "model.layers.0.mlp.up_proj.", "model.layers.0.self_attn." -- up: [128,64]
local recipes = {
  {name = "fp8-static in AutoFP8's layout, with KV scales", {scheme = "fp8-static", kv = "fp8"},
    tensors = {[up .. "weight"] = "e4m3 128,64", [up .. "weight_scale"] = "f32 ", [up .. "input_scale"] = "f32 ",
      [attn .. "k_scale"] = "f32 ", [attn .. "v_scale"] = "f32 "}, count = 14 * 2 + 4,
    config = {'"kv_cache_scheme": "static"'}, flavour = "autofp8"},
  {name = "fp8-static as compressed-tensors", {scheme = "fp8-static", format = "compressed-tensors", kv = "fp8"},
    tensors = {[up .. "weight_scale"] = "f32 1", [up .. "input_scale"] = "f32 1", [attn .. "k_scale"] = "f32 1"},
    count = 14 * 2 + 4, config = {'"format": "float-quantized"', '"kv_cache_scheme": {'},
    flavour = "compressed-tensors"},
  {name = "fp8-static as modelopt", {scheme = "fp8-static", format = "modelopt", kv = "fp8"},
    tensors = {[up .. "weight_scale"] = "f32 ", [up .. "input_scale"] = "f32 ",
      [attn .. "k_proj.k_scale"] = "f32 ", [attn .. "v_proj.v_scale"] = "f32 "}, count = 14 * 2 + 4,
    config = {'"quant_algo": "FP8"'}, side = {'"kv_cache_quant_algo": "FP8"', '"exclude_modules": ["lm_head"]'},
    flavour = "modelopt"},
  {name = "fp8-dynamic", {scheme = "fp8-dynamic"}, tensors = {[up .. "weight_scale"] = "f32 128,1"}, count = 14,
    config = {'"strategy": "channel"', '"strategy": "token"', '"ignore": ["lm_head"]'}, flavour = "compressed-tensors"},
  {name = "fp8-dynamic, MSE scales", {scheme = "fp8-dynamic", observer = "mse"},
    tensors = {[up .. "weight_scale"] = "f32 128,1"}, count = 14, config = {'"observer": "mse"'},
    flavour = "compressed-tensors"},
  {name = "fp8-dynamic with BF16 scales", {scheme = "fp8-dynamic", compat = true},
    tensors = {[up .. "weight_scale"] = "bf16 128,1"}, count = 14, config = {}, flavour = "compressed-tensors"},
  {name = "fp8-dynamic as modelopt", {scheme = "fp8-dynamic", format = "modelopt"},
    tensors = {[up .. "weight_scale"] = "f32 128"}, count = 14, config = {'"FP8_PER_CHANNEL_PER_TOKEN"'},
    side = {'"kv_cache_quant_algo": null'}, flavour = "modelopt"},
  {name = "fp8-dynamic in AutoFP8's layout", {scheme = "fp8-dynamic", format = "autofp8"},
    tensors = {[up .. "weight_scale"] = "f32 "}, count = 14, config = {'"activation_scheme": "dynamic"'},
    flavour = "autofp8"},
  {name = "fp8-block", {scheme = "fp8-block"}, tensors = {[up .. "weight_scale_inv"] = "f32 1,1"}, count = 14,
    config = {'"weight_block_size": [128, 128]', '"modules_to_not_convert": ["lm_head"]'}, flavour = "autofp8"},
  {name = "fp8-block as compressed-tensors", {scheme = "fp8-block", format = "compressed-tensors"},
    tensors = {[up .. "weight_scale"] = "f32 1,1"}, count = 14,
    config = {'"block_structure": [128, 128]', '"group_size": 128'}, flavour = "compressed-tensors"},
  {name = "2:4 by Wanda", {scheme = "fp8-dynamic", sparse = "2:4"},
    tensors = {[up .. "weight"] = "e4m3 128,64"}, count = 14, sparse = true,
    config = {'"sparsity_structure": "2:4"', '"format": "dense"'}, flavour = "compressed-tensors"},
  {name = "2:4 by magnitude, MSE scales",
    {scheme = "fp8-static", sparse = "2:4", sparse_method = "magnitude", observer = "mse"},
    tensors = {[up .. "weight"] = "e4m3 128,64"}, count = 28, sparse = true,
    config = {'"sparsity_structure": "2:4"'}, flavour = "autofp8"},
  {name = "2:4 as modelopt", {scheme = "fp8-dynamic", format = "modelopt", sparse = "2:4"},
    tensors = {[up .. "weight"] = "e4m3 128,64"}, count = 14, sparse = true, config = {'"sparsity_structure": "2:4"'},
    side = {}, flavour = "modelopt"},
  {name = "2:4 as bitmask", {scheme = "fp8-dynamic", sparse = "2:4", sparse_format = "bitmask"},
    tensors = {[up .. "compressed"] = "e4m3 128,32", [up .. "bitmask"] = "u8 128,8", [up .. "shape"] = "i64 2,1",
      [up .. "weight_scale"] = "f32 128,1"}, count = 14 * 3, config = {'"format": "sparse-24-bitmask"'},
    flavour = "compressed-tensors"},
}

-- Calibration only where something is measured.
local function needs_lines(o)
  return o.scheme == "fp8-static" or o.kv or (o.sparse and o.sparse_method ~= "magnitude") or nil
end

describe("the files of", function()
  local dir, dense = "build/spec/quantize-recipe", nil
  for _, r in ipairs(recipes) do
    it(r.name, function()
      remove(dir)
      local o = {src = src, dst = dir, calibrate = needs_lines(r[1]) and lines}
      for k, v in pairs(r[1]) do o[k] = v end
      local report = assert(fp8llm.quantize(o))
      assert.equal(14, report.linears)
      local had, _ = names_of(src)
      local has, file = names_of(dir)
      local more = -14 -- each weight, under its own name or not, replaces one
      for name in pairs(has) do if not had[name] or has[name] ~= had[name] then more = more + 1 end end
      assert.equal(r.count, more)
      for name, want in pairs(r.tensors) do assert.equal(want, has[name], name) end
      local config = files.read(dir .. "/config.json")
      assert(require("fp8llm.json").decode(config))
      for _, part in ipairs(r.config) do assert.is_true(config:find(part, 1, true) ~= nil, part) end
      local side = files.read(dir .. "/hf_quant_config.json")
      assert.equal(r.side ~= nil, side ~= nil)
      for _, part in ipairs(r.side or {}) do assert.is_true(side:find(part, 1, true) ~= nil, part) end
      local difference, name, bytes = distance(dir)
      -- 14 linears of two layers; 2:4 saves 0.375 byte a weight
      local linears = 2 * (64 * 64 * 2 + 16 * 64 * 2 + 3 * 128 * 64)
      if not r[1].sparse then
        dense = math.min(dense or bytes, bytes)
      else
        assert.is_true(bytes < dense - 0.36 * linears, bytes .. " of " .. dense)
      end
      assert.equal(r.flavour, name:match "^%S+")
      assert.is_true(difference > 0 and difference < (r[1].sparse and 1.5 or 0.2), "mean difference " .. difference)
      if r.sparse then
        local zeros, broken, all = 0, 0, 128 * 64
        for _, row in ipairs(file:tensor(up .. "weight"):to("f32"):totable()) do
          for i = 1, #row, 4 do
            local n = 0
            for k = i, i + 3 do if row[k] ~= 0 then n = n + 1 end end
            zeros, broken = zeros + 4 - n, broken + (n > 2 and 1 or 0)
          end
        end
        assert.equal(0, broken)
        assert.is_true(zeros >= all / 2 and zeros < all * 0.55, tostring(zeros))
      end
    end)
  end

  it("leaves out what --ignore names", function()
    remove(dir)
    local report = assert(fp8llm.quantize{src = src, dst = dir, scheme = "fp8-dynamic",
      ignore = {"model.layers.0.mlp.up_proj", "re:.*\\.down_proj", "lm_head"}})
    assert.equal(11, report.linears)
    assert.equal(3, report.ignored)
    local has = names_of(dir)
    assert.equal("bf16 128,64", has[up .. "weight"])
    assert.equal(nil, has[up .. "weight_scale"])
    local config = files.read(dir .. "/config.json")
    assert.is_true(config:find('"model.layers.1.mlp.down_proj"', 1, true) ~= nil)
    assert.is_true(config:find("re:", 1, true) == nil)
  end)
end)

describe("compat with AutoFP8", function()
  it("measures inputs on quantized linears and padded lines, as its calibration does", function()
    local dir = "build/spec/quantize-compat"
    remove(dir)
    assert(quantize{dst = dir, compat = true})
    local file, n = assert(fp8llm.safetensors(dir .. "/model.safetensors")), 0
    for line in io.lines "spec/golden/autofp8.txt" do
      local module, scale = line:match "^(model%S+) (%S+)$"
      if module then
        local got = file:tensor(module .. ".input_scale"):totable()
        got = type(got) == "table" and got[1] or got
        assert.is_true(math.abs(got / tonumber(scale) - 1) < 0.01, module .. ": " .. got .. ", expected " .. scale)
        n = n + 1
      end
    end
    assert.equal(14, n)
  end)
end)

describe("shards", function()
  local many, dir, one = "build/spec/quantize-shards-src", "build/spec/quantize-shards", "build/spec/quantize-one"
  local function clean() for _, d in ipairs{many, dir, one, dir .. ".tmp"} do os.execute("rm -rf '" .. d .. "'") end end

  it("are read and written, and hold what one file would", function()
    clean()
    tiny.write(many, {seed = 3, kv_heads = 1, tied = true, shards = 3})
    local o = {src = many, dst = dir, scheme = "fp8-dynamic", max_shard_bytes = 30000}
    -- What an attempt that was killed leaves behind.
    os.execute("mkdir -p " .. dir .. ".tmp")
    files.write(dir .. ".tmp/model-00001-of-00009.safetensors.tmp", "half a file")
    files.write(dir .. ".tmp/model-00007-of-00009.safetensors", "a shard of other limits")
    local report = assert(fp8llm.quantize(o))
    assert.equal(nil, files.read(dir .. ".tmp/model-00007-of-00009.safetensors"))
    assert.equal(nil, files.read(dir .. "/model-00007-of-00009.safetensors"))
    local single = assert(fp8llm.quantize{src = src, dst = one, scheme = "fp8-dynamic"})
    assert.equal(single.bytes_out, report.bytes_out)
    local a, b = assert(fp8llm.load(dir)), assert(fp8llm.load(one))
    local described = assert(fp8llm.describe(dir))
    local sizes, largest = {}, 0
    for _, t in ipairs(described.tensors) do
      largest = math.max(largest, t.bytes)
      sizes[t.file] = (sizes[t.file] or 0) + t.bytes
      assert.same(b:tensor(t.name):totable(), a:tensor(t.name):totable(), t.name)
    end
    local n = 0
    for _, bytes in pairs(sizes) do
      n = n + 1
      assert.is_true(bytes <= math.max(30000, largest)) -- a tensor above the limit: a file of its own
    end
    assert.is_true(n >= 3, n)
    assert.equal(#assert(fp8llm.describe(one)).tensors, #described.tensors)
    a:close()
    b:close()
    clean()
  end)

  it("that cannot be read whole leave nothing behind", function()
    clean()
    tiny.write(many, {seed = 3, kv_heads = 1, tied = true, shards = 3})
    os.remove(many .. "/model-00002-of-00003.safetensors")
    local _, message, code = fp8llm.quantize{src = many, dst = dir, scheme = "fp8-dynamic", max_shard_bytes = 30000}
    assert.equal("IO", code, message)
    assert.equal(nil, files.read(dir .. ".tmp/config.json"))
    assert.equal(nil, files.read(dir .. "/config.json"))
    clean()
  end)
end)

describe("quantize refuses", function()
  local function refused(code, changes, ...)
    local r, message, got = quantize(changes)
    if r and changes.dst then remove(changes.dst) end -- the next refusal must not be of what is left
    assert.equal(nil, r)
    assert.equal(code, got)
    for _, part in ipairs{...} do assert.is_true(message:find(part, 1, true) ~= nil, message) end
  end
  local out = "build/spec/quantize-refused"

  it("an existing destination", function() refused("ARG", {}, dst, "exists") end)
  it("an unknown scheme", function()
    refused("UNSUPPORTED", {dst = out, scheme = "int4"}, "int4")
  end)
  it("words that do not go together, by name", function()
    local dynamic = {scheme = "fp8-dynamic", calibrate = false}
    local clashes = {
      {"ARG", {calibrate = false}, "calibrate", "fp8-static"},
      {"ARG", {scheme = "fp8-dynamic"}, "calibrate", "fp8-dynamic"},
      {"ARG", dynamic, "kv fp8", kv = "fp8"},
      {"ARG", dynamic, "wanda", sparse = "2:4"},
      {"ARG", dynamic, "sparse_method", sparse_method = "wanda"},
      {"ARG", dynamic, "sparse_format", sparse_format = "bitmask"},
      {"UNSUPPORTED", {format = "gguf"}, "format", "gguf"},
      {"UNSUPPORTED", {observer = "max"}, "observer", "max"},
      {"UNSUPPORTED", {sparse = "4:8"}, "sparse", "4:8"},
      {"UNSUPPORTED", {sparse = "2:4", sparse_method = "gpt"}, "sparse_method", "gpt"},
      {"UNSUPPORTED", {sparse = "2:4", sparse_format = "csr"}, "sparse_format", "csr"},
      {"UNSUPPORTED", {sparse = "2:4", sparse_format = "bitmask"}, "bitmask", "compressed-tensors"},
      {"UNSUPPORTED", {scheme = "fp8-block", format = "compressed-tensors", sparse = "2:4", sparse_format = "bitmask"},
        "bitmask", "fp8-block"},
      {"UNSUPPORTED", {kv = "int8"}, "kv", "int8"},
      {"UNSUPPORTED", {scheme = "fp8-block", format = "modelopt"}, "fp8-block", "modelopt"},
      {"UNSUPPORTED", {compat = true, observer = "mse"}, "compat", "mse"},
      {"UNSUPPORTED", {compat = true, format = "modelopt"}, "compat", "modelopt"},
      {"UNSUPPORTED", {compat = true, scheme = "fp8-block"}, "compat", "fp8-block"},
      {"FORMAT", {ignore = "re:(a"}, "ignore", "re:(a", "byte"},
      {"ARG", {ignore = {"lm_head", "mlp.up"}}, "ignore", "mlp.up", "names no linear"},
    }
    for _, c in ipairs(clashes) do
      local o = {dst = out}
      for k, v in pairs(c[2]) do o[k] = v end
      for k, v in pairs(c) do if type(k) == "string" then o[k] = v end end
      refused(c[1], o, c[3], c[4] or c[3], c[5] or c[3])
    end
  end)
  it("a configuration that has the member already, even if it is null", function()
    tiny.write("build/spec/quantize-null", {tied = true})
    local path = "build/spec/quantize-null/config.json"
    local text = files.read(path)
    files.write(path, '{"quantization_config":null,' .. text:sub(2))
    refused("UNSUPPORTED", {src = "build/spec/quantize-null", dst = out}, "config.json", "quantization_config")
  end)
  it("a model that is quantized already", function()
    refused("UNSUPPORTED", {src = dst, dst = out}, dst, "autofp8")
  end)
  it("a device that is not there, also when nothing is calibrated", function()
    refused("DEVICE", {dst = out, device = "cuda:7"}, "cuda")
    refused("DEVICE", {dst = out, device = "cuda:7", scheme = "fp8-dynamic", calibrate = false}, "cuda")
  end)
  it("a missing calibration file", function()
    refused("IO", {dst = out, calibrate = "no/such.jsonl"}, "no/such.jsonl")
  end)
  it("a malformed line, by its number", function()
    files.write(lines, chat .. "{broken\n")
    refused("FORMAT", {dst = out}, lines .. ":2")
    files.write(lines, chat .. chat .. '{"prompt":"x"}\n')
    refused("FORMAT", {dst = out}, lines .. ":3", "messages")
    files.write(lines, "\n\n")
    refused("FORMAT", {dst = out}, "no samples")
  end)
  it("without leaving anything behind", function()
    assert.equal(nil, files.read(out .. "/config.json"))
    assert.equal(nil, files.read(out .. ".tmp/config.json"))
  end)
  it("wrong types by raising", function()
    assert.is_true(pcall(fp8llm.quantize, {src = src}) == false)
    assert.is_true(pcall(fp8llm.quantize, {src = src, dst = out, sheme = "x"}) == false)
    assert.is_true(pcall(fp8llm.quantize, {src = src, dst = out, scheme = "fp8-dynamic", ignore = 7}) == false)
    assert.is_true(pcall(fp8llm.quantize, {src = src, dst = out, scheme = "fp8-dynamic", ignore = {{}}}) == false)
  end)
end)
