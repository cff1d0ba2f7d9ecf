-- Tensors: look into a checkpoint, quantize a weight to FP8, multiply with it, and see what
-- that costs in accuracy.
--     luajit examples/tensors.lua [MODEL] [TENSOR]
local fp8llm = require "fp8llm"

local model = arg[1] or "build/models/SmolLM2-135M-Instruct"
local file = assert(fp8llm.safetensors(model .. "/model.safetensors"))
local name = arg[2] or "model.layers.0.mlp.down_proj.weight"
local info = assert(file:info(name))
print(("%d tensors in %s"):format(#file, info.file))
print(("%s: %s [%s]"):format(name, info.dtype, table.concat(info.shape, ", ")))

-- A read-only view of the mapped file: nothing is copied, and it keeps the file open.
local weight = assert(file:tensor(name))
file:close()
if info.dtype == "e4m3" then error "this weight is FP8 already: give the model it was made from" end

-- One scale for each row; real value = code * scale.
local codes, scale = weight:quantize {scheme = "channel"}
assert(codes, scale)
print(("quantized: %s and scales %s"):format(tostring(codes), tostring(scale)))

-- |a - b| / |b| over all elements of two matrices
local function distance(a, b)
  local difference, size = 0, 0
  for i = 1, #b do
    local x, y = a:row(i):totable(), b:row(i):totable()
    for j = 1, #y do
      difference = difference + (x[j] - y[j]) ^ 2
      size = size + y[j] ^ 2
    end
  end
  return math.sqrt(difference / size)
end

print(("error of the weight: %.2f %%"):format(100 * distance(codes:dequantize(scale), weight)))

-- Four rows of activations; then the same product in FP8 x FP8, as a model computes it.
local x = fp8llm.tensor("f32", {4, #weight:row(1)})
for t = 1, 4 do
  for k = 1, x:shape()[2] do x:set(t, k, math.sin(t * k * 0.7) * (1 + k % 5)) end
end
local y = assert(x:linear(weight))
local fp8 = assert(x:linear(codes, {scale = scale, act = "token"}))
print(("error of the product: %.2f %%"):format(100 * distance(fp8, y)))

-- Under LuaJIT the elements are plain memory.
local has_ffi, ffi = pcall(require, "ffi")
if has_ffi then
  local p = ffi.cast("const float *", fp8:address())
  print(("first outputs: %.4f %.4f (BF16: %.4f %.4f)"):format(p[0], p[1], y:get(1, 1), y:get(1, 2)))
end
