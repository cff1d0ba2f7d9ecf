-- What a step costs on the emulated GPU, by its counts (EMU_STATS): launches of a layer, and bytes of
-- memory beside those that the weights, the cache and the activations have.  Run by `make test-cuda`.
local emulated = dofile "spec/support/emulated.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/cuda-launch-" .. (os.getenv "EMU_ARCH" or "gpu")

-- Kernels launched, and bytes read and written by them, for prompts of these lengths one after the other.
local function cost(path, steps, load_options)
  local stats = path .. "-stats"
  os.remove(stats)
  emulated.run("EMU_CHECK=none EMU_STATS=" .. stats, path, ([[
    local model = assert(load { graphs = false, %s })
    local seq = assert(model:sequence())
    for _, n in ipairs { %s } do
      local ids = {}
      for i = 1, n do ids[i] = i %% 200 end
      assert(seq:feed(ids))
    end
    seq:close()
    model:close()
  ]]):format(load_options or "", table.concat(steps, ",")))
  local f = assert(io.open(stats))
  local said = f:read "*a"
  f:close()
  local bytes = 0
  for read, written in said:gmatch "dram_read (%d+) dram_written (%d+)" do bytes = bytes + read + written end
  return tonumber(said:match "total kernels (%d+)"), bytes
end

-- Launches of one layer for a step of n rows: what one more step costs a model of one more layer.
local function launches(options, n, load_options)
  local counts = {}
  for layers = 1, 2 do
    options.layers = layers
    local path = dir .. layers
    tiny.write(path, options)
    counts[layers] = cost(path, { 3, n, n }, load_options) - cost(path, { 3, n }, load_options)
  end
  return counts[2] - counts[1]
end

describe("a layer", function()
  local wide = { context = 4096 } -- a page table of 4096 tokens: attention runs in splits, which are merged
  local flavours = {
    ["fp8-static"] = { quant = "fp8-static" },
    ["fp8-dynamic"] = { quant = "fp8-dynamic" },
    ["fp8-block"] = { quant = "fp8-block", hidden = 128, ffn = 256 },
    sparse = { quant = "ct-dynamic", sparse = "24-bitmask", hidden = 128, ffn = 256 },
    bf16 = {},
  }
  for name, flavour in pairs(flavours) do
    local options = {}
    for k, v in pairs(flavour) do options[k] = v end
    for k, v in pairs(wide) do options[k] = v end
    it("of " .. name .. " is at most 6 launches for 8 rows, 10 for 20", function()
      for _, n in ipairs { 8, 20 } do
        local got = launches(options, n, "context = 4096, kv_tokens = 4096")
        assert.is_true(got <= (n > 8 and 10 or 6), got .. " for " .. n)
      end
    end)
  end

  it("is 5 launches where attention has nothing to merge", function()
    assert.equal(5, launches({ quant = "fp8-dynamic" }, 1))
  end)
end)

describe("a step of one token", function()
  it("reads and writes what weights, cache and activations have, within 5 %", function()
    local shape = { quant = "fp8-dynamic", layers = 2, hidden = 576, heads = 9, kv_heads = 3, head_dim = 64 }
    shape.ffn = 1536
    tiny.write(dir .. "-bytes", shape)
    local _, before = cost(dir .. "-bytes", { 1, 1 })
    local _, after = cost(dir .. "-bytes", { 1, 1, 1 })
    local info = require "fp8llm".load(dir .. "-bytes", { device = "cuda" }):info()
    local kv = shape.layers * 2 * shape.kv_heads * shape.head_dim * 2 * 3
    -- A layer: residual twice in and out, q, attended and SwiGLU out and in; then the head's logits.
    local width = 6 * shape.hidden + 4 * shape.heads * shape.head_dim + 2 * shape.ffn
    local activations = shape.layers * 2 * width + 8 * 272
    local want = info.bytes_per_token + kv + activations
    assert.is_true(math.abs(after - before - want) < 0.05 * want, ("%d, computed %d"):format(after - before, want))
  end)
end)
