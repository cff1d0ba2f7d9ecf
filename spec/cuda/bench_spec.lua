-- `fp8llm bench` on a device: figures, the bounds measured in the same run, and fractions of them.
-- Run by `make test-cuda`; on the emulated GPU the figures mean nothing, only their relations hold.
local json = require "fp8llm.json"
local tiny = dofile "spec/support/tiny_model.lua"
local fp8llm = require "fp8llm"

local dir = "build/spec/cuda-bench-" .. (os.getenv "EMU_ARCH" or "gpu")
tiny.write(dir, { quant = "fp8-static" })

local function bench(kind, ...)
  local words = { "build/fp8llm bench", kind, dir, "--device cuda --runs 1 --peak-size 64 --json", ... }
  local p = io.popen(table.concat(words, " ") .. " 2>&1")
  local said = p:read "*a"
  p:close()
  return assert(json.decode(said), said)
end

-- The bounds are there, and the fractions are those of what was measured.
local function check_bounds(r)
  assert.matches("sm_%d+", r.device)
  for _, bound in ipairs { "read_bandwidth", "flop_peak", "fp8_peak", "bf16_peak" } do assert.is_true(r[bound] > 0) end
  assert.equal(r.fp8_peak, r.flop_peak)
end

local function near(a, b) return math.abs(a - b) <= 1e-6 * math.abs(b) end

describe("fp8llm bench on a device", function()
  it("measures the device's bounds through the backend", function()
    assert.is_true(assert(fp8llm.read_bandwidth { device = "cuda", bytes = 2 ^ 20 }) > 0)
    for _, dtype in ipairs { "fp8", "bf16" } do
      assert.is_true(assert(fp8llm.flop_peak { device = "cuda:0", dtype = dtype, size = 32 }) > 0)
    end
    assert.equal("DEVICE", select(3, fp8llm.flop_peak { device = "cuda:77", size = 32 }))
    assert.equal("ARG", select(3, fp8llm.read_bandwidth { device = "cuda", bytes = 5 }))
    assert.equal("ARG", select(3, fp8llm.flop_peak { device = "cuda", size = 33 }))
    assert.equal("ARG", select(3, fp8llm.flop_peak { device = "cuda", dtype = "fp4" }))
  end)

  it("decode", function()
    local r = bench("decode", "--tokens 3 --prompt 4")
    check_bounds(r)
    assert.is_true(near(r.fraction, r.tokens_per_second * r.bytes_per_token / r.read_bandwidth))
    assert.is_true(near(r.peak_fraction, r.flops / r.flop_peak) and r.flops > 0)
  end)

  it("prefill", function()
    local r = bench("prefill", "--length 20")
    check_bounds(r)
    local one = r.prefill[1]
    assert.equal(20, one.prompt_tokens)
    assert.is_true(near(one.peak_fraction, one.flops / r.flop_peak) and one.fraction > 0)
  end)

  it("throughput", function()
    local r = bench("throughput", "--requests 3 --isl 5 --osl 3")
    check_bounds(r)
    assert.is_true(near(r.peak_fraction, r.flops / r.flop_peak) and r.fraction > 0)
  end)

  it("ops", function()
    local r = bench("ops", "--tokens 2 --prompt 4")
    check_bounds(r)
    local seen = {}
    for _, phase in ipairs { r.decode, r.prefill } do -- few rows go half a layer at a time
      for _, t in ipairs(phase.ops) do
        seen[t.op:match "^%S+"] = true
        assert.is_true(near(t.fraction, t.bytes_per_second / r.read_bandwidth))
        assert.is_true(near(t.peak_fraction + 1, t.flops / r.flop_peak + 1))
      end
    end
    assert.is_true(seen.linear and seen.attend and seen.norm)
  end)
end)
