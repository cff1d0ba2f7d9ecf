-- Speed of dummy models of Llama 3 8B's shape, each loaded once: run by the GPU kit (spec/cuda/kit.sh).
--     luajit spec/cuda/kit_bench.lua DTYPE [small]
-- One line a figure, fields between tabs:
--     bench DTYPE WHAT ROWS_A_STEP REQUESTS TOKENS/S SECONDS
-- WHAT is decode (one sequence, 64 tokens of prompt, plain steps), throughput (an engine with so many requests of 64
-- tokens in and 64 out) or prefill (a prompt of so many tokens).  Ends with TAP.
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local shapes = require "fp8llm.shapes"

local dtype, small = arg[1], arg[2] == "small"
local device = os.getenv "KIT_DEVICE" or "cuda"
local counts = small and {1, 2, 16} or {1, 2, 4, 8, 16, 32, 64, 256}
local prompts = small and {16} or {16, 64, 256, 512, 1024, 2048}
local step_rows = small and {32} or {256, 2048}
local isl, osl = small and 4 or 64, small and 3 or 64

io.stdout:setvbuf "line"

local function config_of()
  local config = assert(shapes.config "llama-3-8b")
  if small then
    config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size = 256, 256, 1, 512
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 64
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, nil
  end
  assert(shapes.set_dtype(config, dtype))
  return json.encode(config)
end

local vocab = small and 512 or 128256
local function ids_of(seed, n)
  local ids = {}
  for i = 1, n do ids[i] = (seed * 104729 + i * 7919) % (vocab - 8) + 4 end
  return ids
end

local function figure(what, rows, n, tokens, seconds)
  print(("bench\t%s\t%s\t%d\t%d\t%.1f\t%.4f"):format(dtype, what, rows, n, tokens / seconds, seconds))
end

local function best_of(runs, f)
  local best = math.huge
  for _ = 1, runs do best = math.min(best, (f())) end
  return best
end

local function decode(model, rows)
  local seconds = best_of(3, function()
    local seq = assert(model:sequence())
    assert(seq:feed(ids_of(1, isl)))
    local t0 = fp8llm.clock()
    for i = 1, osl do assert(seq:feed {i + 4}) end
    local t = fp8llm.clock() - t0
    seq:close()
    return t
  end)
  figure("decode", rows, 1, osl, seconds)
end

local function prefill(model, rows)
  for _, n in ipairs(prompts) do
    local seconds = best_of(3, function()
      local seq = assert(model:sequence())
      local ids = ids_of(n, n)
      local t0 = fp8llm.clock()
      assert(seq:feed(ids))
      local t = fp8llm.clock() - t0
      seq:close()
      return t
    end)
    figure("prefill", rows, n, n, seconds)
  end
end

local function throughput(model, rows)
  for _, n in ipairs(counts) do
    local seconds = best_of(2, function()
      local eng = assert(model:engine {max_running = n, max_step_tokens = math.max(rows, n)})
      local requests = {}
      local t0 = fp8llm.clock()
      for i = 1, n do
        requests[i] = assert(eng:submit {ids = ids_of(i, isl), max_tokens = osl, ignore_eos = true, temperature = 0})
      end
      for i = 1, n do
        local choice = requests[i]:result().choices[1]
        assert(choice.fin == "length", choice.message or choice.fin)
      end
      local t = fp8llm.clock() - t0
      eng:close()
      return t
    end)
    figure("throughput", rows, n, n * osl, seconds)
  end
end

local count = 0
local function part(name, f, ...)
  count = count + 1
  local ok, message = pcall(f, ...)
  print(("%s %d - bench %s: %s"):format(ok and "ok" or "not ok", count, dtype, name))
  if not ok then print("# " .. tostring(message):gsub("\n", "\n# ")) end
end

local t0 = fp8llm.clock()
local model, message = fp8llm.load("llama-3-8b", {
  device = device, load_format = "dummy", config_json = config_of(), context = small and 64 or 4096,
  kv_tokens = small and 1024 or 65536, max_step_rows = small and 32 or 2048, prefix_cache = false,
})
if not model then
  print("not ok 1 - bench " .. dtype .. ": loads\n# " .. tostring(message) .. "\n1..1")
  os.exit(1)
end
print(("# %s: loaded in %.1f s on %s"):format(dtype, fp8llm.clock() - t0, model:info().device))
for _, p in ipairs(model:info().paths) do
  local steps = {}
  for i, s in ipairs(p.steps) do steps[i] = s.rows .. " " .. s.path end
  print(("# path %s %d x %s [%d,%d]: up to rows %s"):format(dtype, p.count, p.linear, p.n, p.k,
    table.concat(steps, ", ")))
end
part("decode", decode, model, 1)
part("prefill", prefill, model, step_rows[#step_rows])
for _, rows in ipairs(step_rows) do part(rows .. " rows a step", throughput, model, rows) end
print("1.." .. count)
