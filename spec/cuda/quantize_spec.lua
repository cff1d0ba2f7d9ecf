-- Calibration on the device: what quantize writes there beside what it writes on the CPU.  Weights
-- and their scales do not depend on the calibration and are the same bytes; scales of inputs and of
-- the KV cache are largest magnitudes of activations that were rounded to BF16 on the way, so they
-- may lie a few roundings apart; 2:4 prunes the other of two weights only where the two scores are
-- nearly the same.  Run by `make test-cuda`.
local tiny = dofile "spec/support/tiny_model.lua"
local fp8llm = require "fp8llm"

local base = "build/spec/cuda-quantize-" .. (os.getenv "EMU_ARCH" or "gpu")
local src, lines = base .. "-src", base .. ".jsonl"
tiny.write(src, { seed = 3, kv_heads = 1, hidden = 64, ffn = 128 })
local jsonl = assert(io.open(lines, "w"))
jsonl:write('{"messages":[{"role":"user","content":"one two"},{"role":"assistant","content":"three"}]}\n',
  '{"text":"plain words, no chat, but more of them than the other lines have"}\n')
jsonl:close()

-- Loaded models of what each device makes.
local function quantize(name, options)
  local made = {}
  for _, device in ipairs { "cpu", "cuda" } do
    local dst = ("%s-%s-%s"):format(base, name, device)
    os.execute("rm -rf " .. dst)
    local o = { src = src, dst = dst, calibrate = lines, device = device }
    for k, v in pairs(options) do o[k] = v end
    made[device .. "_report"] = assert(fp8llm.quantize(o))
    made[device] = assert(fp8llm.load(dst, { device = "cpu" }))
  end
  assert.same(made.cpu_report, made.cuda_report)
  return made
end

local modules = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
  "mlp.up_proj", "mlp.down_proj", "self_attn" }

-- f(name, CPU's values, device's) for each tensor of the layers called so.
local function each(made, suffix, f)
  local n = 0
  for layer = 0, made.cpu:config().num_hidden_layers - 1 do
    for _, module in ipairs(modules) do
      local name = ("model.layers.%d.%s.%s"):format(layer, module, suffix)
      local cpu = made.cpu:tensor(name)
      if cpu then
        n = n + 1
        f(name, cpu:totable(), assert(made.cuda:tensor(name)):totable())
      end
    end
  end
  assert.is_true(n > 0, suffix)
end

local function flat(t, out)
  out = out or {}
  for _, v in ipairs(t) do
    if type(v) == "table" then flat(v, out) else out[#out + 1] = v end
  end
  return out
end

local function same(name, cpu, cuda) assert.same(cpu, cuda, name) end
-- 8 bits of a BF16's fraction, and a few of them in a row.
local ROUNDINGS = 0.02
-- A model that computes in FP8 meanwhile: one code further, a sixteenth.
local ONE_CODE = 1 / 16

local function near(name, cpu, cuda, bound)
  bound = bound or ROUNDINGS
  cpu, cuda = flat(type(cpu) == "table" and cpu or { cpu }), flat(type(cuda) == "table" and cuda or { cuda })
  for i, v in ipairs(cpu) do
    assert.is_true(v > 0 and math.abs(cuda[i] - v) <= bound * v, ("%s: %g and %g"):format(name, v, cuda[i]))
  end
end

describe("quantize on the device", function()
  it("finds the CPU's scales of inputs and of the KV cache", function()
    local made = quantize("static", { scheme = "fp8-static", kv = "fp8" })
    each(made, "weight", same)
    each(made, "weight_scale", same)
    each(made, "input_scale", near)
    each(made, "k_scale", near)
    each(made, "v_scale", near)
  end)

  it("follows the arithmetic of AutoFP8", function()
    local made = quantize("compat", { scheme = "fp8-static", compat = true })
    each(made, "weight", same)
    each(made, "input_scale", function(name, cpu, cuda) near(name, cpu, cuda, ONE_CODE) end)
  end)

  it("prunes the weights that the CPU prunes", function()
    local made = quantize("wanda", { scheme = "fp8-static", sparse = "2:4" })
    local all, other = 0, 0
    each(made, "weight", function(_, cpu, cuda)
      cpu, cuda = flat(cpu), flat(cuda)
      for i, v in ipairs(cpu) do
        all = all + 1
        if (v == 0) ~= (cuda[i] == 0) then other = other + 1 end
      end
    end)
    assert.is_true(other <= 0.01 * all, ("%d of %d"):format(other, all))
  end)
end)
