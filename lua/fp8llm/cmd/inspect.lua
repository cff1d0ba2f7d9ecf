local common = require "fp8llm.cmd.common"
local inspect = require "fp8llm.inspect"
local json = require "fp8llm.json"
local printable = require "fp8llm.printable"
local must = common.must

local M = {
  summary = "what is in a checkpoint and what it needs",
  usage = "inspect DIR",
  text = [[
Flavour, number formats, scales, sparsity, KV cache, sizes, and the memory of each device: from
config.json, the headers of the weight files and the scales in them; no weight is read
unless --paths asks for it.
What --json prints is described in fp8llm/inspect.lua.]],
  options = {
    {"context", "integer", "N", "plan: tokens of a sequence (default: the model's, at most 8192)"},
    {"max-running", "integer", "N", "plan: sequences of that length at once (default 1)"},
    {"tp", "integer", "N", "plan: devices that share the model (default 1)"},
    {"kv", {"auto", "bf16", "fp8"}, "TYPE", "plan: numbers of the KV cache: auto, bf16, fp8 (default auto)"},
    {"device", "string", "NAME", "plan: cuda, for what a GPU takes (default cpu)"},
    {"paths", "flag", "", "load it on --device and tell how each linear is computed there, by rows of a step"},
    {"layers", "flag", "", "the linears of every layer with their scales"},
    {"tensors", "flag", "", "list every tensor"},
    {"json", "flag", "", "print one JSON object"},
  },
}

-- Names of tensors and what configurations say are whatever a file holds.
local function print(text) common.print(printable(text)) end

local function line(name, format, ...) print(string.format("  %-22s " .. format, name, ...)) end

local shape_keys = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
  "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "torch_dtype", "tie_word_embeddings"}

local function range(s)
  if not s then return "-" end
  if s.min == s.max then return string.format("%.4g", s.median) end
  return string.format("%.3g / %.3g / %.3g", s.min, s.median, s.max)
end

local function quantization(r)
  local q = r.quantization
  if q.flavour == "none" then return "none" end
  local words = {q.flavour, "activations " .. q.activations}
  if q.block_columns then words[#words + 1] = string.format("blocks of %d x %d", q.block_rows, q.block_columns) end
  return table.concat(words, ", ")
end

local function show_sizes(r)
  local sparse = r.packed_bytes_per_token ~= r.bytes_per_token
  line("parameters", "%.1f million", r.parameters / 1e6)
  line("on disk", "%s in %d %s", common.bytes(r.bytes_on_disk), #r.files, #r.files == 1 and "file" or "files")
  for _, dtype in ipairs {"F8_E4M3", "BF16", "F16", "F32", "U8", "I64"} do
    local t = r.types[dtype]
    if t then line("  " .. dtype, "%d tensors, %s", t.tensors, common.bytes(t.bytes)) end
  end
  line("read for each token", "%s%s", common.bytes(r.bytes_per_token), sparse and " dense" or "")
  if sparse then line("", "%s with 2:4 packed", common.bytes(r.packed_bytes_per_token)) end
end

local function show_quantization(r)
  line("quantization", "%s", quantization(r))
  if r.refused then line("", "not runnable: %s", r.refused) end
  local note = r.sparsity == "2:4 declared" and " by config.json (weights are not read to check)" or ""
  line("sparsity", "%s%s", r.sparsity, note)
  local kv = r.kv_cache
  line("KV cache", "%s%s", kv.dtype, kv.layers_with_scales > 0 and string.format(", scales in %d layers: k %s, v %s",
    kv.layers_with_scales, range(kv.k), range(kv.v)) or kv.dtype == "F8_E4M3" and ", no scales: 1" or "")
  line("not quantized", "%s", table.concat(r.unquantized, " "))
end

local function row(name, dtype, shape, weight_scale, input_scale)
  print(string.format("  %-22s %-8s %-14s %-31s %s", name, dtype, shape, weight_scale, input_scale))
end

local function heading(what)
  row(what, "dtype", "shape", "weight scale min/median/max", "input scale min/median/max")
end

local function shape_text(shape) return "[" .. table.concat(shape, ",") .. "]" end

-- Linears of one kind, dtype and shape as one line.
local function show_kinds(r)
  local groups, order = {}, {}
  for _, l in ipairs(r.linears) do
    local key = l.kind .. l.dtype .. shape_text(l.shape)
    local g = groups[key]
    if not g then
      g = {l = l, n = 0, weight = {}, input = {}}
      groups[key] = g
      order[#order + 1] = g
    end
    g.n = g.n + 1
    g.weight[#g.weight + 1], g.input[#g.input + 1] = l.weight_scale, l.input_scale
  end
  heading "linears"
  for _, kind in ipairs(inspect.kind_order) do
    for _, g in ipairs(order) do
      if g.l.kind == kind then
        row(string.format("%3d x %s", g.n, kind), g.l.dtype, shape_text(g.l.shape), range(inspect.merge(g.weight)),
          range(inspect.merge(g.input)))
      end
    end
  end
end

local function show_layers(r)
  heading "linears"
  for _, l in ipairs(r.linears) do
    row((l.layer and string.format("%3d ", l.layer) or "    ") .. l.kind, l.dtype, shape_text(l.shape),
      range(l.weight_scale), range(l.input_scale))
  end
end

local function show_plan(p)
  line("memory of each device", "%s with tp %d, %d x %d tokens of context", common.bytes(p.total_bytes), p.tp,
    p.max_running, p.context)
  line("  weights", "%s", common.bytes(p.weight_bytes))
  if p.sparse_dense_bytes > 0 then
    line("", "with --sparse-prefill dense %s more: %s in all", common.bytes(p.sparse_dense_bytes),
      common.bytes(p.total_bytes + p.sparse_dense_bytes))
  end
  line("  KV cache", "%s: %s a token in %s, %d KV %s", common.bytes(p.kv_bytes), common.bytes(p.kv_bytes_per_token),
    p.kv_dtype, p.kv_heads, p.kv_heads == 1 and "head" or "heads")
  line("  activations", "%s for steps of %d rows", common.bytes(p.activation_bytes), p.max_step_rows)
end

local function show_paths(r)
  line("linears run", "on %s%s", r.device, #r.paths == 0 and ": one way for any number of rows" or "")
  for _, p in ipairs(r.paths) do
    local steps = {}
    for i, s in ipairs(p.steps) do steps[i] = string.format("up to %d rows %s", s.rows, s.path) end
    line(string.format("%3d x %s", p.count, p.linear), "[%d,%d] %s: %s", p.n, p.k, p.dtype, table.concat(steps, ", "))
  end
end

local function show(r, opt)
  print(r.dir)
  line("architecture", "%s", r.architecture)
  for _, key in ipairs(shape_keys) do line(key, "%s", tostring(r.config[key])) end
  line("chat template", "%s", r.chat_template and "yes" or "no")
  show_quantization(r)
  show_sizes(r)
  show_plan(r.plan)
  if opt.layers then show_layers(r) else show_kinds(r) end
  if r.paths then show_paths(r) end
  for _, w in ipairs(r.warnings) do print("  warning: " .. w) end
  for _, t in ipairs(r.tensors or {}) do
    print(string.format("  %-52s %-8s %s", t.name, t.dtype, shape_text(t.shape)))
  end
end

-- What the device plans for the linears of the model as it is: so it is loaded.
local function paths_of(dir, opt)
  local fp8llm = require "fp8llm"
  local model = must(fp8llm.load(dir, {device = opt.device, context = opt.context}))
  local info = model:info()
  model:close()
  return info.device, json.array(info.paths)
end

function M.run(opt, words)
  local dir = common.find(common.argument(words, 1, "DIR"))
  common.no_more(words, 1)
  local r = must(inspect.inspect(dir, {
    tensors = opt.tensors, context = opt.context, max_running = opt.max_running, tp = opt.tp, kv = opt.kv,
  }))
  if opt.paths then r.device, r.paths = paths_of(dir, opt) end
  if opt.json then common.write(json.encode(r) .. "\n") else show(r, opt) end
end

return M
