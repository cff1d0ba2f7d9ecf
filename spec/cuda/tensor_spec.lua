-- Tensors of Lua on the device: every method against the same one on the CPU.  Arithmetic is in double
-- and rounded once on both, so values are equal; softmax is f32 there, and close.  Run by `make test-cuda`.
local emulated = dofile "spec/support/emulated.lua"
local fp8llm = require "fp8llm"

local dtypes = { "f32", "bf16", "f16", "e4m3", "i32" }

-- Numbers of either sign, some large, some with fractions.
local function numbers(n, seed, scale)
  local list = {}
  for i = 1, n do
    seed = (seed * 48271) % 2147483647
    list[i] = (seed / 2147483647 - 0.5) * (scale or 40)
  end
  return list
end

local function make(dtype, shape, seed, scale)
  local n = 1
  for _, d in ipairs(shape) do n = n * d end
  return fp8llm.tensor(dtype, shape, numbers(n, seed, scale))
end

local function values(t)
  if type(t) ~= "userdata" then return t end
  return t:to("cpu"):totable()
end

-- f on copies of the tensors on each device; what both return, as tables.
local function both(f, ...)
  local result = {}
  for _, device in ipairs { "cpu", "cuda" } do
    local args = {}
    for i, t in ipairs { ... } do args[i] = t:to(device) end
    result[device] = { f(unpack(args)) }
    for i, v in ipairs(result[device]) do result[device][i] = values(v) end
  end
  return result.cpu, result.cuda
end

local function same(f, ...)
  local cpu, cuda = both(f, ...)
  assert.same(cpu, cuda)
end

describe("a tensor on the device", function()
  it("says what and where it is", function()
    local t = make("bf16", { 2, 3 }, 1):to "cuda:0"
    assert.equal("cuda:0", t:device())
    assert.equal("fp8llm.tensor: bf16 [2,3] on cuda:0", tostring(t))
    assert.same({ 2, 3 }, t:shape())
    assert.equal("bf16", t:dtype())
    assert.equal(2, #t)
    assert.equal("cpu", t:to("cpu"):device())
    assert.equal("cuda:0", t:to("cuda"):device())
    t:close()
    assert.equal("fp8llm.tensor: closed", tostring(t))
    assert.is_false(pcall(t.shape, t))
  end)

  for _, dtype in ipairs(dtypes) do
    it("has the CPU's values: " .. dtype, function()
      local a, b, row = make(dtype, { 3, 300 }, 5), make(dtype, { 3, 300 }, 9, 3), make(dtype, { 300 }, 11, 3)
      same(function(t) return t end, a)
      same(function(t) return t:clone() end, a)
      for _, op in ipairs { "add", "mul", "copy" } do
        same(function(t, u) return t[op](t, u) end, a, b)
        same(function(t, u) return t[op](t, u) end, a, row)
        same(function(t) return t[op](t, 1.37) end, a)
        same(function(t) return t[op](t, t:row(2)) end, a) -- a part of itself
      end
      for _, other in ipairs(dtypes) do
        same(function(t) return t:to(other) end, a)
        same(function(t, u) return t:add(u) end, a, make(other, { 300 }, 3))
      end
      same(function(t, u) return t:mask_fill(u, -7) end, a, make("i32", { 3, 300 }, 8, 2))
      same(function(t) return t:mask_fill({ 1, 300, 900 }, 3.5) end, a)
      same(function(t) return t:mask_fill(t:row(2), -7) end, b) -- by a part of itself
      same(function(t) return t:row(3):add(2), t end, a)
      same(function(t) return t:set(2, 17, 2.7):get(2, 17), t:get(3, 1), t end, a)
      same(function(t) return t:row(2):argmax() end, a)
      same(function(t) return t:row(1):topk(7) end, a)
      same(function(t) return t:add_at(4, 1.25) end, row)
    end)
  end

  it("has the CPU's extreme values", function()
    local odd = fp8llm.tensor("f32", { 7 }, { 0 / 0, math.huge, -math.huge, 3e9, -3e9, 1e-9, 2 ^ 24 + 1 })
    for _, dtype in ipairs { "i32", "e4m3", "f16" } do
      local cpu, cuda = both(function(t) return t:to(dtype):to "f32" end, odd)
      for i, v in ipairs(cpu[1]) do
        assert.is_true(v == cuda[1][i] or v ~= v and cuda[1][i] ~= cuda[1][i], dtype .. " " .. i)
      end
    end
    same(function(t) return t:add(2 ^ 31 - 5) end, fp8llm.tensor("i32", { 3 }, { 1, 2 ^ 30, -7 }))
  end)

  it("has the CPU's probabilities", function()
    for _, case in ipairs { { "f32", 40 }, { "f32", 4000 }, { "bf16", 40 } } do
      local dtype, scale = unpack(case)
      local cpu, cuda = both(function(t) return t:softmax(0.7) end, make(dtype, { 4, 700 }, 3, scale))
      for i, row in ipairs(cpu[1]) do
        for k, p in ipairs(row) do
          local bound = dtype == "f32" and 1e-5 * p + 1e-30 or 2 ^ -7 * p
          assert.is_true(math.abs(p - cuda[1][i][k]) <= bound, ("%g and %g"):format(p, cuda[1][i][k]))
        end
      end
    end
  end)

  it("has the CPU's codes and scales", function()
    for _, dtype in ipairs { "f32", "bf16", "i32" } do
      for _, scheme in ipairs { "token", "tensor", "channel", "group" } do
        same(function(t) return t:quantize { scheme = scheme } end, make(dtype, { 3, 300 }, 4))
        same(function(t)
          local q, scale = t:quantize { scheme = scheme }
          return q:dequantize(scale), q:dequantize(scale, "bf16"), q:dequantize(0.3)
        end, make(dtype, { 3, 300 }, 4))
      end
      same(function(t) return t:quantize() end, make(dtype, { 50 }, 4))
    end
    same(function(t) return t:quantize { scheme = "channel" } end, fp8llm.tensor("f32", { 2, 5 }))
    for _, scheme in ipairs { "token", "channel", "group" } do -- of nothing
      same(function(t) return t:quantize { scheme = scheme } end, fp8llm.tensor("f32", { 2, 0 }))
    end
  end)

  it("has the CPU's products of codes and scales, in every type", function()
    for _, dtype in ipairs(dtypes) do
      local codes, scale = make(dtype, { 3, 300 }, 2, 6), make("f32", { 3 }, 8, 2)
      for _, out in ipairs(dtypes) do
        same(function(t, s) return t:dequantize(s, out), t:dequantize(0.37, out) end, codes, scale)
      end
    end
  end)

  it("multiplies as the CPU does", function()
    local x, w, bias = make("bf16", { 20, 256 }, 4, 2), make("f32", { 48, 256 }, 6, 1), make("f32", { 48 }, 7)
    local q, scale = w:quantize { scheme = "channel" }
    local function close(f, ...)
      local cpu, cuda = both(f, ...)
      local worst, most = 0, 0
      for i, row in ipairs(cpu[1]) do
        for k, v in ipairs(row) do
          worst, most = math.max(worst, math.abs(v - cuda[1][i][k])), math.max(most, math.abs(v))
        end
      end
      assert.is_true(worst <= 1e-5 * most, ("%g of %g"):format(worst, most))
    end
    close(function(a, b, c) return a:linear(b, { bias = c }) end, x, w:to "bf16", bias)
    for _, act in ipairs { "none", "token" } do
      close(function(a, b, c) return a:linear(b, { scale = c, act = act }) end, x, q, scale)
    end
    close(function(a, b) return a:linear(b, { scale = 0.5 }) end, x, q)
    close(function(a, b) return { a:row(7):linear(b):totable() } end, x, w)
    local many, narrow = make("f32", { 300, 40 }, 1), make("e4m3", { 9, 40 }, 2, 4)
    close(function(a, b) return a:linear(b, { act = "token" }) end, many, narrow)
  end)

  it("is not mixed with one that is elsewhere", function()
    local said = emulated.run("EMU_DEVICES=2", "build/spec/cuda-tensor-" .. (os.getenv "EMU_ARCH" or "gpu"), [[
      local t = fp8llm.tensor("f32", { 2, 2 }, { 1, 2, 3, 4 })
      local a, b = t:to "cuda:0", t:to "cuda:1"
      for _, method in ipairs { "add", "mul", "copy", "mask_fill", "linear" } do
        say("1", pcall(a[method], a, b, 1))
        say("2", pcall(a[method], a, t, 1))
        say("3", pcall(t[method], t, a, 1))
      end
      say("4", pcall(a.linear, a, a, { bias = b }))
      say("moved", b:to("cuda:0"):add(a):get(2, 2), a:to("cuda:1"):device())
      say("one device", t:to("cuda"):add(a):add(t:to "cuda:00"):get(2, 2))
      say("none", t:to "cuda:2")
    ]])
    assert.equal(5, select(2, said:gsub("1\tfalse\t[^\n]*cuda:0 and on cuda:1", "")))
    assert.equal(5, select(2, said:gsub("2\tfalse\t[^\n]*cuda:0 and on cpu", "")))
    assert.equal(5, select(2, said:gsub("3\tfalse\t[^\n]*on cpu[^\n]*on cuda:0", "")))
    assert.matches("4\tfalse\t[^\n]*cuda:0 and on cuda:1", said)
    assert.matches("moved\t8\tcuda:1", said)
    assert.matches("one device\t12", said)
    assert.matches("none\tnil\tcuda:2[^\n]*\tDEVICE", said)
  end)

  it("says what the CPU's says when it is misused", function()
    local misuses = {
      function(t) return t:get(1) end, function(t) return t:get(3, 1) end, function(t) return t:row(3) end,
      function(t, vector) return t:add(vector) end, function(t, vector) return t:mask_fill(vector, 1) end,
      function(t) return t:add "x" end, function(t) return t:mask_fill({ 7 }, 1) end,
      function(t) return t:softmax(0) end, function(t) return t:to "i32":softmax() end,
      function(t) return t:to "f64" end, function(t) return t:add_at(0, 1) end, function(t) return t:argmax() end,
      function(t) return t:row(1):topk(4) end, function(t) return t:row(1):add_at(3, 1) end,
      function(t) return t:set(1, 1, "x") end, function(t) return t:quantize { scheme = "block" } end,
      function(t) return t:set(1, 2, 0 / 0):quantize() end, function(t) return t:set(2, 1, -math.huge):quantize() end,
      function(t, vector) return t:dequantize(vector) end, function(t) return t:dequantize() end,
      function(t, vector) return t:linear(vector) end, function(t, vector) return t:linear(t, { scale = vector }) end,
      function(t, vector) return t:linear(t:to "e4m3", { scale = vector:to "i32" }) end,
      function(t) return t:linear(t, { x_scale = 1 }) end, function(t) t:close() return t:clone() end,
    }
    for i, misuse in ipairs(misuses) do
      local said = {}
      for _, device in ipairs { "cpu", "cuda" } do
        local t, vector = make("f32", { 2, 3 }, 1):to(device), make("f32", { 4 }, 1):to(device)
        local ok, value, message, code = pcall(misuse, t, vector)
        assert.is_true(not ok or value == nil, i .. " on " .. device)
        said[device] = { ok, value, message, code }
      end
      assert.same(said.cpu, said.cuda)
    end
    local t = make("f32", { 2 }, 1):to "cuda"
    assert.matches("a tensor on cpu is needed, argument 1 is on cuda:0", select(2, pcall(t.address, t)))
    local sampler = fp8llm.sampler {}
    assert.matches("argument 2 is on cuda:0", select(2, pcall(sampler.sample, sampler, t)))
  end)

  it("gives its memory back when it is closed, or collected", function()
    local said = emulated.run("EMU_MEMORY_MB=200 EMU_LEAKS=1", "build/spec/cuda-tensor-m", [[
      local t = fp8llm.tensor("f32", { 1024, 1024 })
      for _ = 1, 100 do t:to("cuda"):close() end
      for _ = 1, 100 do
        local row = assert(t:to "cuda"):row(5) -- keeps all of it
        assert(row:get(1) == 0)
      end
      collectgarbage()
      local kept, message, code = {}, nil, nil
      while not code do kept[#kept + 1], message, code = t:to "cuda" end
      say(#kept, message, code)
    ]])
    assert.matches("%d+\t[^\n]*4194304 bytes needed, %d+ free\tNOMEM", said)
    assert.is_nil(said:match "leak", said)
  end)
end)
