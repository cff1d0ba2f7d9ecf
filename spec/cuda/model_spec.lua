-- Whole tiny models on a GPU (or an emulated one) against the CPU backend: every way a checkpoint
-- can be quantized, prompts in pieces, KV caches in BF16 and E4M3, requests in one batch.
-- Run by `make test-cuda`; needs a device.
local tiny = dofile "spec/support/tiny_model.lua"
local fp8llm = require "fp8llm"

local dir = "build/spec/cuda-" .. (os.getenv "EMU_ARCH" or "gpu") .. "/"
os.execute("mkdir -p " .. dir)

local function prompt(n, seed)
  local ids = {}
  for i = 1, n do
    seed = (seed * 48271) % 2147483647
    ids[i] = seed % 266
  end
  return ids
end

-- What both devices say of the same tokens, fed in steps of the given lengths.
local function compare(name, options, steps, load_options)
  local path = dir .. name
  tiny.write(path, options)
  local rows = {}
  for _, device in ipairs { "cpu", "cuda" } do
    local o = { device = device, context = 128 }
    for k, v in pairs(load_options or {}) do o[k] = v end
    local model = assert(fp8llm.load(path, o))
    local seq, ids, at = assert(model:sequence()), prompt(100, 7), 0
    rows[device] = {}
    for i, n in ipairs(steps) do
      local piece = {}
      for j = 1, n do piece[j] = ids[at + j] end
      at = at + n
      rows[device][i] = assert(seq:feed(piece)):totable()
    end
    model:close()
  end
  local worst, spread = 0, 0
  for i, row in ipairs(rows.cpu) do
    for v, logit in ipairs(row) do
      worst = math.max(worst, math.abs(logit - rows.cuda[i][v]))
      spread = math.max(spread, math.abs(logit))
    end
  end
  return worst, spread, rows
end

local function best(row)
  local top, at, second = -math.huge, 0, -math.huge
  for v, logit in ipairs(row) do
    if logit > top then
      top, at, second = logit, v, top
    elseif logit > second then
      second = logit
    end
  end
  return at, top - second
end

-- A code that falls on the other side of a tie moves a logit by about 1/16 of an activation's
-- share in it.  With the 13-bit sums of Hopper's FP8 units (EMU_MMA=13bit) fp8-block gave 0.034.
local BOUND = 0.05 -- of the largest logit

local flavours = {
  bf16 = {},
  f16 = { dtype = "F16" },
  tied = { tied = true, attention_bias = true, mlp_bias = true },
  ["fp8-static"] = { quant = "fp8-static", split_scales = true },
  ["fp8-dynamic"] = { quant = "fp8-dynamic" },
  ["fp8-block"] = { quant = "fp8-block", hidden = 128, ffn = 256 },
  ["ct-dynamic"] = { quant = "ct-dynamic", hidden = 128, ffn = 320 },
  ["ct-weight-only"] = { quant = "ct-weight-only" },
  ["modelopt-block"] = { quant = "modelopt-block", hidden = 128, ffn = 256 },
  fbgemm = { quant = "fbgemm" },
  sparse = { quant = "ct-dynamic", sparse = "24-bitmask", hidden = 128, ffn = 256 },
  ["fp8-kv"] = { quant = "fp8-static", kv_scales = true },
  odd = { quant = "fp8-dynamic", hidden = 72, heads = 3, kv_heads = 1, head_dim = 24, ffn = 100 },
}
local names = {}
for name in pairs(flavours) do names[#names + 1] = name end
table.sort(names)

describe("a model on the GPU", function()
  for _, name in ipairs(names) do
    it(name .. " agrees with the CPU, in prompts of 1 to 40 tokens", function()
      local steps = { 3, 40, 1, 1, 9, 2 }
      local worst, spread, rows = compare(name, flavours[name], steps)
      assert.is_true(worst <= BOUND * spread, ("%g of %g"):format(worst, spread))
      for i, row in ipairs(rows.cpu) do
        local id, gap = best(row)
        if gap > 4 * worst then assert.equal(id, (best(rows.cuda[i]))) end
      end
    end)
  end

  it("gives the tokens of the CPU to requests in one batch", function()
    local said = {}
    tiny.write(dir .. "batch", { quant = "fp8-static" })
    for _, device in ipairs { "cpu", "cuda" } do
      local model = assert(fp8llm.load(dir .. "batch", { device = device, context = 64 }))
      local engine = assert(model:engine { max_running = 4 })
      local requests = {}
      for i = 1, 5 do
        local request = { ids = prompt(3 + 5 * i, i), max_tokens = 6, ignore_eos = true, temperature = 0 }
        requests[i] = assert(engine:submit(request))
      end
      requests[3]:cancel()
      said[device] = {}
      for i = 1, 5 do
        local result = requests[i]:result()
        if i ~= 3 then said[device][i] = table.concat(result.choices[1].t, " ") end
      end
      engine:close()
      model:close()
    end
    assert.same(said.cpu, said.cuda)
  end)

  it("is refused by name when it is not there", function()
    local model, message, code = fp8llm.load(dir .. "batch", { device = "cuda:99" })
    assert.is_nil(model)
    assert.matches("cuda:99", message)
    assert.equal("DEVICE", code)
    assert.equal("ARG", select(3, fp8llm.load(dir .. "batch", { device = "cuda:one" })))
  end)

  if os.getenv "EMU_ARCH" then
    it("loads with each allocation failing, and leaves nothing behind", function()
      local script = ([[package.cpath = %q package.path = %q
        local _, message, code = require "fp8llm".load(%q, {device = "cuda", context = 64})
        print(code or "loaded", message)]]):format(package.cpath, package.path, dir .. "batch")
      local refused, loaded = 0, false
      for n = 1, 400, 9 do
        local run = "EMU_LEAKS=1 EMU_FAIL_AT=%d luajit -e '%s' 2>&1"
        local p = io.popen(run:format(n, script))
        local said = p:read "*a"
        p:close()
        assert.is_nil(said:match "leak", said)
        loaded = said:match "^loaded" ~= nil
        if loaded then break end
        assert.matches("^NOMEM", said)
        refused = refused + 1
      end
      assert.is_true(loaded and refused > 3)
    end)
  end

  it("needs memory, and says how much", function()
    local model, message, code = fp8llm.load(dir .. "batch", { device = "cuda", context = 64, kv_tokens = 2 ^ 30 })
    assert.is_nil(model)
    assert.equal("NOMEM", code)
    assert.matches("%d", message)
  end)
end)
