describe("fp8llm.sampler", function()
  local fp8llm = require "fp8llm"
  local sampler, tensor = fp8llm.sampler, fp8llm.tensor
  local inf = math.huge

  local function row(values) return assert(tensor("f32", {#values}, values)) end

  local function kept(options, values, history)
    local t = assert(assert(sampler(options)):process(row(values), history)):totable()
    local ids = {}
    for i, v in ipairs(t) do
      if v > -inf then ids[#ids + 1] = i - 1 end
    end
    return ids, t
  end

  it("is greedy at temperature 0, and gives the logprob of the raw row", function()
    local smp = assert(sampler {temperature = 0})
    local id, logprob = smp:sample(row {0, math.log(2), math.log(5), 0})
    assert.equal(2, id)
    assert.is_true(math.abs(logprob - math.log(5 / 9)) < 1e-6)
    assert.equal(1, (smp:sample(row {0, 3, 3, 3})))
  end)

  local P = {math.log(0.5), math.log(0.25), math.log(0.15), math.log(0.1)}
  local filters = {
    {"top_k", {top_k = 2}, P, {0, 1}},
    {"top_k with ties", {top_k = 2}, {1, 3, 1, 1, 0}, {0, 1, 2, 3}},
    {"top_k off", {top_k = -1}, P, {0, 1, 2, 3}},
    {"top_p", {top_p = 0.8}, P, {0, 1, 2}},
    {"top_p that the first token crosses", {top_p = 0.3}, P, {0}},
    {"top_p at a tie takes the lower id", {top_p = 0.4}, {0, 0, 0, 0}, {0, 1}},
    {"min_p", {min_p = 0.4}, P, {0, 1}},
    {"min_p after a high temperature", {min_p = 0.4, temperature = 2}, P, {0, 1, 2, 3}},
    {"min_p before a high temperature", {min_p = 0.4, temperature = 2, order = {"min_p", "temperature"}}, P, {0, 1}},
    {"allowed_token_ids", {allowed_token_ids = {3, 1}}, P, {1, 3}},
    {"top_k among the allowed", {allowed_token_ids = {3, 1, 2}, top_k = 1}, P, {1}},
  }
  for _, case in ipairs(filters) do
    it("keeps the right tokens: " .. case[1], function() assert.same(case[4], (kept(case[2], case[3]))) end)
  end

  it("adds logit_bias, at most 100 either way", function()
    local _, t = kept({logit_bias = {[0] = 1.5, [2] = -1000, [3] = 1000}}, {1, 1, 1, 1})
    assert.same({2.5, 1, -99, 101}, t)
  end)

  it("penalizes what the history holds", function()
    local history = {prompt = {0, 1}, output = {1, 2, 2}}
    local _, t = kept({repetition_penalty = 2}, {4, -4, 4, 4}, history)
    assert.same({2, -8, 2, 4}, t)
    _, t = kept({frequency_penalty = 1, presence_penalty = 0.5}, {4, 4, 4, 4}, history)
    assert.same({4, 2.5, 1.5, 4}, t)
    _, t = kept({repetition_penalty = 2}, {4, 4, 4, 4}, {output = {3}})
    assert.same({4, 4, 4, 2}, t)
    _, t = kept({repetition_penalty = 2}, {4, 4}, nil)
    assert.same({4, 4}, t)
  end)

  it("draws the same tokens for the same seed", function()
    local logits = {}
    for i = 1, 100 do logits[i] = (i * 7 % 13) / 4 end
    logits = row(logits)
    local a, b, c = sampler {seed = 7}, sampler {seed = 7}, sampler {seed = 8}
    local same, differ = true, false
    for i = 1, 50 do
      local x = a:sample(logits)
      same = same and x == b:sample(logits)
      differ = differ or x ~= c:sample(logits)
      if i == 25 then b = b:clone() end
    end
    assert.is_true(same and differ)
    local d, e = sampler {}, sampler {seed = -1}
    differ = false
    for _ = 1, 50 do differ = differ or d:sample(logits) ~= e:sample(logits) end
    assert.is_true(differ)
  end)

  it("draws the tokens of spec/golden/sampler.txt", function()
    -- The case "top_p over equal logits": 130 zeros, top_p 0.513, seed 7.
    local golden = assert(io.open "spec/golden/sampler.txt"):read "*a"
    local want = golden:match "case top_p over equal logits.-draws 7 6 ([^\n]+)"
    local smp, logits = sampler {top_p = 0.513, seed = 7}, tensor("f32", {130})
    for id, logprob in want:gmatch "(%d+) (%S+)" do
      local got, lp = smp:sample(logits)
      assert.equal(tonumber(id), got)
      assert.is_true(math.abs(tonumber(logprob) - lp) < 1e-6 * 5)
    end
  end)

  it("leaves the logits alone when it samples", function()
    local logits = row {1, 2, 3}
    sampler({temperature = 0.5, top_k = 1, logit_bias = {[0] = 9}}):sample(logits)
    assert.same({1, 2, 3}, logits:totable())
    assert.equal(logits, sampler({temperature = 0.5}):process(logits))
    assert.same({2, 4, 6}, logits:totable())
  end)

  local out_of_range = {
    {"temperature: -1 is not in [0, inf)", {temperature = -1}},
    {"temperature: nan is not in [0, inf)", {temperature = 0 / 0}},
    {"top_p: 0 is not in (0, 1]", {top_p = 0}},
    {"top_p: 1.1 is not in (0, 1]", {top_p = 1.1}},
    {"top_k: -2 is not in [-1, 2147483647]", {top_k = -2}},
    {"top_k: 4294967296 is not in [-1, 2147483647]", {top_k = 2 ^ 32}},
    {"min_p: -0.5 is not in [0, 1]", {min_p = -0.5}},
    {"repetition_penalty: 0 is not in (0, inf)", {repetition_penalty = 0}},
    {"frequency_penalty: 3 is not in [-2, 2]", {frequency_penalty = 3}},
    {"presence_penalty: -2.5 is not in [-2, 2]", {presence_penalty = -2.5}},
    {"logit_bias: -1 is not a token id", {logit_bias = {[-1] = 1}}},
    {"logit_bias: 0.5 is not a token id", {logit_bias = {[0.5] = 1}}},
    {"logit_bias of id 3 is nan", {logit_bias = {[3] = 0 / 0}}},
    {"allowed_token_ids: empty, at least one id needed", {allowed_token_ids = {}}},
    {"order: no stage 'mirostat'", {order = {"mirostat"}}},
    {"order: 'top_k' twice", {order = {"top_k", "top_k"}}},
    {"order: lacks 'top_p', which has parameters set", {top_p = 0.5, order = {"top_k"}}},
    {"order: 0 stages, 1 to 7 expected", {order = {}}},
  }
  for _, case in ipairs(out_of_range) do
    it("answers nil, message, ARG: " .. case[1], function()
      local smp, message, code = sampler(case[2])
      assert.equal(nil, smp)
      assert.equal("ARG", code)
      assert.equal(case[1], message)
    end)
  end

  local wrong_type = {
    {temperature = "1"}, {top_k = 1.5}, {seed = {}},
    {logit_bias = 1}, {logit_bias = {[1] = "x"}}, {logit_bias = {a = 1}},
    {allowed_token_ids = {-1}}, {allowed_token_ids = {"a"}}, {order = "top_k"}, {order = {1}}, {temprature = 1},
  }
  it("raises on wrong types and unknown members", function()
    for _, options in ipairs(wrong_type) do assert.is_true(not pcall(sampler, options)) end
    assert.is_true(not pcall(sampler, 1))
    assert.is_true(not not sampler())
    local smp, logits = sampler {}, row {1, 2}
    for _, args in ipairs {
      {}, {{}}, {tensor("f32", {1, 2})}, {tensor("bf16", {2})},
      {logits, 1}, {logits, {1, 2}}, {logits, {prompt = 1}}, {logits, logits},
    } do
      assert.is_true(not pcall(smp.sample, smp, args[1], args[2]))
    end
  end)

  it("answers nil, message, ARG for rows nothing can be drawn from", function()
    local cases = {
      {"logits: id 1 is nan", {}, {0, 0 / 0}},
      {"logits: id 1 is inf", {}, {0, inf, 1}},
      {"logits: all 2 tokens are -inf, none is left", {}, {-inf, -inf}},
      {"logits: all 2 tokens are -inf, none is left", {allowed_token_ids = {0}}, {-inf, 1}},
      {"allowed_token_ids: id 5 is outside the vocabulary of 2", {allowed_token_ids = {5}}, {0, 0}},
      {"logit_bias: id 2 is outside the vocabulary of 2", {logit_bias = {[2] = 1}}, {0, 0}},
      {"output: id 9 is outside the vocabulary of 2", {presence_penalty = 1}, {0, 0}, {output = {9}}},
    }
    for _, case in ipairs(cases) do
      local id, message, code = sampler(case[2]):sample(row(case[3]), case[4])
      assert.equal(nil, id)
      assert.equal(case[1], message)
      assert.equal("ARG", code)
    end
  end)

  it("takes a sequence as history: its first feed is the prompt", function()
    local dir = "build/spec-sampler-model"
    dofile("spec/support/tiny_model.lua").write(dir, {layers = 1})
    local model = assert(fp8llm.load(dir))
    local seq = assert(model:sequence())
    assert(seq:feed {5, 6, 7})
    assert(seq:feed {7})
    local logits = assert(seq:feed {8, 8})
    for _, options in ipairs {{repetition_penalty = 1.7}, {frequency_penalty = 1.5}, {presence_penalty = 2}} do
      local smp = sampler(options)
      local want = smp:process(logits:clone(), {prompt = {5, 6, 7}, output = {7, 8, 8}}):totable()
      local got = smp:process(logits:clone(), seq):totable()
      assert.same(want, got)
      assert.is_true(got[9] ~= logits:get(9)) -- the penalty did something to id 8
    end
    seq:close()
    assert.is_true(not pcall(sampler({}).sample, sampler {}, tensor("f32", {3}), seq))
    model:close()
  end)

  it("can be closed, and leaks nothing", function()
    collectgarbage()
    collectgarbage()
    local before = fp8llm._live()
    for i = 1, 50 do
      local smp = sampler {logit_bias = {[1] = 1}, allowed_token_ids = {0, 1}, seed = i}
      local copy = smp:clone()
      smp:sample(row {1, 2, 3})
      copy:process(row {1, 2, 3}, {prompt = {1}})
      smp:close()
      smp:close()
      assert.is_true(select(2, pcall(smp.sample, smp, row {1})):find("closed", 1, true) ~= nil)
      sampler {top_p = 7, logit_bias = {[1] = 1}}
      pcall(sampler, {order = {1}, logit_bias = {[1] = 1}})
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, fp8llm._live())
  end)
end)
