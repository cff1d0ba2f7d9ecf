describe("a tensor", function()
  local fp8llm = require "fp8llm"
  local tensor = fp8llm.tensor

  local function raises(text, f, ...)
    local ok, message = pcall(f, ...)
    assert.is_true(not ok)
    if not tostring(message):find(text, 1, true) then error("got: " .. tostring(message), 2) end
  end

  it("starts as zeros of the shape asked for", function()
    local t = assert(tensor("f32", {2, 3}))
    assert.same({2, 3}, t:shape())
    assert.equal("f32", t:dtype())
    assert.equal("cpu", t:device())
    assert.equal(2, #t)
    assert.same({{0, 0, 0}, {0, 0, 0}}, t:totable())
    assert.equal("fp8llm.tensor: f32 [2,3]", tostring(t))
  end)

  it("takes values flat, nested, or with the shape they have", function()
    assert.same({{1, 2}, {3, 4}}, tensor("f32", {2, 2}, {1, 2, 3, 4}):totable())
    assert.same({{1, 2}, {3, 4}}, tensor("f32", {2, 2}, {{1, 2}, {3, 4}}):totable())
    assert.same({{1, 2, 3}}, tensor("bf16", {{1, 2, 3}}):totable())
    assert.same({{{1}, {2}}, {{3}, {4}}}, tensor("i32", {{{1}, {2}}, {{3}, {4}}}):totable())
    assert.same({5, 6}, tensor("e4m3", {2}, {5, 6}):totable())
    assert.equal(7, tensor("f32", {}, {7}):totable())
    assert.same({0}, tensor("f32", {2, 0}):row(1):shape())
  end)

  local bad_values = {
    {"1 values where the shape has 2", "f32", {2}, {1}},
    {"value 2: number expected, got string", "f32", {2}, {1, "x"}},
    {"dimension 1: 1 tables where the shape has 2", "f32", {2, 2}, {{1, 2}}},
    {"3 values where the shape has 2", "f32", {{1, 2}, {1, 2, 3}}},
    {"dimension 2: table expected, got number", "f32", {{1, 2}, 3}},
    {"element type expected", "f64", {2}},
    {"dimensions are whole numbers", "f32", {1.5}},
    {"at most 4 dimensions", "f32", {1, 1, 1, 1, 1}},
    {"table expected", "f32", 3},
  }
  for _, case in ipairs(bad_values) do
    it("refuses: " .. case[1], function() raises(case[1], tensor, case[2], case[3], case[4]) end)
  end

  it("returns nil, message, code for what memory cannot hold", function()
    local t, message, code = tensor("f32", {2 ^ 40, 2 ^ 40})
    assert.equal(nil, t)
    assert.equal("tensor: the first 2 dimensions are too large", message)
    assert.equal("NOMEM", code)
    assert.equal("NOMEM", select(3, tensor("f32", {2 ^ 52})))
    assert.equal("ARG", select(3, tensor("f32", {-1})))
  end)

  local roundings = { -- dtype, what is stored, what is read
    {"f32", 0.1, 0.100000001490116}, {"f32", 1e300, math.huge},
    {"bf16", 1.00390625, 1.0}, {"bf16", 1.01171875, 1.015625}, {"bf16", 3.4e38, math.huge},
    {"f16", 2049, 2048}, {"f16", 65520, math.huge}, {"f16", 6e-8, 2 ^ -24},
    {"e4m3", 17, 16}, {"e4m3", 19, 20}, {"e4m3", 1000, 448}, {"e4m3", -math.huge, -448}, {"e4m3", 0.001, 2 ^ -9 * 1},
    {"i32", 2.5, 2}, {"i32", -3.7, -4}, {"i32", 3e9, 2147483647}, {"i32", -3e9, -2147483648}, {"i32", 0 / 0, 0},
  }
  it("rounds to its element type", function()
    for _, case in ipairs(roundings) do
      local got = tensor(case[1], {1}):set(1, case[2]):get(1)
      if math.abs(got - case[3]) > 1e-12 and got ~= case[3] then
        error(case[1] .. " of " .. case[2] .. " is " .. got .. ", not " .. case[3])
      end
    end
    local nan = tensor("e4m3", {1}):set(1, 0 / 0):get(1)
    assert.is_true(nan ~= nan)
  end)

  it("is indexed from 1", function()
    local t = tensor("i32", {{1, 2, 3}, {4, 5, 6}})
    assert.equal(6, t:get(2, 3))
    assert.equal(t, t:set(2, 1, 40))
    assert.same({40, 5, 6}, t:row(2):totable())
    raises("index 3 is not in [1, 2]", t.get, t, 3, 1)
    raises("index 0 is not in [1, 3]", t.get, t, 1, 0)
    raises("1 indices for a tensor of 2 dimensions", t.get, t, 1)
    raises("0 indices for a tensor of 2 dimensions", t.set, t, 5)
    raises("whole number", t.get, t, 1.5, 1)
    raises("no row 3 in shape [2,3]", t.row, t, 3)
  end)

  it("shares memory with its rows, whichever is dropped first", function()
    local t = tensor("f32", {{1, 2}, {3, 4}})
    local row = t:row(2)
    row:set(1, 30)
    assert.equal(30, t:get(2, 1))
    t:close()
    raises("closed", t.get, t, 1, 1)
    raises("closed", t.row, t, 1)
    assert.equal("fp8llm.tensor: closed", tostring(t))
    t:close()
    collectgarbage()
    assert.same({30, 4}, row:totable())
    assert.equal(4, row:row(2):totable())
  end)

  it("copies with clone, to and copy", function()
    local t = tensor("f32", {{1, 2.5}, {3, 400.25}})
    local c, q = t:clone(), t:to "e4m3"
    c:set(1, 1, 9)
    assert.equal(1, t:get(1, 1))
    assert.same({{1, 2.5}, {3, 416}}, q:totable())
    assert.same({{1, 2}, {3, 400}}, t:to("i32"):totable())
    assert.equal("f32", t:to("cpu"):dtype())
    assert.same({{5, 6}, {5, 6}}, t:copy(tensor("bf16", {2}, {5, 6})):totable())
    assert.same({{7, 7}, {7, 7}}, t:copy(7):totable())
    assert.equal("DEVICE", select(3, t:to "cuda:77"))
    raises("element type or device", t.to, t, "f64")
  end)

  it("adds and multiplies in place", function()
    local t = tensor("f32", {{1, 2}, {3, 4}})
    assert.same({{2, 3}, {4, 5}}, t:add(1):totable())
    assert.same({{4, 6}, {8, 10}}, t:mul(2):totable())
    assert.same({{5, 8}, {9, 12}}, t:add(tensor("i32", {2}, {1, 2})):totable())
    assert.same({{25, 64}, {81, 144}}, t:mul(t):totable())
    assert.same({{25, 64}, {81, 144}}, t:totable())
    t = tensor("f32", {{1, 2}, {3, 4}})
    assert.same({{2, 4}, {4, 6}}, t:add(t:row(1)):totable()) -- the row as it was before
    raises("shape [3] does not go with [2,2]", t.add, t, tensor("f32", {3}))
    raises("shape [2,2] does not go with [2]", t.add, t:row(1), t)
    raises("fp8llm.tensor expected", t.add, t, "x")
  end)

  it("works on more than one block of elements", function()
    local t, b = tensor("f32", {3, 1000}), tensor("f32", {1000})
    for i = 1, 1000 do b:set(i, i) end
    t:add(b):mul(2)
    assert.equal(2, t:get(1, 1))
    assert.equal(1998, t:get(2, 999))
    assert.equal(2000, t:get(3, 1000))
  end)

  it("fills where a mask says", function()
    local t = tensor("f32", {{1, 2, 3}, {4, 5, 6}})
    assert.same({{1, -1, 3}, {-1, 5, -1}}, t:mask_fill(tensor("i32", {{0, 1, 0}, {1, 0, 9}}), -1):totable())
    assert.same({{1, 0, 0}, {-1, 0, 0}}, t:mask_fill(tensor("e4m3", {3}, {0, 1, 1}), 0):totable())
    assert.same({{8, 0, 0}, {-1, 0, 8}}, t:mask_fill({1, 6}, 8):totable())
    local own = t:clone()
    assert.same({{0, 0, 0}, {0, 0, 8}}, own:mask_fill(own:row(1), 0):totable()) -- the row as it was before
    raises("index 7 is not in [1, 6]", t.mask_fill, t, {1, 7}, 5)
    assert.equal(8, t:get(1, 1)) -- a wrong index changes nothing
  end)

  it("adds to a token id, which counts from 0", function()
    local t = tensor("f32", {4})
    assert.same({0, 0, 0, 2.5}, t:add_at(3, 2.5):totable())
    raises("token id 4 is not in [0, 3]", t.add_at, t, 4, 1)
  end)

  it("finds the largest", function()
    local t = tensor("f32", {6}, {1, 5, 3, 5, -2, 4})
    local index, value = t:argmax()
    assert.equal(2, index)
    assert.equal(5, value)
    local indices, values = t:topk(4)
    assert.same({2, 4, 6, 3}, indices)
    assert.same({5, 5, 4, 3}, values)
    assert.same({2}, (t:to("bf16"):topk(1)))
    raises("topk: 7 is not in [1, 6]", t.topk, t, 7)
    raises("row(i) takes one out of a matrix", t.argmax, tensor("f32", {2, 2}))
    raises("a vector with elements", t.argmax, tensor("f32", {0}))
  end)

  it("softmaxes each row", function()
    local t = tensor("f32", {{0, math.log(3)}, {5, 5}}):softmax()
    assert.is_true(math.abs(t:get(1, 1) - 0.25) < 1e-7 and math.abs(t:get(1, 2) - 0.75) < 1e-7)
    assert.same({0.5, 0.5}, t:row(2):totable())
    t = tensor("f32", {3}, {-math.huge, 0, 2 * math.log(3)}):softmax(2)
    assert.equal(0, t:get(1))
    assert.is_true(math.abs(t:get(3) - 0.75) < 1e-7)
    raises("temperature 0 is not in (0, inf)", t.softmax, t, 0)
    raises("i32", t.softmax, tensor("i32", {2}))
  end)

  it("gives an address that FFI can use", function()
    local t = tensor("f32", {2, 2})
    local address = t:address()
    assert.equal("number", type(address))
    assert.equal(0, address % 64)
    assert.equal(address + 8, t:row(2):address())
    local has_ffi, ffi = pcall(require, "ffi")
    if has_ffi then
      local p = ffi.cast("float *", address)
      p[3] = 1.5
      assert.equal(1.5, t:get(2, 2))
    end
  end)

  it("quantizes to e4m3 and back", function()
    local t = tensor("f32", {{448, -224, 1}, {0, 0, 0}, {4.48, 0.5, -4.48}})
    local q, scale = t:quantize {scheme = "channel"}
    assert.equal("e4m3", q:dtype())
    assert.same({3}, scale:shape())
    assert.same({448, -224, 1}, q:row(1):totable())
    assert.equal(1, scale:get(2))
    assert.is_true(math.abs(scale:get(3) - 0.01) < 1e-9)
    assert.is_true(math.abs(q:dequantize(scale):get(3, 1) - 4.48) < 1e-6)
    assert.equal("bf16", q:dequantize(scale, "bf16"):dtype())
    local _, token = t:quantize() -- the scheme of activations has a smallest scale
    assert.is_true(math.abs(token:get(2) * 448 * 512 - 1) < 1e-6)
    q, scale = t:quantize {scheme = "tensor"}
    assert.same({1}, scale:totable())
    assert.equal(4.5, q:dequantize(1):get(3, 1))
    raises("is none of its values", t.quantize, t, {scheme = "block"})
    raises("unknown option", t.quantize, t, {schema = "token"})
    raises("scale expected", q.dequantize, q, nil)
    local r, message, code = q:dequantize(tensor("f32", {2}))
    assert.equal(nil, r)
    assert.equal("dequantize: 2 scales for 3 rows", message)
    assert.equal("ARG", code)
    assert.equal("quantize: element 2 is inf", select(2, tensor("f32", {2}, {0, math.huge}):quantize()))
  end)

  it("does not keep collected tensors alive", function()
    collectgarbage()
    collectgarbage()
    local before = fp8llm._live()
    for i = 1, 200 do
      local t = tensor("f32", {4, 4})
      local row = t:row(1)
      if i % 3 == 0 then t:close() end
      if i % 5 == 0 then row:close() end
      pcall(tensor, "f32", {2}, {1, "x"})
      pcall(t.add, t, 3)
      t = nil -- luacheck: ignore
      pcall(row.quantize, row)
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, fp8llm._live())
  end)

  it("lets the collector know about large ones", function()
    collectgarbage()
    local before, most = fp8llm._live(), 0
    local t = tensor("f32", {65536})
    for _ = 1, 2000 do
      local c = t:clone() -- 500 MB in all
      most = math.max(most, fp8llm._live() - before)
      c:set(1, 1)
    end
    assert.is_true(most < 3 * 500)
  end)
end)

describe("linear", function()
  local fp8llm = require "fp8llm"
  local tensor = fp8llm.tensor

  local function close(want, got, tolerance)
    for i, row in ipairs(want) do
      for j, v in ipairs(row) do
        if math.abs(got:get(i, j) - v) > tolerance then
          error(("[%d,%d] is %.9g, not %.9g"):format(i, j, got:get(i, j), v), 2)
        end
      end
    end
  end

  -- Whole numbers up to 4: exact in every type.
  local X, W, Y = {}, {}, {}
  for t = 1, 5 do
    X[t] = {}
    for k = 1, 48 do X[t][k] = (t * 7 + k * 3) % 9 - 4 end
  end
  for n = 1, 20 do
    W[n] = {}
    for k = 1, 48 do W[n][k] = (n * 5 + k * 2) % 7 - 3 end
  end
  for t = 1, 5 do
    Y[t] = {}
    for n = 1, 20 do
      local sum = 0
      for k = 1, 48 do sum = sum + X[t][k] * W[n][k] end
      Y[t][n] = sum
    end
  end

  it("multiplies with weights of every type", function()
    for _, dtype in ipairs {"f32", "bf16", "f16", "e4m3"} do
      local y = assert(tensor("f32", X):linear(tensor(dtype, W)))
      assert.same({5, 20}, y:shape())
      close(Y, y, 0)
    end
    close({Y[2]}, tensor("f32", {1, 20}):copy(assert(tensor("f16", X):row(2):linear(tensor("f16", W)))), 0)
    assert.equal("bf16", tensor("bf16", X):linear(tensor("bf16", W), {out = "bf16"}):dtype())
  end)

  it("applies scales and bias", function()
    local scale, bias, want = {}, {}, {}
    for n = 1, 20 do scale[n], bias[n] = 2 ^ (n % 5), n / 4 end
    for t = 1, 5 do
      want[t] = {}
      for n = 1, 20 do want[t][n] = Y[t][n] * scale[n] + bias[n] end
    end
    local w = tensor("e4m3", W)
    local options = {scale = tensor("f32", {20}, scale), bias = tensor("bf16", {20}, bias)}
    close(want, tensor("f32", X):linear(w, options), 0)
    close({{Y[1][1] / 2}}, tensor("f32", X):linear(w, {scale = 0.5}), 0)
    -- Whole numbers are exact under a power of two as the static scale.
    options.act, options.x_scale = "static", 0.25
    close(want, tensor("f32", X):linear(w, options), 0)
  end)

  it("quantizes activations by token", function()
    local x, w = tensor("f32", X), tensor("f32", W)
    local q, scale = w:quantize {scheme = "channel"}
    local y = x:linear(q, {scale = scale, act = "token"})
    local xq, xs = x:quantize {scheme = "token"}
    local want = xq:dequantize(xs):totable()
    local wd = q:dequantize(scale):totable()
    for t = 1, 5 do
      for n = 1, 20 do
        local sum = 0
        for k = 1, 48 do sum = sum + want[t][k] * wd[n][k] end
        assert.is_true(math.abs(y:get(t, n) - sum) < 1e-3)
      end
    end
  end)

  it("knows scales of blocks of 128 columns", function()
    local wide, w = tensor("f32", {3, 300}), tensor("e4m3", {20, 300})
    local scale = tensor("f32", {20, 3})
    for k = 1, 300 do
      for t = 1, 3 do wide:set(t, k, ((t * 7 + k * 3) % 9 - 4) * (k > 256 and 100 or 1)) end
      for n = 1, 20 do w:set(n, k, (n * 5 + k * 2) % 7 - 3) end
    end
    for n = 1, 20 do
      for b = 1, 3 do scale:set(n, b, 2 ^ ((n + b) % 4 - 2)) end
    end
    local q, x_scale = wide:quantize {scheme = "group"}
    assert.same({3, 3}, x_scale:shape())
    assert.is_true(math.abs(x_scale:get(1, 1) * 448 - 3) < 1e-5)
    assert.is_true(math.abs(x_scale:get(1, 3) * 448 - 300) < 1e-3)
    local xd, wd = q:dequantize(x_scale):totable(), w:dequantize(scale):totable()
    assert.equal(w:get(7, 129) * scale:get(7, 2), wd[7][129])
    local want = {}
    for t = 1, 3 do
      want[t] = {}
      for n = 1, 20 do
        local sum = 0
        for k = 1, 300 do sum = sum + xd[t][k] * wd[n][k] end
        want[t][n] = sum
      end
    end
    close(want, assert(wide:linear(w, {scale = scale, act = "group"})), 0.01)
  end)

  it("takes more rows than the backend does at once", function()
    local x = tensor("f32", {600, 48})
    for t = 1, 600 do x:row(t):copy(tensor("f32", {48}, X[(t - 1) % 5 + 1])) end
    local y = assert(x:linear(tensor("e4m3", W)))
    close({[1] = Y[1], [2] = Y[2]}, y, 0)
    for n = 1, 20 do assert.equal(Y[5][n], y:get(600, n)) end
  end)

  local refused = {
    {"input [5,48] does not go with weight [48,20]", {"f32", X}, {"f32", {48, 20}}},
    {"scale has 3 elements for 20 outputs", {"f32", X}, {"e4m3", W}, {scale = {"f32", {3}}}},
    {"bias has 1 elements for 20 outputs", {"f32", X}, {"e4m3", W}, {bias = {"f32", {1}}}},
    {"scale and act need an e4m3 weight, this is BF16", {"f32", X}, {"bf16", W}, {act = "token"}},
    {"i32 tensors", {"i32", X}, {"bf16", W}},
    {"output F16, this input gives F32 or BF16", {"f32", X}, {"bf16", W}, {out = "f16"}},
    {"input scale -1", {"f32", X}, {"e4m3", W}, {act = "static", x_scale = -1}},
  }
  for _, case in ipairs(refused) do
    it("refuses: " .. case[1], function()
      local options = {}
      for k, v in pairs(case[4] or {}) do options[k] = type(v) == "table" and tensor(v[1], v[2]) or v end
      local y, message, code = tensor(case[2][1], case[2][2]):linear(tensor(case[3][1], case[3][2]), options)
      assert.equal(nil, y)
      if not message:find(case[1], 1, true) then error(message) end
      assert.equal("ARG", code)
    end)
  end

  it("raises on options it does not know", function()
    local x, w = tensor("f32", X), tensor("e4m3", W)
    assert.is_true(not pcall(x.linear, x, w, {scales = 1}))
    assert.is_true(not pcall(x.linear, x, w, {x_scale = 1}))
    assert.is_true(not pcall(x.linear, x, w, {act = "static"}))
    assert.is_true(not pcall(x.linear, x, w, {scale = "x"}))
    assert.is_true(not pcall(x.linear, x))
  end)
end)

describe("fp8llm.safetensors", function()
  local fp8llm = require "fp8llm"
  local path = "build/tensor_spec.safetensors"

  -- Little-endian bytes of the bit patterns, `size` bytes each.
  local function bytes(size, ...)
    local out = {}
    for _, v in ipairs {...} do
      for _ = 1, size do
        out[#out + 1] = string.char(v % 256)
        v = math.floor(v / 256)
      end
    end
    return table.concat(out)
  end

  local function write(header, data)
    local f = assert(io.open(path, "wb"))
    f:write(bytes(8, #header), header, data)
    f:close()
  end

  local header = '{"codes":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},'
    .. '"odd":{"dtype":"F32","shape":[2],"data_offsets":[3,11]},'
    .. '"pad":{"dtype":"U8","shape":[1],"data_offsets":[11,12]},'
    .. '"even":{"dtype":"BF16","shape":[2,1],"data_offsets":[12,16]},'
    .. '"scalar":{"dtype":"F32","shape":[],"data_offsets":[16,20]},'
    .. '"deep":{"dtype":"F8_E4M3","shape":[1,1,1,1,1],"data_offsets":[20,21]}}'
  header = header .. (" "):rep(-#header % 8)
  local data = bytes(1, 0x38, 0xb8, 0x7e) .. bytes(4, 0x3f800000, 0xc0000000) .. bytes(1, 9)
    .. bytes(2, 0x3fc0, 0x4040) .. bytes(4, 0x40a00000) .. bytes(1, 0x38)

  it("gives the tensors of a file", function()
    write(header, data)
    local st = assert(fp8llm.safetensors(path))
    assert.equal(6, #st)
    assert.same({"codes", "odd", "pad", "even", "scalar", "deep"}, st:names())
    assert.same({dtype = "bf16", shape = {2, 1}, file = "tensor_spec.safetensors"}, st:info "even")
    assert.equal("u8", st:info("pad").dtype)
    assert.same({1, -1, 448}, st:tensor("codes"):totable())
    assert.same({{1.5}, {3}}, st:tensor("even"):totable())
    assert.equal(5, st:tensor("scalar"):get())
  end)

  it("aligns what the file does not", function()
    local st = assert(fp8llm.safetensors(path))
    local odd = st:tensor "odd"
    assert.same({1, -2}, odd:totable())
    assert.equal(0, odd:address() % 4)
  end)

  it("gives tensors that outlive the file", function()
    collectgarbage()
    collectgarbage()
    local before = fp8llm._live()
    local st = assert(fp8llm.safetensors(path))
    local t = st:tensor "codes"
    local row = st:tensor("even"):row(2)
    st:close()
    st:close()
    assert.is_true(not pcall(st.names, st))
    assert.is_true(select(2, pcall(st.tensor, st, "codes")):find("closed", 1, true) ~= nil)
    st = nil -- luacheck: ignore
    collectgarbage()
    assert.equal(448, t:get(3))
    assert.equal(3, row:get(1))
    t:close()
    row:close()
    collectgarbage()
    collectgarbage()
    assert.equal(before, fp8llm._live())
  end)

  it("refuses to change them", function()
    local t = assert(fp8llm.safetensors(path)):tensor "codes"
    for _, change in ipairs {
      function() t:set(1, 1) end, function() t:add(1) end, function() t:mul(t) end, function() t:copy(0) end,
      function() t:mask_fill({1}, 0) end, function() t:softmax() end, function() t:add_at(0, 1) end,
      function() t:row(1):set(1) end,
    } do
      local ok, message = pcall(change)
      assert.is_true(not ok)
      if not message:find("read-only, clone() it", 1, true) then error(message) end
    end
    assert.same({2, 2, 2}, t:clone():copy(2):totable())
  end)

  it("answers nil, message, code", function()
    local st = assert(fp8llm.safetensors(path))
    local cases = {
      {"ARG", path .. ": no tensor 'nope'", st:tensor "nope"},
      {"ARG", path .. ": no tensor 'nope'", st:info "nope"},
      {"UNSUPPORTED", "tensor_spec.safetensors: pad: tensor: elements of type U8 are not computed with",
        st:tensor "pad"},
      {"UNSUPPORTED", "tensor_spec.safetensors: deep: 5 dimensions, tensors have at most 4", st:tensor "deep"},
    }
    for _, case in ipairs(cases) do
      assert.equal(nil, case[3])
      assert.equal(case[2], case[4])
      assert.equal(case[1], case[5])
    end
    assert.equal("IO", select(3, fp8llm.safetensors "build/no-such-file"))
    local ok, message, code = fp8llm.safetensors "src/util/err.h"
    assert.equal(nil, ok)
    assert.equal("FORMAT", code)
    assert.is_true(message:find("err.h", 1, true) ~= nil)
    os.remove(path)
  end)
end)
