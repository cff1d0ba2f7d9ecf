-- Which way products take is planned when weights are loaded, and told; what is refused afterwards is an error and
-- never another, slower way.  The emulated cuBLASLt refuses as EMU_LT_REFUSE and EMU_LT_FAIL say.
local emulated = dofile "spec/support/emulated.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/cuda-paths-" .. (os.getenv "EMU_ARCH" or "gpu") .. "/"
os.execute("mkdir -p " .. dir)
tiny.write(dir .. "static", { quant = "fp8-static" })
tiny.write(dir .. "dynamic", { quant = "fp8-dynamic" })
tiny.write(dir .. "sparse", { quant = "ct-dynamic", sparse = "24-bitmask", hidden = 128, ffn = 256 })
tiny.write(dir .. "odd", { quant = "fp8-dynamic", hidden = 72, heads = 3, kv_heads = 1, head_dim = 24, ffn = 100 })

local show = [[
  local model = assert(load { max_step_rows = 64 })
  for _, p in ipairs(model:info().paths) do
    local steps = {}
    for i, s in ipairs(p.steps) do steps[i] = s.rows .. ":" .. s.path end
    say(p.linear, p.count, p.n, p.k, p.dtype, table.concat(steps, " "))
  end
]]
local function paths(settings, name) return emulated.run(settings, dir .. name, show) end

local prompt = [[
  local model = assert(load { max_step_rows = 64 })
  local ids = {}
  for i = 1, 12 do ids[i] = i end
  local row, message, code = model:sequence():feed(ids)
  if row then
    for v = 1, 8 do say("logit", row:get(v)) end
  else
    say("failed", message, code)
  end
]]

describe("paths of linears", function()
  it("are told by name, layers and rows", function()
    local said = paths("", "static")
    assert.matches("o_proj\t2\t64\t64\tF8_E4M3\t8:rows 64:cublaslt\n", said)
    assert.matches("down_proj\t2\t64\t%d+\tF8_E4M3\t8:rows 64:cublaslt\n", said)
    assert.matches("lm_head\t1\t%d+\t64\tBF16\t", said)
    said = paths("", "dynamic")
    local vectors = os.getenv "EMU_ARCH" == "90"
    assert.matches("o_proj\t2\t64\t64\tF8_E4M3\t8:rows 64:" .. (vectors and "cublaslt\n" or "cublaslt%-f32\n"), said)
    assert.matches("down_proj\t2\t128\t256\tF8_E4M3\t8:rows 64:tiles\n", paths("", "sparse"))
    assert.matches("down_proj\t2\t72\t100\tF8_E4M3\t64:rows\n", paths("", "odd"))
  end)

  it("of more than 8 rows on CUDA cores are a warning", function()
    local script = "assert(load { max_step_rows = 64 }):close()"
    assert.matches("down_proj %[72,100%] F8_E4M3: up to 64 rows: rows %(rows: CUDA cores",
      emulated.run("", dir .. "odd", script))
    assert.not_matches("CUDA cores", emulated.run("", dir .. "sparse", script))
    assert.matches("o_proj %[64,64%] F8_E4M3: up to 8 rows: rows, up to 64 rows: cublaslt",
      emulated.run("FP8LLM_LOG=info", dir .. "static", script))
  end)

  -- The first bucket of rows, 9 to 16, is refused: it alone goes another way, to nearly the same logits.
  it("of other numbers of rows stay when one is refused", function()
    assert.matches("o_proj\t2\t64\t64\tF8_E4M3\t8:rows 16:tiles 64:cublaslt\n", paths("EMU_LT_REFUSE=16", "static"))
    assert.matches("o_proj\t2\t64\t64\tF8_E4M3\t8:rows 32:cublaslt[^ ]* 64:tiles\n",
      paths("EMU_LT_REFUSE=64", "dynamic"))
    local function logits(settings)
      local list = {}
      local said = emulated.run(settings, dir .. "static", prompt)
      for x in said:gmatch "logit\t(%S+)" do list[#list + 1] = tonumber(x) end
      assert.equal(8, #list)
      return list
    end
    local whole, without = logits "", logits "EMU_LT_REFUSE=16"
    for v = 1, 8 do assert.is_true(math.abs(whole[v] - without[v]) < 0.05 * (1 + math.abs(whole[v]))) end
  end)

  it("refused while a step runs are an error with status, shape and scales", function()
    local said = emulated.run("EMU_LT_FAIL=2", dir .. "static", prompt)
    assert.matches("failed\t[^\n]*cublasLtMatmul of 12 rows by %[%d+,%d+%], scalar scales, status 15", said)
    assert.matches("status 15[^\n]*\tDEVICE\n", said)
    if os.getenv "EMU_ARCH" == "90" then
      assert.matches("vector scales, status 15", emulated.run("EMU_LT_FAIL=1", dir .. "dynamic", prompt))
    end
  end)

  it("are one where rows must not depend on their number", function()
    local said = emulated.run("", dir .. "static", (show:gsub("max_step_rows = 64", "%0, batch_invariant = true")))
    assert.matches("o_proj\t2\t64\t64\tF8_E4M3\t64:tiles\n", said)
  end)
end)
