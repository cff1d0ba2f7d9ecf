-- Model and sequence: the same logits however the tokens were fed, and clean limits.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/model"
tiny.write(dir, {seed = 7, quant = "fp8-static", split_scales = true, ffn = 96})
local fp8_kv = {kv = "fp8"}

local function load(options)
  local o = {context = 256, kv_tokens = 512, prefix_cache = false}
  for k, v in pairs(options or {}) do o[k] = v end
  return assert(fp8llm.load(dir, o))
end

local ids = {}
for i = 1, 150 do ids[i] = (i * i * 7 + i) % 250 end

local function slice(t, first, last)
  local out = {}
  for i = first, last do out[#out + 1] = t[i] end
  return out
end

-- Feed all of `list` in pieces of n; the last logits as a table.
local function logits_in_chunks(seq, list, n)
  local logits
  for i = 1, #list, n do logits = assert(seq:feed(slice(list, i, math.min(i + n - 1, #list)))) end
  return logits:totable()
end

local function same(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do if a[i] ~= b[i] then return false end end
  return #a > 0
end

local function reference(options)
  local m = load(options)
  local out = logits_in_chunks(assert(m:sequence()), ids, #ids)
  m:close()
  return out
end

describe("the logits of a sequence", function()
  for name, kv in pairs{bf16 = {}, fp8 = fp8_kv} do
    local want = reference(kv)

    it("are bit-identical for prompts fed in chunks of 1, 7 and 64, kv " .. name, function()
      local m = load(kv)
      for _, n in ipairs{1, 7, 64} do
        assert.is_true(same(want, logits_in_chunks(assert(m:sequence()), ids, n)))
        collectgarbage()
      end
      m:close()
    end)

    it("are bit-identical with 1, 2 and 3 threads, kv " .. name, function()
      for threads = 1, 3 do
        assert.is_true(same(want, reference{kv = kv.kv, threads = threads}))
      end
    end)

    it("are bit-identical in steps of 5 rows, kv " .. name, function()
      assert.is_true(same(want, reference{kv = kv.kv, max_step_rows = 5}))
    end)

    it("are bit-identical in a fork, and forks do not disturb each other, kv " .. name, function()
      local m = load(kv)
      local a = assert(m:sequence())
      a:feed(slice(ids, 1, 100))
      local b = assert(a:fork())
      b:feed({1, 2, 3})
      assert.is_true(same(want, logits_in_chunks(a, slice(ids, 101, 150), 50)))
      assert.equal(103, b:length())
      b:rewind(100)
      assert.is_true(same(want, logits_in_chunks(b, slice(ids, 101, 150), 9)))
      m:close()
    end)
  end

  it("change with the tokens before", function()
    local m = load()
    local other = slice(ids, 1, 150)
    other[3] = other[3] + 1
    assert.is_false(same(reference(), logits_in_chunks(assert(m:sequence()), other, 150)))
    m:close()
  end)
end)

describe("the prefix cache", function()
  it("gives the same bits, and counts what it found", function()
    for name, kv in pairs{bf16 = "bf16", fp8 = "fp8"} do
      local want = reference{kv = kv}
      local m = load{kv = kv, prefix_cache = true}
      for run = 1, 3 do
        local s = assert(m:sequence())
        assert.is_true(same(want, logits_in_chunks(s, ids, 150)), name)
        assert.equal((run - 1) * 4, m:info().prefix_hits)
        s:close()
      end
      local other = slice(ids, 1, 150)
      other[40] = other[40] + 1
      logits_in_chunks(assert(m:sequence()), other, 150)
      assert.equal(9, m:info().prefix_hits)
      m:close()
    end
  end)

  it("does not see what a rewound sequence writes over", function()
    local m = load{prefix_cache = true}
    local s = assert(m:sequence())
    s:feed(slice(ids, 1, 100))
    s:rewind(40)
    s:feed(slice(ids, 1, 60))
    s:close()
    assert.is_true(same(reference(), logits_in_chunks(assert(m:sequence()), ids, 150)))
    m:close()
  end)

  it("gives way when pages are needed, the least recently used first", function()
    local m = load{prefix_cache = true, kv_tokens = 256}
    local function feed(first)
      local s, list = assert(m:sequence()), {}
      for i = 1, 100 do list[i] = (i * first) % 200 end
      assert(s:feed(list))
      s:close()
    end
    for i = 1, 6 do feed(i) end
    assert.equal(8, m:info().kv_pages_free)
    assert.is_true(m:info().prefix_evictions > 0)
    local hits = m:info().prefix_hits
    feed(6)
    assert.equal(hits + 3, m:info().prefix_hits)
    m:close()
  end)
end)

describe("a sequence", function()
  local m = load()

  it("knows its tokens", function()
    local s = assert(m:sequence())
    s:feed({5, 6, 7})
    s:feed(8)
    assert.same({5, 6, 7, 8}, s:ids())
    assert.equal(4, s:length())
    assert.equal(3, s:prompt_length())
    s:rewind(2)
    assert.same({5, 6}, s:ids())
    s:close()
  end)

  it("refuses what cannot be fed, and stays as it was", function()
    local s = assert(m:sequence())
    s:feed({1, 2})
    local r, message, code = s:feed({3, 100000})
    assert.is_true(r == nil and code == "ARG" and message:find("100000", 1, true) ~= nil)
    r, message, code = s:feed(slice(ids, 1, 150) and (function()
      local t = {}
      for i = 1, 255 do t[i] = 1 end
      return t
    end)())
    assert.is_true(r == nil and code == "LIMIT" and message:find("256", 1, true) ~= nil)
    r, message, code = s:rewind(3)
    assert.is_true(r == nil and code == "ARG" and message:find("0 to 2", 1, true) ~= nil)
    r, message, code = s:feed({})
    assert.is_true(r == nil and code == "ARG" and message ~= nil)
    assert.equal(2, s:length())
    assert.is_true(pcall(s.feed, s, {1.5}) == false)
    assert.is_true(pcall(s.feed, s, "text") == false)
    s:close()
    s:close()
    assert.is_true(pcall(s.length, s) == false)
  end)

  it("gets LIMIT when the pool is full, and pages come back", function()
    local list = {}
    for i = 1, 256 do list[i] = i % 200 end
    local a, b, c = assert(m:sequence()), assert(m:sequence()), assert(m:sequence())
    assert(a:feed(list))
    assert(b:feed(list))
    local r, message, code = c:feed({1})
    assert.is_true(r == nil and code == "LIMIT" and message:find("kv", 1, true) ~= nil)
    a:close()
    assert(c:feed(list))
    b:close()
    c:close()
  end)

  it("keeps its logits readable after close and after the model is closed", function()
    local mine = load()
    local s = assert(mine:sequence())
    local logits = assert(s:feed({1, 2, 3}))
    local before = logits:totable()
    s:close()
    mine:close()
    collectgarbage()
    collectgarbage()
    assert.is_true(same(before, logits:totable()))
  end)
end)

describe("scores", function()
  local m = load()

  local function log_softmax_at(logits, id)
    local t, max, sum = logits:totable(), -math.huge, 0
    for i = 1, #t do max = math.max(max, t[i]) end
    for i = 1, #t do sum = sum + math.exp(t[i] - max) end
    return t[id + 1] - max - math.log(sum)
  end

  it("are the log-probabilities that feeding one by one gives", function()
    local s, by_hand = assert(m:sequence()), assert(m:sequence())
    local list = slice(ids, 1, 80)
    local logprob = assert(s:score(list)):totable()
    local logits = assert(by_hand:feed(list[1]))
    assert.equal(0, logprob[1])
    for i = 2, #list do
      local want = log_softmax_at(logits, list[i])
      assert.is_true(math.abs(want - logprob[i]) < 1e-4)
      logits = assert(by_hand:feed(list[i]))
    end
  end)

  it("after a rewind use the right context", function()
    local s = assert(m:sequence())
    local first = assert(s:score(slice(ids, 1, 20))):totable()
    s:rewind(10)
    local again = assert(s:score(slice(ids, 11, 20))):totable()
    for i = 1, 10 do assert.equal(first[10 + i], again[i]) end
  end)

  it("of choices share their context and equal separate runs", function()
    local context, choices = slice(ids, 1, 40), {{1, 2, 3}, {4}, {5, 6}}
    local together, greedy = assert(m:score(context, choices))
    assert.equal(3, #together)
    assert.equal(3, #greedy)
    for i, choice in ipairs(choices) do
      local s = assert(m:sequence())
      s:feed(context)
      local sum = 0
      for _, v in ipairs(assert(s:score(choice)):totable()) do sum = sum + v end
      assert.is_true(math.abs(sum - together[i]) < 1e-5)
    end
  end)
end)

describe("loading", function()
  it("refuses what it cannot do, by name", function()
    local function refused(code, options, pattern)
      local r, message, got = fp8llm.load(dir, options)
      assert.equal(nil, r)
      assert.equal(code, got)
      assert.is_true(message:find(pattern) ~= nil, message)
    end
    refused("ARG", {context = 1e9}, "context: 1000000000")
    refused("ARG", {max_step_rows = -1}, "max_step_rows")
    refused("ARG", {device = "abacus"}, "abacus")
    refused("DEVICE", {device = "cuda"}, "cuda")
    refused("NOMEM", {kv_tokens = 2 ^ 31 - 100}, "needs %d+ bytes.*KV cache of %d+ tokens %d+.*has %d+ for it")
    assert.is_true(pcall(fp8llm.load, dir, {contxt = 5}) == false)
    refused("ARG", {kv = "int8"}, "kv: need auto, bf16 or fp8, got 'int8'")
    local _, message, code = fp8llm.load("no/such/model")
    assert.equal("IO", code)
    assert.is_true(message:find("no/such/model", 1, true) ~= nil)
  end)

  it("shows the checkpoint's tensors, which outlive the model", function()
    local m = load()
    local w = assert(m:tensor("model.layers.1.mlp.up_proj.weight"))
    assert.equal("e4m3", w:dtype())
    assert.same({96, 64}, w:shape())
    local _, message, code = m:tensor("model.layers.9.mlp.up_proj.weight")
    assert.equal("ARG", code)
    assert.is_true(message:find("layers.9", 1, true) ~= nil)
    local value = w:get(3, 5)
    m:close()
    collectgarbage()
    assert.equal(value, w:get(3, 5))
  end)

  it("reports progress and sizes", function()
    local last = -1
    local m = load{progress = function(f)
      assert(f >= last and f <= 1)
      last = f
    end}
    assert.is_true(last >= 0)
    local info = m:info()
    assert.is_true(info.weight_bytes > 0 and info.bytes_per_token > 0 and info.kv_bytes > 0)
    assert.equal("autofp8 static", info.quantization)
    assert.equal(256, info.context)
    m:close()
    assert.is_true(pcall(m.info, m) == false)
    local api = dofile("spec/support/files.lua").read "lua/fp8llm/meta.lua"
    local described = {}
    for name in api:match "\n%-%-%-@class fp8llm%.info\n(.-)\n\n":gmatch "@field ([%w_]+)" do
      described[name] = true
    end
    for name in pairs(info) do assert.is_true(described[name], name) end
    for name in pairs(described) do assert.is_true(info[name] ~= nil, name) end
  end)

  it("loads whatever its progress function does, and looks it up once", function()
    local looked, called = 0, 0
    local function progress()
      called = called + 1
      error "on purpose"
    end
    assert(fp8llm.load(dir, setmetatable({context = 256}, {__index = function(_, name)
      if name ~= "progress" then return nil end
      looked = looked + 1
      return looked == 1 and progress or error "looked up in the middle of loading"
    end}))):close()
    assert.is_true(called > 0)
    assert.is_true(not pcall(load, {progress = 5}))
  end)
end)
