-- closing.lua - every method of every class, while the caller's own code closes or uses its objects
-- in the middle of it: from an __index of the options, or from a finalizer, at each place where the
-- method may run one.  Prints the number of attacks; a fault ends the process.  Run by
-- spec/lua/closing_spec.lua in a process of its own, for a small heap makes the collector quick.
--
--     LUA closing.lua MODEL_DIR [class]
local fp8llm = require "fp8llm"
local dir, only = arg[1], arg[2]

-- The collector makes a whole round at every opportunity, and each runs `finalizer` once.
local finalizer
local function garbage()
  if newproxy then -- luacheck: ignore 113
    local proxy = newproxy(true) -- luacheck: ignore 113
    getmetatable(proxy).__gc = function() if finalizer then finalizer() end end
  else
    setmetatable({}, {__gc = function() if finalizer then finalizer() end end})
  end
end

-- Lua 5.2 cannot be brought to that: there the first round comes after a varying number of bytes.
local by_bytes = _VERSION == "Lua 5.2"
local function eagerly(fn)
  collectgarbage("setpause", 0)
  if _VERSION == "Lua 5.4" then
    collectgarbage("incremental", 0, 1000, 8)
  else
    collectgarbage("setstepmul", 1000000)
  end
  collectgarbage()
  fn()
  finalizer = nil
  collectgarbage("setpause", 200)
end

local attacks = 0

-- fn(objects) with `attack` at the n-th round of the collector; false when there were fewer.
local function at_round(make, fn, attack, n)
  local o, rounds, struck = make(), 0, false
  eagerly(function()
    finalizer = function()
      rounds = rounds + 1
      if rounds < n and not by_bytes then return garbage() end
      finalizer = nil
      struck = true
      attacks = attacks + 1
      pcall(attack, o)
    end
    garbage()
    local _ = by_bytes and ("x"):rep(n * 48)
    pcall(fn, o)
  end)
  for _, object in pairs(o) do pcall(object.close, object) end
  return struck or by_bytes
end

local function close_all(o)
  for _, object in pairs(o) do pcall(object.close, object) end
  collectgarbage()
  for i = 1, 50 do local _ = ("x"):rep(i * 8) .. i end -- something else takes the memory
end

local function try(name, make, fn)
  if only and only ~= name then return end
  for _, attack in ipairs{close_all, fn} do
    local n = 1
    while n <= 40 and at_round(make, fn, attack, n) do n = n + 1 end
  end
end

-- fn(objects, options) where reading any option closes the objects first, and gives it what it
-- would have had; `options` are the names that the method asks for.
local function try_options(make, fn)
  for _, event in ipairs{"__index", "__len", "__pairs", "__ipairs", "__tostring", "__call", "__concat", "__eq"} do
    local o = make()
    local evil = setmetatable({}, {[event] = function()
      close_all(o)
      attacks = attacks + 1
      return nil
    end})
    pcall(fn, o, evil)
    pcall(fn, o, {evil, evil})
    close_all(o)
  end
end

local model = assert(fp8llm.load(dir, {context = 64, kv_tokens = 512, threads = 1}))
local tok = model:tokenizer()
local function fresh_model() return {m = assert(fp8llm.load(dir, {context = 64, kv_tokens = 256, threads = 1}))} end
local function fresh_tok() return {t = assert(fp8llm.tokenizer(dir))} end
local function fresh_stream() return {s = tok:stream{}} end
local function fresh_template() return {t = assert(fp8llm.template(tok))} end
local function fresh_tensor()
  return {t = fp8llm.tensor("f32", {{1, 2, 3}, {4, 5, 6}}), v = fp8llm.tensor("f32", {3, 2, 1}, {1, 2, 3, 4, 5, 6}),
    row = fp8llm.tensor("f32", {3}, {1, 2, 3}), scale = fp8llm.tensor("f32", {1}, {1})}
end
local function fresh_sequence()
  local s = assert(model:sequence())
  assert(s:feed{1, 2, 3})
  return {s = s, smp = fp8llm.sampler{seed = 1}, l = s:feed(4)}
end
local function fresh_file() return {f = assert(fp8llm.safetensors(dir .. "/model.safetensors"))} end
local function fresh_engine()
  local e = assert(model:engine{})
  return {e = e, r = assert(e:submit{ids = {1, 2, 3}, max_tokens = 3, logprobs = 2, prompt_logprobs = 1, n = 2,
    ignore_eos = true})}
end

local function each(name, make, methods)
  for _, fn in ipairs(methods) do
    try(name, make, fn)
    if not only or only == name then try_options(make, fn) end
  end
end

each("model", fresh_model, {
  function(o) return o.m:info() end, function(o) return o.m:config() end,
  function(o) return o.m:generation_config() end, function(o) return o.m:tokenizer() end,
  function(o) return o.m:template() end, function(o) return o.m:eos() end,
  function(o) return o.m:tensor "model.norm.weight" end, function(o) return o.m:op_times() end,
  function(o) return o.m:sequence() end, function(o, p) return o.m:engine(p) end,
  function(o, p) return o.m:score("one ", p or {"two"}) end,
  function(o, p) return o.m:score(p or {1, 2}, p or {{3}, {4, 5}}) end,
})
each("tokenizer", fresh_tok, {
  function(o, p) return o.t:encode("one two three four five six", p) end,
  function(o, p) return o.t:encode("one", {parse_special = p or {"<s>", 1, "</s>"}}) end,
  function(o, p) return o.t:decode({1, 2, 3, 4, 5}, p) end, function(o) return o.t:id "e" end,
  function(o) return o.t:piece(70) end, function(o) return o.t:bytes(70) end, function(o) return #o.t, o.t:bos() end,
  function(o) return o.t:eos() end, function(o) return o.t:chat_template() end,
  function(o, p) return o.t:stream(p):push(70) end, function(o) return fp8llm.template(o.t) end,
  function(o) return fp8llm.template("{{ messages[0].content }}", o.t) end,
})
each("stream", fresh_stream, {
  function(o, p) return o.s:push(p or 70) end, function(o) o.s:push(70) return o.s:finish() end,
})
local messages = {{role = "user", content = "a long enough message for a block"}}
each("template", fresh_template, {
  function(o, p) return o.t:render(messages, p) end, function(o, p) return o.t:encode(messages, p) end,
  function(o, p) return o.t:render(p or messages, {tools = p, bos_token = "x"}) end,
  function(o) return o.t:render({{role = "user", content = "x"}}, {add_generation_prompt = true, a = "b", c = {1}}) end,
})
each("sampler", fresh_sequence, {
  function(o, p) return o.smp:sample(o.l, p or o.s) end, function(o, p) return o.smp:process(p or o.l, o.s) end,
  function(o, p) return o.smp:sample(o.l:clone(), {prompt = p or {1, 2}, output = p or {3}}) end,
  function(o) return o.smp:clone() end,
  function(_, p)
    return fp8llm.sampler(p or {logit_bias = {[1] = 2, [3] = 4}, allowed_token_ids = {1, 2}, order = {"bias"}})
  end,
})
each("sequence", fresh_sequence, {
  function(o, p) return o.s:feed(p or {5, 6}) end, function(o, p) return o.s:score(p or {5, 6}) end,
  function(o) return o.s:fork() end, function(o, p) return o.s:rewind(p or 2) end, function(o) return o.s:ids() end,
  function(o) return o.s:length(), o.s:prompt_length(), #o.s end,
})
each("tensor", fresh_tensor, {
  function(o) return o.t:shape() end, function(o) return o.t:dtype(), o.t:device(), #o.t, tostring(o.t) end,
  function(o, p) return o.t:get(p or 1, 2) end, function(o, p) return o.t:set(p or 1, 2, 5) end,
  function(o, p) return o.t:row(p or 1) end, function(o, p) return o.row:topk(p or 2) end,
  function(o) return o.row:to "bf16":topk(2) end, function(o) return o.row:to "bf16":argmax() end,
  function(o) return o.row:argmax() end, function(o) return o.t:totable() end, function(o) return o.v:totable() end,
  function(o) return o.t:to "f16":totable() end, function(o) return o.t:clone() end,
  function(o, p) return o.t:to(p or "bf16") end, function(o, p) return o.t:add(p or o.t) end,
  function(o, p) return o.t:mul(p or 2) end, function(o, p) return o.t:copy(p or 2) end,
  function(o, p) return o.row:softmax(p) end, function(o) return o.row:add_at(1, 2) end,
  function(o, p) return o.t:mask_fill(p or {1, 2}, 0) end, function(o, p) return o.t:quantize(p) end,
  function(o, p) return o.t:to "e4m3":dequantize(p or o.scale) end,
  function(o) return o.t:to "e4m3":dequantize(2) end,
  function(o, p) return o.t:linear(o.t, p) end,
  function(o, p) return o.t:linear(o.t:to "e4m3", {scale = p or 2, bias = p or o.row, act = "token"}) end,
  function(o) return o.t:address() end,
})
each("safetensors", fresh_file, {
  function(o) return o.f:names() end, function(o) return o.f:info "model.norm.weight" end,
  function(o) return o.f:tensor "model.norm.weight" end, function(o) return #o.f end,
})
each("engine", fresh_engine, {
  function(o, p) return o.e:submit(p or {prompt = "one two", stop = {"x"}, max_tokens = 1, logit_bias = {[7] = 1}}) end,
  function(o, p) return o.e:submit({messages = p or messages, max_tokens = 1, sampler = p or {top_k = 2}}) end,
  function(o, p) return o.e:listen("build/spec/closing.sock", p or {names = {"a", "b"}, policies = {"p"}}) end,
  function(o, p) return o.e:listen("build/spec/closing.sock", {names = p or {"a"}}) end,
  function(o) return o.e:stats() end, function(o) return o.e:fd(), o.e:clear_fd() end,
  function(o) return o.r:result() end, function(o) o.r:wait() return o.r:poll() end, function(o) return o.r:usage() end,
  function(o) for _ in o.r:pieces() do local _ = o.e end end, function(o) return o.r:cancel() end,
})

-- A step cannot be closed, but answered.
local function fresh_steps()
  local e = assert(model:engine{})
  local r = assert(e:submit{ids = {1, 2}, policy = true, policy_logits = only == "rows", max_tokens = 3,
    ignore_eos = true})
  return {e = e, r = r, step = r:steps()(r), close = nil}
end
local function answer(o) o.step:accept(3) o.step:close() end
for _, fn in ipairs{function(o) return o.step:candidates() end, function(o) return o.step:history() end,
  function(o) return o.step.logits:add_at(3, 1) end, function(o) return o.step:policy() end,
  function(o) return o.step:sample() end,
  function(o) return o.step:index(), o.step:arrival() end} do
  for _, attack in ipairs{function(o) o.step:fail() o.r:close() o.e:close() end, answer, fn} do
    for _, rows in ipairs{false, true} do
      local n = 1
      only = rows and "rows" or nil
      if arg[2] and arg[2] ~= "step" then break end
      while n <= 40 and at_round(fresh_steps, fn, attack, n) do n = n + 1 end
    end
  end
end

model:close()
print(attacks)
