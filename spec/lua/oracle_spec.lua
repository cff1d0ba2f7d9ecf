-- The real model against transformers (BF16) and against a numpy reference (static FP8), teacher-forced on
-- the prompts of spec/golden/oracle; spec/golden/README.md describes the files. LuaJIT only: the numbers come
-- from C, the other Luas would wait minutes to see the same ones.
if not rawget(_G, "jit") then return end

local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local ffi = require "ffi"
local files = dofile "spec/support/files.lua"

local golden = "spec/golden/oracle/"
local models = "build/models/"
local work = "build/spec/oracle/"

-- "name.jsonl" -> list of {layers, max_error, mean_error, prompts = {...}}
local function read_golden(name)
  local runs = {}
  for line in io.lines(golden .. name) do
    local item = assert(json.decode(line))
    if item.layers then
      item.prompts = {}
      runs[#runs + 1] = item
    elseif item.ids then
      table.insert(runs[#runs].prompts, item)
    end
  end
  return runs
end

-- A checkpoint directory at `work` whose config.json has `layers`; all other files are those of `source`.
local function with_layers(source, layers)
  local name = work .. source:match "[^/]+/?$" .. "-" .. layers
  local here = assert(io.popen "pwd"):read "*l"
  assert(os.execute(("mkdir -p '%s' && ln -sf '%s/%s/'* '%s/' && rm '%s/config.json'"):format(
    name, here, source, name, name)))
  local config, n = files.read(source .. "/config.json"):gsub('("num_hidden_layers"%s*:%s*)%d+', "%1" .. layers)
  assert(n == 1)
  files.write(name .. "/config.json", config)
  return name
end

-- Where tensor `name` of a safetensors file lies, as offset and length in the whole file.
local function tensor_places(path)
  local f = assert(io.open(path, "rb"))
  local size, scale = 0, 1
  for byte in f:read(8):gmatch "." do
    size, scale = size + byte:byte() * scale, scale * 256
  end
  local header = assert(json.decode(f:read(size)))
  f:close()
  return function(name)
    local at = assert(header[name], name).data_offsets
    return 8 + size + at[1], at[2] - at[1]
  end
end

local function from_hex(hex)
  return (hex:gsub("..", function(byte) return string.char(tonumber(byte, 16)) end))
end

-- The FP8 checkpoint with the input scales of the golden. Weights and their scales follow from the BF16 model
-- alone and must be the golden's; input scales come out of a forward pass and may differ in the last bits
-- from one instruction set to another, and the golden's logits hold for its own scales only.
local function with_golden_scales(source)
  local text = files.read(source .. "/model.safetensors")
  local place = tensor_places(source .. "/model.safetensors")
  local changed = {}
  for line in io.lines(golden .. "fp8_scales.jsonl") do
    local scale = assert(json.decode(line))
    local at, length = place(scale.name)
    local want = from_hex(scale.bytes)
    if text:sub(at + 1, at + length) ~= want then
      assert(scale.name:find "%.input_scale$", scale.name .. " is not that of " .. golden .. "fp8_scales.jsonl: "
        .. "when the quantizer was meant to change, run spec/support/gen_oracle.py fp8")
      changed[#changed + 1] = {at = at, bytes = want}
    end
  end
  if #changed == 0 then return source end
  table.sort(changed, function(a, b) return a.at < b.at end)
  local pieces, from = {}, 1
  for _, c in ipairs(changed) do
    pieces[#pieces + 1] = text:sub(from, c.at)
    pieces[#pieces + 1] = c.bytes
    from = c.at + #c.bytes + 1
  end
  pieces[#pieces + 1] = text:sub(from)
  local name = work .. "SmolLM2-135M-Instruct-FP8"
  local here = assert(io.popen "pwd"):read "*l"
  assert(os.execute(("mkdir -p '%s' && ln -sf '%s/%s/'* '%s/' && rm '%s/model.safetensors'"):format(
    name, here, source, name, name)))
  files.write(name .. "/model.safetensors", table.concat(pieces))
  return name
end

-- argmax and log of the sum of exponentials of n f32
local function summary(row, n)
  local best = 0
  for i = 1, n - 1 do
    if row[i] > row[best] then best = i end
  end
  local top, sum = row[best], 0
  for i = 0, n - 1 do sum = sum + math.exp(row[i] - top) end
  return best, top + math.log(sum)
end

-- Feeds every prompt token by token; what differs from the golden, and by how much.
local function compare(model, run)
  local r = {positions = 0, agree = 0, sure = 0, wrong = {}, max = 0, sum = 0, n = 0, max_run = 0, sum_run = 0}
  for _, p in ipairs(run.prompts) do
    local seq = assert(model:sequence())
    for t, id in ipairs(p.ids) do
      local logits = assert(seq:feed(id))
      local row = ffi.cast("const float *", logits:address())
      local best, norm = summary(row, #logits)
      r.positions = r.positions + 1
      if best == p.best[t] then r.agree = r.agree + 1 end
      if p.gap[t] > 4 * run.max_error then
        r.sure = r.sure + 1
        if best ~= p.best[t] then r.wrong[#r.wrong + 1] = p.name .. " at " .. t end
      end
      for k, top_id in ipairs(p.top[t]) do
        local logprob = row[top_id] - norm
        local d, d_run = math.abs(logprob - p.exact[t][k]), math.abs(logprob - p.run[t][k])
        r.n, r.sum, r.sum_run = r.n + 1, r.sum + d, r.sum_run + d_run
        r.max, r.max_run = math.max(r.max, d), math.max(r.max_run, d_run)
      end
    end
    seq:close()
  end
  r.mean, r.mean_run = r.sum / r.n, r.sum_run / r.n
  return r
end

-- Logprobs are compared with `exact`, the same model with less rounding, and the yardstick is how far the
-- reference implementation itself lies from it. The floors are for shallow FP8, where that is almost nothing
-- until one activation lands on the other side of an E4M3 step: then one position moves by some tenths. An
-- o_proj scale wrong by 0.2 % moves all of them, 0.04 on average.
local function check(file, directory)
  for _, run in ipairs(read_golden(file)) do
    it(("gives the logprobs of %s, %d layers"):format(file, run.layers), function()
      local source = directory()
      local full = tonumber(files.read(source .. "/config.json"):match '"num_hidden_layers"%s*:%s*(%d+)')
      local name = run.layers == full and source or with_layers(source, run.layers)
      local model = assert(fp8llm.load(name, {context = 512}))
      local r = compare(model, run)
      model:close()
      print(("# %s, %d layers: %d positions, top-1 equal %.2f%%, %d of them with a gap above %.3g; "
        .. "logprob difference max %.4f mean %.5f to exact (the reference's own: %.4f %.5f), max %.4f mean %.5f "
        .. "to the reference"):format(file, run.layers, r.positions, 100 * r.agree / r.positions, r.sure,
        4 * run.max_error, r.max, r.mean, run.max_error, run.mean_error, r.max_run, r.mean_run))
      assert.same({}, r.wrong)
      assert.is_true(r.mean <= math.max(1.3 * run.mean_error, 0.008), "mean difference " .. r.mean)
      assert.is_true(r.max <= math.max(2 * run.max_error, 0.4), "largest difference " .. r.max)
    end)
  end
end

-- Perplexity averages the rounding noise of thousands of tokens away, and goes through prefill.
local function check_heldout(kind, directory)
  it("gives the perplexity of the held-out text", function()
    local want = assert(json.decode(files.read(golden .. "heldout.json")))
    local model = assert(fp8llm.load(directory(), {context = want.window}))
    local ids = assert(model:tokenizer():encode(files.read "examples/heldout.txt"))
    assert.same(want.ids, ids)
    local sum, count = 0, 0
    for first = 1, #ids, want.window do
      local window = {unpack(ids, first, math.min(first + want.window - 1, #ids))}
      local seq = assert(model:sequence())
      local logprobs = assert(seq:score(window))
      for i = 2, #window do sum = sum + logprobs:get(i) end
      count = count + #window - 1
      seq:close()
    end
    model:close()
    local got, run, exact = math.exp(-sum / count), want[kind].run, want[kind].exact
    print(("# %s: perplexity %.4f over %d tokens; reference %.4f, exact %.4f"):format(kind, got, count, run, exact))
    assert.is_true(math.abs(got / exact - 1) < 0.01, "perplexity " .. got)
  end)
end

describe("the BF16 model", function()
  local function directory() return models .. "SmolLM2-135M-Instruct" end
  check("bf16.jsonl", directory)
  check_heldout("bf16", directory)
end)

describe("the FP8 model", function()
  local made
  local function directory()
    made = made or with_golden_scales(models .. "SmolLM2-135M-Instruct-FP8")
    return made
  end
  check("fp8.jsonl", directory)
  check_heldout("fp8", directory)
end)
