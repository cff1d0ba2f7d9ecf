-- What a request gives does not depend on its company. The full numbers of trials, 10000 on a
-- tiny model and 200 on the real one, are in `make test-long`.
local invariance = dofile "spec/support/invariance.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local dir, real = "build/spec/invariance", "build/models/SmolLM2-135M-Instruct-FP8"
tiny.write(dir, {quant = "fp8-dynamic", kv_heads = 1})

local function check(report, trials)
  assert.equal(nil, report.wrong[1])
  assert.equal(trials, report.trials)
end

describe("random requests in random company", function()
  local trials = jit and 160 or 40 -- luacheck: ignore
  it("give what each gives alone, bit for bit", function()
    local report = invariance(dir, trials, 7)
    check(report, trials)
    assert.is_true(report.cached_tokens > 0)
    if jit then assert.is_true(report.preemptions > 0 and report.policies > 0 and report.guesses > 0) end -- luacheck: ignore
  end)
  if jit then -- luacheck: ignore
    it("on the real model too", function() check(invariance(real, 6, 3), 6) end)
  end
end)
