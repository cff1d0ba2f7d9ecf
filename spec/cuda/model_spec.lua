-- Whole tiny models on a GPU (or an emulated one) against the CPU backend: every way a checkpoint
-- can be quantized, prompts in pieces, KV caches in BF16 and E4M3, requests in one batch, steps that
-- are recorded and replayed.
-- Run by `make test-cuda`; needs a device.
local tiny = dofile "spec/support/tiny_model.lua"
local fp8llm = require "fp8llm"
local inspect = require("fp8llm.inspect").inspect
local unpack = table.unpack or unpack

-- Runs of several seeds are beside each other.
local dir = ("build/spec/cuda-%s-%s/"):format(os.getenv "EMU_ARCH" or "gpu", os.getenv "EMU_SEED" or "")
os.execute("mkdir -p " .. dir)

local function prompt(n, seed)
  local ids = {}
  for i = 1, n do
    seed = (seed * 48271) % 2147483647
    ids[i] = seed % 266
  end
  return ids
end

local devices = { cpu = { device = "cpu" }, cuda = { device = "cuda" },
  plain = { device = "cuda", graphs = false } }

-- What the devices say of the same tokens, fed in steps of the given lengths.
local function compare(name, options, steps)
  local path = dir .. name
  tiny.write(path, options)
  local rows = {}
  for device, o in pairs(devices) do
    o.context = 128
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

-- How far logits may be from the CPU's, as a part of the largest: what rounding the weights of attention to the act
-- dtype, as tensor cores want it, does to the CPU's own.  Measured with the CPU backend whose attend rounds them and
-- sums them as rounded: the largest of 40 prompts (seeds 1 to 40) in each of the flavours below.  A code that falls on
-- the other side of a tie moves a logit by about 1/16 of an activation's share, so FP8 activations are further apart
-- (fbgemm 0.0843, the others 0.044 to 0.060) than 16-bit ones (tied 0.0147, the others 0.008 to 0.010; f16 0.0012).
-- The 13-bit sums of Hopper's FP8 units (EMU_MMA=13bit) stay within: fp8-block 0.048, sparse 0.046.
local BOUND = { f16 = 0.0012, bits16 = 0.0147, fp8 = 0.0843 }
local bound_of = { f16 = BOUND.f16, bf16 = BOUND.bits16, tied = BOUND.bits16, ["ct-weight-only"] = BOUND.bits16,
  ["modelopt-block"] = BOUND.bits16 }

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
    it(name .. " agrees with the CPU, in prompts of 1 to 40 tokens, recorded or not", function()
      local steps = { 3, 40, 1, 1, 1, 9, 1, 2 }
      local worst, spread, rows = compare(name, flavours[name], steps)
      assert.same(rows.plain, rows.cuda)
      assert.is_true(worst <= (bound_of[name] or BOUND.fp8) * spread, ("%g of %g"):format(worst, spread))
      for i, row in ipairs(rows.cpu) do
        local id, gap = best(row)
        if gap > 4 * worst then assert.equal(id, (best(rows.cuda[i]))) end
      end
    end)
  end

  -- Given what a request has said so far, its next token is one of the CPU's best, or it is named here: the GPU's best
  -- is at most twice the bound below the CPU's, once for each of the two.
  local function doubtful(name, said, prompt_of)
    local model = assert(fp8llm.load(dir .. name, { device = "cpu", context = 64 }))
    local found = ""
    for i, tokens in pairs(said) do
      local seq = assert(model:sequence())
      local row = assert(seq:feed(prompt_of(i))):totable()
      for n, id in ipairs(tokens) do
        local top, spread = -math.huge, 0
        for _, logit in ipairs(row) do
          top, spread = math.max(top, logit), math.max(spread, math.abs(logit))
        end
        if row[id + 1] < top - 2 * BOUND.fp8 * spread then found = found .. (" %d of %d"):format(n, i) end
        row = assert(seq:feed { id }):totable()
      end
      seq:close()
    end
    model:close()
    return found
  end

  it("gives requests in one batch tokens that are among the CPU's best", function()
    local said = {}
    tiny.write(dir .. "batch", { quant = "fp8-static" })
    local model = assert(fp8llm.load(dir .. "batch", { device = "cuda", context = 64 }))
    local engine = assert(model:engine { max_running = 4 })
    local requests = {}
    for i = 1, 5 do
      local request = { ids = prompt(3 + 5 * i, i), max_tokens = 6, ignore_eos = true, temperature = 0 }
      requests[i] = assert(engine:submit(request))
    end
    requests[3]:cancel()
    for i = 1, 5 do said[i] = requests[i]:result().choices[1].t end
    engine:close()
    model:close()
    assert.equal(6, #said[1])
    said[3] = nil
    assert.equal("", doubtful("batch", said, function(i) return prompt(3 + 5 * i, i) end))
  end)

  -- They end one after the other: 11 rows fill a bucket of 16, then come 8 and all numbers below.
  it("gives many requests in steps that are recorded the tokens of other steps, among the CPU's best", function()
    local said, last = {}, {}
    tiny.write(dir .. "buckets", { quant = "fp8-static" })
    for _, device in ipairs { "cuda", "plain" } do
      local o = devices[device]
      o.context, o.kv_tokens = 64, 1024
      local model = assert(fp8llm.load(dir .. "buckets", o))
      said[device] = {}
      for round = 1, 2 do -- the second engine has more sequences: buffers move
        local engine = assert(model:engine { max_running = 4 + 8 * (round - 1) })
        local requests = {}
        for i = 1, 11 do
          local request = { ids = prompt(2 + 3 * (i % 4), i), max_tokens = 1 + i, ignore_eos = true, temperature = 0 }
          requests[i] = assert(engine:submit(request))
        end
        requests[9]:cancel()
        for i = 1, 11 do
          local result = requests[i]:result()
          local name = round .. "." .. i
          if i ~= 9 then said[device][name] = table.concat(result.choices[1].t, " ") end
          if i ~= 9 then last[i] = result.choices[1].t end
        end
        engine:close()
      end
      model:close()
    end
    assert.same(said.plain, said.cuda)
    assert.equal("", doubtful("buckets", last, function(i) return prompt(2 + 3 * (i % 4), i) end))
  end)

  -- A request with an alternative to show keeps its logits on the host; else the device draws.
  local ways = {
    { temperature = 0 },
    { temperature = 1 },
    { temperature = 0.8, top_k = 20 },
    { temperature = 1.2, top_p = 0.8 },
    { temperature = 1, min_p = 0.2 },
    { temperature = 1.5, top_k = 50, top_p = 0.9, min_p = 0.01 },
    { temperature = 1, repetition_penalty = 1.4, frequency_penalty = 0.5, presence_penalty = -0.3 },
    { temperature = 0, repetition_penalty = 1.3 },
    { temperature = 1, logit_bias = { [5] = 3, [9] = -100, [77] = 4 } },
    { temperature = 1, allowed_token_ids = { 3, 50, 51, 52, 200 } },
    { temperature = 0, logit_bias = { [33] = 100 }, allowed_token_ids = { 32, 33, 34 } },
    { temperature = 1, min_tokens = 5, stop_token_ids = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 } },
    { temperature = 1, n = 2 },
  }
  local function submit(engine, way, i, logprobs)
    local request = { ids = { 7 + i }, max_tokens = 8, ignore_eos = true, seed = i, logprobs = logprobs }
    for k, v in pairs(way) do request[k] = v end
    return assert(engine:submit(request))
  end

  for _, device in ipairs { "cuda", "plain" } do
    it("draws the tokens that the host draws: " .. device, function()
      tiny.write(dir .. "draws", { quant = "fp8-static" })
      local o = devices[device]
      o.context, o.kv_tokens = 64, 1024
      local model = assert(fp8llm.load(dir .. "draws", o))
      local engine = assert(model:engine { max_running = 6 })
      local drawn, worst = 0, 0
      for i, way in ipairs(ways) do
        -- At most six rows a step: all come from the same kernels, to the same bits.
        local requests = {}
        for k, logprobs in ipairs { 1, -1, 0 } do
          requests[k] = submit(engine, way, i, logprobs >= 0 and logprobs or nil)
        end
        local host, device_only, scored = requests[1]:result(), requests[2]:result(), requests[3]:result()
        for c = 1, way.n or 1 do
          assert.same(host.choices[c].t, device_only.choices[c].t)
          assert.same(host.choices[c].t, scored.choices[c].t)
          drawn = drawn + 2 * #host.choices[c].t - (way.n and 2 or 0) -- one row for both first tokens
          for t, lp in ipairs(host.choices[c].lp) do
            worst = math.max(worst, math.abs(lp - scored.choices[c].lp[t]))
          end
        end
      end
      assert.equal(drawn, engine:stats().device_tokens)
      assert.is_true(worst < 1e-5, tostring(worst))
      engine:close()
      model:close()
    end)
  end

  -- The logits of the same 50 tokens: at once, in pieces, and as the prompts of requests in one batch.
  for _, name in ipairs { "bf16", "fp8-static", "ct-dynamic", "fp8-block", "sparse" } do
    it(name .. " with batch_invariant gives a sequence the same bits alone, in pieces and in company", function()
      tiny.write(dir .. name, flavours[name])
      local model = assert(fp8llm.load(dir .. name, {
        device = "cuda", context = 64, kv_tokens = 512, batch_invariant = true, prefix_cache = false,
      }))
      local function fed(steps)
        local seq, ids, at, row = assert(model:sequence()), prompt(50, 11), 0, nil
        for _, n in ipairs(steps) do
          row = assert(seq:feed { unpack(ids, at + 1, at + n) })
          at = at + n
        end
        row = row:totable()
        seq:close()
        return row
      end
      local whole = fed { 50 }
      assert.same(whole, fed { 7, 1, 30, 1, 1, 10 })
      assert.same(whole, fed { 49, 1 })
      local engine = assert(model:engine { max_running = 4 })
      local function said(lengths)
        local requests, results = {}, {}
        for i, n in ipairs(lengths) do
          requests[i] = assert(engine:submit {
            ids = prompt(n, 11), max_tokens = 5, ignore_eos = true, temperature = 0, logprobs = 2,
          })
        end
        for i in ipairs(lengths) do results[i] = requests[i]:result().choices[1] end
        return results[1].t, results[1].lp, results[1].top
      end
      local ids, lp, top = said { 50 }
      local ids2, lp2, top2 = said { 50, 3, 12, 50 }
      assert.same({ ids, lp, top }, { ids2, lp2, top2 })
      engine:close()
      model:close()
    end)
  end

  it("keeps 2:4 weights dense as well when asked, and says what that takes", function()
    tiny.write(dir .. "sparse", flavours.sparse)
    local compressed = assert(fp8llm.load(dir .. "sparse", { device = "cuda", context = 64 }))
    local dense = assert(fp8llm.load(dir .. "sparse", { device = "cuda", context = 64, sparse_prefill = "dense" }))
    local plan = assert(inspect(dir .. "sparse", { context = 64, device = "cuda" })).plan
    local a, b = compressed:info(), dense:info()
    assert.equal(plan.sparse_dense_bytes, b.weight_bytes - a.weight_bytes)
    assert.equal(a.bytes_per_token, b.bytes_per_token)
    assert.is_true(b.memory_planned > a.memory_planned)
    compressed:close()
    dense:close()
    local both = { device = "cuda", context = 64, sparse_prefill = "dense", batch_invariant = true }
    local nothing, message, code = fp8llm.load(dir .. "sparse", both)
    assert.same({ "nil", "ARG" }, { type(nothing), code })
    assert.matches("sparse_prefill", message)
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

  if os.getenv "EMU_ARCH" then
    -- What a process with these settings of the emulator says and counts.
    local function apart(settings, options, body)
      local stats = dir .. "stats"
      os.remove(stats)
      local script = ([[package.cpath = %q package.path = %q
        local fp8llm = require "fp8llm"
        local model = assert(fp8llm.load(%q, {device = "cuda", context = 64%s})) %s]]):format(
        package.cpath, package.path, dir .. "batch", options, body)
      local p = io.popen(("%s EMU_LEAKS=1 EMU_STATS=%s luajit -e '%s' 2>&1"):format(settings, stats, script))
      local said = p:read "*a"
      p:close()
      local f = assert(io.open(stats), said)
      local text = f:read "*a"
      f:close()
      local counts = {}
      for name, n in text:match "total (kernels [^\n]*)":gmatch "(%S+) (%d+)" do counts[name] = tonumber(n) end
      return said, counts
    end
    local decode = [[local seq = model:sequence() seq:feed{1, 2, 3}
      for i = 1, %d do seq:feed{i} end print(table.concat(seq:feed{9}:totable(), " ")) model:close()]]

    it("runs a step of one token as one graph launch, a write and a read", function()
      local said, few = apart("", "", decode:format(4))
      local _, many = apart("", "", decode:format(14))
      assert.equal(4, few.graph_launches) -- the first of the five runs op by op
      assert.equal(10, many.graph_launches - few.graph_launches)
      assert.equal(3 * 10, many.copies - few.copies) -- batch, logits and the fault
      local plain, none = apart("", ", graphs = false", decode:format(4))
      assert.equal(0, none.graph_launches)
      assert.equal(plain, said)
    end)

    it("takes 8 bytes a token to the host when the device draws", function()
      local body = [[local engine = model:engine() local r = engine:submit{ids = {1, 2}, max_tokens = %d,
        ignore_eos = true, seed = 1} print(table.concat(r:result().choices[1].t, " ")) engine:close() model:close()]]
      local said, few = apart("", "", body:format(6))
      local _, many = apart("", "", body:format(16))
      assert.matches("^%d+ %d+ %d+ %d+ %d+ %d+\n$", said)
      assert.equal(10, many.graph_launches - few.graph_launches)
      assert.equal(10 * (8 + 16), many.bytes_to_host - few.bytes_to_host) -- token, log-probability; the fault
    end)

    it("goes on op by op when a step cannot be recorded", function()
      local said = apart("", "", decode:format(4))
      local least, most = 1, 512 -- the number of allocations, plus 1: from there on none fails
      while least < most do
        local n = math.floor((least + most) / 2)
        if apart("EMU_FAIL_AT=" .. n, "", decode:format(4)) == said then most = n else least = n + 1 end
      end
      local now, counts = apart("EMU_FAIL_AT=" .. most - 1, "", decode:format(4)) -- the last is the graph
      assert.matches("no longer recorded: .*cudaGraphInstantiate", now)
      assert.equal(said, now:match "([^\n]*\n)$")
      assert.equal(0, counts.graph_launches)
    end)
  end

  it("needs memory, and says how much", function()
    local model, message, code = fp8llm.load(dir .. "batch", { device = "cuda", context = 64, kv_tokens = 2 ^ 30 })
    assert.is_nil(model)
    assert.equal("NOMEM", code)
    assert.matches("%d", message)
  end)
end)
