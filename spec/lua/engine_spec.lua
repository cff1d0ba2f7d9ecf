-- The engine: many requests in one batch give what each gives alone.
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/engine"
tiny.write(dir, {seed = 11, quant = "fp8-dynamic", kv_heads = 1})
local model = assert(fp8llm.load(dir, {context = 256, kv_tokens = 2048, max_step_rows = 48,
  prefix_cache = false}))

local function prompt_of(i, length)
  local ids = {}
  for k = 1, length do ids[k] = (i * k * 7 + k) % 250 end
  return ids
end

-- The same request by hand: one sequence, one sampler.
local function by_hand(ids, n, options)
  local seq, sampler = assert(model:sequence()), assert(fp8llm.sampler(options))
  local logits, out, lp = assert(seq:feed(ids)), {}, {}
  for i = 1, n do
    out[i], lp[i] = assert(sampler:sample(logits, seq))
    logits = assert(seq:feed(out[i]))
  end
  seq:close()
  return out, lp
end

local function eventually(what)
  for _ = 1, 2000 do
    if what() then return true end
    local t = fp8llm.clock()
    while fp8llm.clock() - t < 0.002 do end
  end
  return false
end

describe("requests together", function()
  it("give the tokens and log-probabilities of each alone", function()
    local eng = assert(model:engine{max_running = 16})
    local list = {}
    for i = 1, 40 do
      local options = {temperature = 0.5 + i / 40, seed = i, top_k = i % 3 == 0 and 20 or 0,
        repetition_penalty = i % 4 == 0 and 1.3 or 1}
      local ids = prompt_of(i, 1 + i * 37 % 90)
      list[i] = {ids = ids, options = options, n = 1 + i % 17, request = assert(eng:submit{ids = ids,
        sampler = options, max_tokens = 1 + i % 17, ignore_eos = true, logprobs = 0})}
    end
    for _, r in ipairs(list) do
      local got = assert(r.request:result()).choices[1]
      local ids, lp = by_hand(r.ids, r.n, r.options)
      assert.same(ids, got.t)
      assert.same(lp, got.lp)
      assert.equal("length", got.fin)
    end
    eng:close()
  end)

  it("survive a pool that is too small for all of them", function()
    local small = assert(fp8llm.load(dir, {context = 256, kv_tokens = 320, max_step_rows = 32}))
    local eng = assert(small:engine{})
    local list = {}
    for i = 1, 8 do
      local ids = prompt_of(i, 30 + i * 10)
      list[i] = {ids = ids, request = assert(eng:submit{ids = ids, max_tokens = 60,
        sampler = {temperature = 1, seed = i}, ignore_eos = true})}
    end
    for i, r in ipairs(list) do
      assert.same((by_hand(r.ids, 60, {temperature = 1, seed = i})),
        assert(r.request:result()).choices[1].t)
    end
    assert.is_true(eng:stats().preemptions > 0)
    eng:close()
    small:close()
  end)

  it("n completions share the prompt and differ by their seed", function()
    local eng = assert(model:engine{})
    local ids = prompt_of(3, 40)
    local result = assert(assert(eng:submit{ids = ids, n = 3, max_tokens = 12, ignore_eos = true,
      sampler = {temperature = 1, seed = 9}}):result())
    for i = 1, 3 do
      assert.same((by_hand(ids, 12, {temperature = 1, seed = 8 + i})), result.choices[i].t)
    end
    assert.equal(36, result.usage.completion_tokens)
    assert.equal(40, eng:stats().prompt_tokens)
    eng:close()
  end)
end)

describe("a shared beginning", function()
  it("is computed once for equal salts, with the same tokens", function()
    local mine = assert(fp8llm.load(dir, {context = 256, kv_tokens = 2048, max_step_rows = 48}))
    local eng = assert(mine:engine{})
    local function run(salt)
      local request = assert(eng:submit{ids = prompt_of(8, 150), max_tokens = 10, ignore_eos = true,
        sampler = {temperature = 1, seed = 3}, cache_salt = salt, logprobs = 1})
      local result = assert(request:result())
      return result.choices[1], result.usage.cached_tokens
    end
    local first, none = run "a"
    local again, cached = run "a"
    local _, other = run "b"
    assert.equal(0, none)
    assert.equal(128, cached)
    assert.equal(0, other)
    assert.same(first.t, again.t)
    assert.same(first.lp, again.lp)
    eng:close()
    mine:close()
  end)
end)

describe("a request", function()
  local eng = assert(model:engine{})
  local tok = model:tokenizer()

  it("streams pieces that add up to its text", function()
    local request = assert(eng:submit{prompt = "one two three", max_tokens = 30, seed = 4,
      ignore_eos = true})
    local pieces, ids, fin = {}, {}, nil
    for piece, event in request:pieces() do
      pieces[#pieces + 1] = piece
      for _, id in ipairs(event.t) do ids[#ids + 1] = id end
      fin = event.fin or fin
    end
    assert.equal("length", fin)
    assert.equal(30, #ids)
    assert.equal(request:result().choices[1].d, table.concat(pieces))
    assert.equal(nil, (request:poll()))
  end)

  it("reads special tokens in its prompt when told to", function()
    local function tokens(parse_special)
      local request = assert(eng:submit{prompt = "a<|end|>", parse_special = parse_special, max_tokens = 1})
      return request:result().usage.prompt_tokens
    end
    local plain, parsed = #tok:encode "a<|end|>", #tok:encode("a<|end|>", {parse_special = "all"})
    assert.is_true(parsed < plain)
    assert.equal(plain, tokens())
    assert.equal(plain, tokens(false))
    assert.equal(parsed, tokens(true))
    local none, message = eng:submit '{"prompt": "a", "parse_special": "all"}'
    assert.same({nil, "parse_special: need true or false"}, {none, message})
  end)

  it("ends at a stop text that spans tokens, and does not show it", function()
    local whole = assert(eng:submit{prompt = "abc", max_tokens = 60, seed = 2, ignore_eos = true}):result()
    local text = whole.choices[1].d
    local from = math.floor(#text / 2)
    while from > 1 and text:byte(from) >= 0x80 do from = from - 1 end
    local to = from + 2
    while to < #text and text:byte(to + 1) >= 0x80 and text:byte(to + 1) < 0xc0 do to = to + 1 end
    local stop = text:sub(from, to)
    local at = text:find(stop, 1, true)
    for _, include in ipairs{false, true} do
      local request = assert(eng:submit{prompt = "abc", max_tokens = 60, seed = 2, stop = {stop, "no such"},
        include_stop_str_in_output = include, ignore_eos = true})
      local pieces = {}
      for piece in request:pieces() do pieces[#pieces + 1] = piece end
      assert.equal(text:sub(1, at - 1) .. (include and stop or ""), table.concat(pieces))
      local choice = request:result().choices[1]
      assert.equal("stop", choice.fin)
      assert.equal(stop, choice.reason)
    end
  end)

  it("ends at stop ids, not before min_tokens", function()
    local free = assert(eng:submit{ids = {1, 2, 3}, max_tokens = 20, seed = 6, ignore_eos = true}):result()
    local id = free.choices[1].t[4]
    local stopped = assert(eng:submit{ids = {1, 2, 3}, max_tokens = 20, seed = 6, ignore_eos = true,
      stop_token_ids = {id}}):result().choices[1]
    assert.equal("stop", stopped.fin)
    assert.equal(id, stopped.reason)
    assert.is_true(#stopped.t <= 4)
    local later = assert(eng:submit{ids = {1, 2, 3}, max_tokens = 20, seed = 6, ignore_eos = true,
      stop_token_ids = {id}, min_tokens = 10}):result().choices[1]
    for i = 1, math.min(10, #later.t) do assert.is_true(later.t[i] ~= id) end
    assert.is_true(#later.t >= 10)
  end)

  it("never completes a bad word", function()
    local word = tok:decode({70})
    local request = assert(eng:submit{ids = {5}, max_tokens = 80, seed = 3, ignore_eos = true,
      bad_words = {word}, logit_bias = {[70] = 100}})
    for _, id in ipairs(request:result().choices[1].t) do assert.is_true(id ~= 70) end
  end)

  it("lets those who wait for the end sleep until then", function()
    local function sleeps()
      local f = assert(io.open "/proc/thread-self/status")
      local n = tonumber(f:read("*a"):match "\nvoluntary_ctxt_switches:%s*(%d+)")
      f:close()
      return n
    end
    local request = assert(eng:submit{ids = {5}, max_tokens = 200, seed = 1, ignore_eos = true})
    local before = sleeps()
    assert.equal(200, #request:result().choices[1].t)
    assert.is_true(sleeps() - before < 20)
  end)

  it("says why nothing could be chosen, for each completion", function()
    local list = {}
    for i = 1, 8 do
      list[i] = assert(eng:submit{ids = {5}, n = 3, seed = i, max_tokens = 4, ignore_eos = true,
        allowed_token_ids = {70}, bad_words = {tok:decode({70, 70})}})
    end
    for _, request in ipairs(list) do
      for _, choice in ipairs(request:result().choices) do
        assert.same({70}, choice.t)
        assert.equal("error", choice.fin)
        assert.equal("logits: all 272 tokens are -inf, none is left", choice.message)
        assert.equal("ARG", choice.code)
      end
    end
  end)

  it("gives prompt log-probabilities as a sequence does", function()
    local ids = prompt_of(5, 100)
    local result = assert(assert(eng:submit{ids = ids, max_tokens = 1, prompt_logprobs = 2}):result())
    local want = assert(assert(model:sequence()):score(ids)):totable()
    for i = 2, #ids do
      assert.is_true(math.abs(want[i] - result.prompt_logprobs[i]) < 1e-5)
      assert.is_true(result.prompt_top[i][1][2] >= result.prompt_logprobs[i])
    end
  end)

  it("ends by cancel, by its deadline, and when nobody holds it", function()
    local request = assert(eng:submit{ids = {1, 2}, ignore_eos = true})
    request:cancel()
    assert.equal("cancelled", request:result().choices[1].fin)
    request = assert(eng:submit{ids = {1, 2}, ignore_eos = true, timeout_ms = 1})
    local fin = request:result().choices[1].fin
    assert.is_true(fin == "timeout" or fin == "length")
    request = assert(eng:submit{ids = {1, 2}, ignore_eos = true, policy = true})
    request:close()
    assert.is_true(eventually(function() return eng:stats().running == 0 end))
  end)

  it("is refused with the field, the need and the value", function()
    local function refused(code, request, ...)
      local r, message, got = eng:submit(request)
      assert.equal(nil, r)
      assert.equal(code, got)
      for _, part in ipairs{...} do assert.is_true(message:find(part, 1, true) ~= nil, message) end
    end
    refused("ARG", {ids = {1}, temperature = -1}, "temperature", "[0, 100]", "-1")
    refused("ARG", {ids = {}}, "prompt")
    refused("ARG", {}, "prompt")
    refused("ARG", {ids = {1}, prompt = "x"}, "prompt")
    refused("ARG", {ids = {100000}}, "100000")
    refused("ARG", {ids = {1}, stop_token_ids = {9999}}, "stop_token_ids", "9999")
    refused("ARG", {ids = {1}, n = 1.5}, "n", "1.5")
    refused("ARG", {ids = {1}, min_tokens = 5, max_tokens = 4}, "min_tokens", "max_tokens")
    refused("LIMIT", {ids = prompt_of(1, 256)}, "256")
    refused("ARG", {ids = {1}, sampler = {order = {"top_k", "nothing"}}}, "order", "nothing")
  end)

  it("looks for stop texts behind min_tokens only", function()
    local e = assert(tok:id "e")
    local request = {ids = {1}, allowed_token_ids = {e}, min_tokens = 5, stop = {"e"}, max_tokens = 20}
    assert.equal("eeeee", assert(eng:submit(request)):result().choices[1].d)
    request.stop = {"ee"}
    assert.equal("eeee", assert(eng:submit(request)):result().choices[1].d)
  end)

  it("raises with the name of a field that is unknown or of the wrong type", function()
    local function raises(request, kind, ...)
      local fine, message = pcall(eng.submit, eng, request, kind)
      assert.is_true(not fine)
      for _, part in ipairs{"engine:submit", ...} do assert.is_true(message:find(part, 1, true) ~= nil, message) end
    end
    local messages = {{role = "user", content = "x"}}
    for _, kind in ipairs{"own", "chat", "completion"} do
      raises({temprature = 1}, kind, "unknown field 'temprature'")
      raises({temperature = "hot"}, kind, "'temperature': number expected, got string")
      raises({stop = {5}}, kind, "'stop': element 1: string expected, got number")
      raises({stop = 5}, kind, "'stop': string or list of strings expected, got number")
      raises({ignore_eos = 1}, kind, "'ignore_eos': boolean expected, got number")
      raises({5}, kind, "number is no name")
    end
    raises({ids = {1}, sampler = {stopp = 1}}, nil, "unknown field 'stopp'")
    raises({messages = messages, max_completion_tokens = 5}, "own", "unknown field")
    raises({prompt = "x"}, "chat", "unknown field 'prompt'")
    raises({ids = {1}}, "chat", "unknown field 'ids'")
    local json = require "fp8llm.json"
    local body = {prompt = "x", temperature = json.null, stop = json.null, user = "me", max_tokens = 1}
    assert(eng:submit(body, "completion")):close()
    local r, message, code = eng:submit('{"ids": [1], "bogus": 1}') -- text comes from elsewhere
    assert.same({nil, "ARG"}, {r, code})
    assert.is_true(message:find("bogus", 1, true) ~= nil)
  end)

  it("waits for its reader when max_unread tokens are ahead", function()
    local slow = assert(model:engine{max_unread = 5})
    local request = assert(slow:submit{ids = {1}, max_tokens = 40, ignore_eos = true, seed = 1})
    assert.is_true(eventually(function() return slow:stats().output_tokens == 5 end))
    local n = 0
    for _, event in request:pieces() do
      assert.is_true(#event.t <= 5)
      n = n + #event.t
    end
    assert.equal(40, n)
    slow:close()
  end)
end)

describe("an engine", function()
  it("counts what it does", function()
    local mine = assert(fp8llm.load(dir, {context = 256, kv_tokens = 1024, max_step_rows = 48}))
    local eng = assert(mine:engine{})
    for i = 1, 3 do
      assert(eng:submit{ids = prompt_of(1, 70), max_tokens = 10 + i, seed = i, ignore_eos = true}):result()
    end
    assert.is_true(eventually(function() return eng:stats().finished == 3 end))
    local s = eng:stats()
    for name, want in pairs{requests = 3, finished = 3, running = 0, queued = 0, parked = 0, output_tokens = 36,
      prompt_tokens = 70 + 6 + 6, cached_tokens = 128, prefix_hits = 4, preemptions = 0, kv_pages = 32} do
      assert.equal(want, s[name], name)
    end
    assert.is_true(eventually(function() return eng:stats().kv_pages_used == 0 end))
    assert.equal(s.steps, s.step_s.count)
    for name, want in pairs{queue_s = 3, first_token_s = 3, total_s = 3, inter_token_s = 33, policy_s = 0} do
      local h = s[name]
      assert.equal(want, h.count, name)
      assert.equal(h.count, h.n[#h.n], name) -- nothing took longer than the last bound
      assert.equal(#h.le, #h.n)
      for i = 2, #h.n do assert.is_true(h.n[i] >= h.n[i - 1] and h.le[i] > h.le[i - 1]) end
      assert.is_true(h.sum <= h.count * h.le[#h.le] and (h.count == 0) == (h.sum == 0))
    end
    assert.is_true(s.first_token_s.sum >= s.queue_s.sum and s.total_s.sum >= s.first_token_s.sum)
    assert.is_true(s.schedule_s + s.sample_s < s.step_s.sum)
    eng:close()
    mine:close()
  end)

  it("begins with the lowest priority number, and keeps the order of arrival within it", function()
    local eng = assert(model:engine{max_running = 1})
    local gate = assert(eng:submit{ids = {1}, policy = true, max_tokens = 1, ignore_eos = true})
    local step = gate:steps()(gate) -- it holds the only place until it is answered
    for _, priority in ipairs{5, 0, -3, 5, 0} do
      assert(eng:submit{ids = {1}, policy = true, max_tokens = 2, ignore_eos = true, priority = priority})
    end
    assert(step:accept(1))
    local got = {}
    for other in eng:steps() do
      if got[#got] ~= other:arrival() then got[#got + 1] = other:arrival() end -- the gate's is 0
      assert(other:accept(1))
    end
    assert.same({3, 2, 5, 1, 4}, got)
    eng:close()
  end)

  it("ends a cancelled request within one step, also in the queue", function()
    local eng = assert(model:engine{max_running = 1, max_unread = 20}) -- it cannot end before we look
    local gate = assert(eng:submit{ids = {1}, policy = true, max_tokens = 1, ignore_eos = true})
    local step = gate:steps()(gate)
    local waiting = assert(eng:submit{ids = {2}, ignore_eos = true})
    assert.equal(1, eng:stats().queued)
    waiting:cancel()
    assert.is_true(waiting:wait(5000))
    assert.equal("cancelled", waiting:result().choices[1].fin)
    assert(step:accept(1))
    local steps = 0
    local running = assert(eng:submit{ids = {3}, ignore_eos = true, max_tokens = 250})
    for _, event in running:pieces() do
      if steps == 0 then
        steps = eng:stats().steps
        running:cancel()
      end
      if event.fin then assert.equal("cancelled", event.fin) end
    end
    local more = #running:result().choices[1].t
    assert.is_true(more < 250, more .. " tokens")
    eng:close()
  end)

  it("refuses a prompt that the pool can never hold, with both numbers", function()
    local small = assert(fp8llm.load(dir, {context = 256, kv_tokens = 96, max_step_rows = 32}))
    local eng = assert(small:engine{})
    local _, message, code = eng:submit{ids = prompt_of(1, 120)}
    assert.equal("LIMIT", code)
    assert.is_true(message:find("120", 1, true) ~= nil, message)
    assert.is_true(message:find("maximum context length is 96 tokens", 1, true) ~= nil, message)
    eng:close()
    small:close()
  end)

  it("of each of several models in one process works beside the others", function()
    local list, engines = {}, {}
    for i = 1, 3 do
      engines[i] = assert(assert(fp8llm.load(dir, {context = 256, max_step_rows = 48, threads = 1})):engine{})
      list[i] = assert(engines[i]:submit{ids = prompt_of(2, 30), max_tokens = 20, seed = 3, ignore_eos = true})
    end
    local want = by_hand(prompt_of(2, 30), 20, {temperature = 1, seed = 3})
    for i = 1, 3 do
      assert.same(want, list[i]:result().choices[1].t)
      engines[i]:close()
    end
  end)

  -- Voluntary switches of all threads but this one: who sleeps without a clock has none.
  local tasks = io.open "/proc/self/task/1/status" or io.open "/proc/self/status"
  if tasks then
    tasks:close()
    it("sleeps when there is nothing to do, also while a policy thinks or nobody reads", function()
      local function switches()
        local sum, me = 0, io.open "/proc/self/stat":read "*a":match "^%d+"
        local pipe = io.popen "ls /proc/$PPID/task"
        for tid in pipe:read "*a":gmatch "%d+" do
          local f = tid ~= me and io.open("/proc/self/task/" .. tid .. "/status")
          if f then
            sum = sum + (f:read "*a":match "\nvoluntary_ctxt_switches:%s*(%d+)" or 0)
            f:close()
          end
        end
        pipe:close()
        return sum
      end
      collectgarbage() -- threads of models nobody has any more end here, not while we count
      collectgarbage()
      local eng = assert(model:engine{max_unread = 4})
      local function quiet()
        local function spin(s)
          local t = fp8llm.clock()
          while fp8llm.clock() - t < s do end
        end
        local steps
        repeat -- what was under way ends, and teams fall asleep
          steps = eng:stats().steps
          spin(0.2)
        until eng:stats().steps == steps
        local before = switches()
        spin(0.3)
        assert.equal(steps, eng:stats().steps)
        return switches() - before
      end
      assert(eng:submit{ids = {1}, max_tokens = 3}):result()
      assert.equal(0, quiet())
      local thinking = assert(eng:submit{ids = {1}, policy = true, max_tokens = 2})
      local unread = assert(eng:submit{ids = {1}, max_tokens = 50, ignore_eos = true, timeout_ms = 60000})
      thinking:steps()(thinking)
      assert.equal(0, quiet())
      unread:close()
      thinking:close()
      eng:close()
    end)
  end

  if jit then -- luacheck: ignore
    it("says in a child after fork that it is not its own, and can be closed there", function()
      local ffi = require "ffi"
      ffi.cdef "int fork(void); int waitpid(int pid, int *status, int options); void _exit(int status);"
      local eng, asleep = assert(model:engine{}), assert(model:engine{})
      assert(assert(asleep:submit{ids = {1}, max_tokens = 1}):result())
      local request = assert(eng:submit{ids = {1}, max_tokens = 200, ignore_eos = true, policy = true})
      local step = request:steps()(request)
      local pid = ffi.C.fork()
      if pid == 0 then
        local ok = pcall(function()
          local r, message, code = eng:submit{ids = {1}}
          assert(r == nil and code == "DEVICE" and message:find("after a fork", 1, true))
          for _, call in ipairs{
            function() eng:stats() end, function() request:result() end, function() request:poll() end,
            function() request:wait(10) end, function() eng:steps()(eng) end, function() request:cancel() end,
          } do
            local fine, why = pcall(call)
            assert(not fine and why:find("after a fork", 1, true))
          end
          r, message, code = step:sample()
          assert(r == nil and code == "DEVICE" and message:find("after a fork", 1, true))
          step = nil -- luacheck: ignore
          collectgarbage()
          collectgarbage()
          request:close()
          eng:close()
          asleep:close()
        end)
        ffi.C._exit(ok and 0 or 1)
      end
      local status = ffi.new "int[1]"
      assert.equal(pid, ffi.C.waitpid(pid, status, 0))
      assert.equal(0, status[0])
      assert(step:sample()) -- the parent's goes on
      request:cancel()
      assert.equal("cancelled", request:result().choices[1].fin)
      eng:close()
    end)
  end
end)

describe("closing an engine", function()
  it("cancels, or drains, and refuses more", function()
    local eng = assert(model:engine{})
    local request = assert(eng:submit{ids = {1}, max_tokens = 20, seed = 1, ignore_eos = true})
    eng:close(true)
    assert.equal("length", request:result().choices[1].fin)
    assert.is_true(pcall(eng.submit, eng, {ids = {1}}) == false)
    eng = assert(model:engine{})
    request = assert(eng:submit{ids = {1}, ignore_eos = true, policy = true})
    eng:close()
    assert.equal("cancelled", request:result().choices[1].fin)
    eng:close()
  end)

  it("gives every page back", function()
    collectgarbage()
    collectgarbage()
    local list = {}
    for i = 1, 2048 / 256 do
      list[i] = assert(model:sequence())
      assert(list[i]:feed(prompt_of(i, 256)))
    end
    for _, s in ipairs(list) do s:close() end
  end)
end)
