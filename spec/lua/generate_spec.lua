-- The loop against a model, sampler and tokenizer of paper: every fed id n answers n + 1.
describe("fp8llm.generate", function()
  local generate = require "fp8llm.generate"

  local function sequence(limit)
    local s = {list = {}, fed = {}}
    function s:ids() return {(table.unpack or unpack)(self.list)} end -- luacheck: ignore
    function s:rewind(n)
      for i = #self.list, n + 1, -1 do self.list[i] = nil end
      return self
    end
    function s:feed(ids)
      if limit and #self.list + #ids > limit then return nil, "context full", "LIMIT" end
      table.insert(self.fed, #ids)
      for _, id in ipairs(ids) do table.insert(self.list, id) end
      return {next = self.list[#self.list] + 1}
    end
    return s
  end
  local function options(extra)
    local o = {
      tokenizer = {stream = function()
        return {push = function(_, id) return "<" .. id .. ">" end, finish = function() return "." end}
      end},
      sampler = {sample = function(_, logits) return logits.next, -0.5 end},
      stop = {9, 20}, max_tokens = 100,
    }
    for k, v in pairs(extra or {}) do o[k] = v end
    return o
  end

  it("ends at a stop token, which is not part of the text", function()
    local seen = {}
    local r = generate(sequence(), {1, 2, 5}, options {on_piece = function(p) seen[#seen + 1] = p end})
    assert.equal("<6><7><8>.", r.text)
    assert.same({6, 7, 8}, r.ids)
    assert.equal("stop", r.finish_reason)
    assert.same({"<6>", "<7>", "<8>", "."}, seen)
    assert.same({3, 0, 3, 3}, {r.prompt_tokens, r.cached_tokens, r.completion_tokens, r.decode_steps})
  end)

  it("ends after max_tokens without computing one more", function()
    local s = sequence()
    local r = generate(s, {10}, options {max_tokens = 3})
    assert.same({11, 12, 13}, r.ids)
    assert.equal("length", r.finish_reason)
    assert.same({10, 11, 12}, s.list)
    assert.equal(0, #generate(sequence(), {10}, options {max_tokens = 0}).ids)
  end)

  it("feeds only what the sequence does not hold", function()
    local s = sequence()
    generate(s, {1, 2, 5}, options())
    s.fed = {}
    local r = generate(s, {1, 2, 5, 6, 7, 3, 7}, options())
    assert.equal(5, r.cached_tokens)
    assert.equal(2, s.fed[1])
    assert.same({8}, r.ids)
    s.fed = {}
    assert.equal(6, generate(s, {1, 2, 5, 6, 7, 3, 7}, options()).cached_tokens)
    assert.equal(1, s.fed[1])
  end)

  it("takes a full context as the end of the answer, but not of the prompt", function()
    local r = generate(sequence(5), {1, 2, 10}, options())
    assert.same({11, 12, 13}, r.ids)
    assert.equal("length", r.finish_reason)
    local none, message, code = generate(sequence(2), {1, 2, 10}, options())
    assert.is_nil(none)
    assert.equal("context full", message)
    assert.equal("LIMIT", code)
  end)

  it("passes a sampler's failure on", function()
    local none, message, code = generate(sequence(), {1}, options {
      sampler = {sample = function() return nil, "NaN", "ARG" end},
    })
    assert.is_nil(none)
    assert.same({"NaN", "ARG"}, {message, code})
  end)
end)
