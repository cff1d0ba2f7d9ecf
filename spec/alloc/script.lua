-- Touches every class once, with a tiny model; run by alloc_test under a failing allocator.
-- A NOMEM from the core ends the script like an error from Lua does.
package.path = "lua/?.lua"
local fp8llm = require "fp8llm"
local dir = ...

local function must(value, message)
  if value == nil then error(message, 0) end
  return value
end

local tok = must(fp8llm.tokenizer(dir))
local ids = must(tok:encode("one two three"))
must(tok:decode(ids))
local stream = must(tok:stream{})
for i = 1, #ids do stream:push(ids[i]) end
stream:finish()

local model = must(fp8llm.load(dir, {context = 64, kv_tokens = 256, threads = 1}))
local prompt = must(must(model:template()):encode({{role = "user", content = "hi"}},
  {add_generation_prompt = true}))
local seq = must(model:sequence())
local logits = must(seq:feed(prompt))
local sampler = must(fp8llm.sampler{temperature = 0.7, top_k = 5, seed = 1, logit_bias = {[3] = 1}})
local id = must(sampler:sample(logits, seq))
local fork = must(seq:fork())
must(fork:feed(id))
must(fork:rewind(2))
must(model:score("one ", {"two", "three"}))
must(fork:score({1, 2, 3}))
must(model:info())
must(model:config())

local scale_of_w = must(fp8llm.tensor("f32", {1}))
scale_of_w:set(1, 1)
local x = must(fp8llm.tensor("f32", {4, 32}))
for i = 1, 4 do x:set(i, i, 1) end
local q, scale = x:quantize{scheme = "token"}
must(q, scale)
must(q:dequantize(scale))
must(x:linear(must(model:tensor("model.layers.0.mlp.up_proj.weight")), {scale = scale_of_w}))
must(x:row(1)):softmax()
must(must(x:to("bf16")):row(2):topk(3))
must(must(x:clone()):add(x):totable())
must(x:add(must(x:row(1))))
must(x:mask_fill({1, 2}, 3):mask_fill(must(fp8llm.tensor("i32", {4, 32})), 1))
must(fp8llm.tensor("f32", {{1, 2}, {3, 4}}))
must(fp8llm.describe(dir))
local file = must(fp8llm.safetensors(dir .. "/model.safetensors"))
must(file:info(must(file:names())[1]))
must(file:tensor("model.norm.weight"))
file:close()
local order = {"bias", "penalties", "top_k", "allowed", "temperature"}
sampler = must(fp8llm.sampler{top_k = 3, allowed_token_ids = {1, 2}, repetition_penalty = 2, order = order})
must(must(sampler:clone()):process(must(fp8llm.tensor("f32", {9})), {prompt = {1}, output = {2, 3}}))
seq:close()

-- An engine fails a request, never itself: what its thread cannot have is an error of the request.
local engine = must(model:engine{num_speculative_tokens = 3, prompt_lookup_min = 1, max_policy_rows = 2, names = {"a"}})
local function ended(request)
  local result = must(request:result())
  for _, choice in ipairs(result.choices) do
    if choice.fin == "error" then error(choice.message, 0) end
  end
end
local requests = {
  must(engine:submit{prompt = "one two", max_tokens = 40, temperature = 0, logprobs = 2, echo = true, n = 2,
    stop = {"never"}, bad_words = {"e"}, logit_bias = {[7] = 100}}),
  must(engine:submit{ids = setmetatable({1, 2, 3}, {}), max_tokens = 2, allowed_token_ids = {5, 6},
    prompt_logprobs = 1}),
}
local parked = must(engine:submit{messages = {{role = "user", content = "hi"}}, max_tokens = 3, policy = true})
for step in parked:steps() do
  local _, shown = step:candidates()
  must(step:sample(shown))
end
parked = must(engine:submit{ids = {4}, max_tokens = 2, policy = true, policy_logits = true, logprobs = 1})
for step in parked:steps() do
  step.logits:add_at(3, 1)
  must(step:accept(3))
end
-- In a function of its own: Lua 5.1 loses the finalizer that it calls when its stack cannot grow for that, as it would
-- have to in a chunk with more registers.
local function bodies()
  requests[3] = must(engine:submit('{"prompt":["one","two"],"n":2,"max_tokens":3,"logprobs":1,"echo":true}',
    "completion"))
  for _, event in requests[3]:pieces() do must(event.t) end
  requests[4] = must(engine:submit({messages = {{role = "user", content = "hi"}}, max_tokens = 2}, "chat"))
  requests[5] = must(engine:submit('{"prompt":"one","custom_id":1}', "own", {max_tokens = 2, temperature = 0}))
end
bodies()
for i = 1, #requests do ended(requests[i]) end
ended(parked)
must(engine:stats())
must(engine:listen("build/spec/alloc/engine.sock", {names = {"a", "b"}, policies = {"p"}, row_policies = {"p"}}))
must(fp8llm.request_fields())
engine:close()
must(must(model:submit{"hi", max_tokens = 1}):fd())
must(model:conversation{max_tokens = 1}:say "hi")
model:close()
