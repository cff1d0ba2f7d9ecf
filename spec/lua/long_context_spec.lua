-- 131,072 tokens through a tiny llama3-RoPE model with an FP8 KV cache, against the numpy reference in
-- spec/golden/long_context. LuaJIT only: the time goes into C and would be spent five times over.
if not rawget(_G, "jit") then return end

local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local golden = "spec/golden/long_context"

-- As in spec/support/gen_long_context.py.
local function token_ids(n)
  local ids, x = {}, 1
  for i = 1, n do
    x = x * 16807 % 2147483647
    ids[i] = x % 256
  end
  return ids
end

describe("a context of 131,072 tokens", function()
  local model, err = fp8llm.load(golden, {context = 131072, kv = "fp8"})
  local seq = assert(model, err):sequence()
  local ids = token_ids(131072)
  local fed = 0

  for line in io.lines(golden .. "/logits.jsonl") do
    local want = assert(json.decode(line))
    it("gives the reference's logits at position " .. want.position, function()
      local logits
      while fed <= want.position do
        local piece = {}
        for i = 1, math.min(4096, want.position + 1 - fed) do piece[i] = ids[fed + i] end
        logits = assert(seq:feed(piece))
        fed = fed + #piece
      end
      local worst, sum, best, best_want = 0, 0, 1, 1
      for i = 1, 256 do
        local d = math.abs(logits:get(i) - want.logits[i])
        worst, sum = math.max(worst, d), sum + d
        if logits:get(i) > logits:get(best) then best = i end
        if want.logits[i] > want.logits[best_want] then best_want = i end
      end
      print(("# position %d: logits differ by at most %.4f, %.5f on average"):format(want.position, worst, sum / 256))
      -- One frequency wrong in its last bit, a BF16 cache, or keys beyond some window forgotten all give more.
      assert.is_true(worst < 0.05, "largest difference " .. worst)
      assert.equal(best_want, best)
    end)
  end
end)
