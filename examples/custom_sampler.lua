-- A sampler of one's own: typical sampling (Meister et al. 2022). It keeps the tokens whose
-- information, -log p, is closest to what the model expects of its next token, the entropy,
-- until they hold the probability `mass`. Under LuaJIT the logits are read where they lie,
-- through an FFI pointer; other Luas take a copy.
--     luajit examples/custom_sampler.lua [MODEL] [PROMPT] [SEED]
local fp8llm = require "fp8llm"
local has_ffi, ffi = pcall(require, "ffi")

-- p[id], ids from 0
local function elements(logits)
  if has_ffi then return ffi.cast("const float *", logits:address()) end
  local p = {}
  for i, value in ipairs(logits:totable()) do p[i - 1] = value end
  return p
end

local function typical(logits, mass)
  local p, last = elements(logits), #logits - 1
  local _, max = logits:argmax()
  local sum, weighted = 0, 0 -- of e^(logit - max), and of (logit - max) times that
  for id = 0, last do
    local d = p[id] - max
    if d > -40 then
      local e = math.exp(d)
      sum, weighted = sum + e, weighted + d * e
    end
  end
  local log_sum = math.log(sum)
  local entropy = log_sum - weighted / sum

  -- Tokens below e^-14 hold next to nothing and are never typical unless all are.
  local kept = {}
  for id = 0, last do
    local logprob = p[id] - max - log_sum
    if logprob > -14 then kept[#kept + 1] = {id = id, p = math.exp(logprob), off = math.abs(-logprob - entropy)} end
  end
  table.sort(kept, function(a, b)
    if a.off ~= b.off then return a.off < b.off end
    return a.id < b.id
  end)

  local held, count = 0, 0
  while count < #kept and held < mass do
    count = count + 1
    held = held + kept[count].p
  end
  local at = math.random() * held
  for i = 1, count do
    at = at - kept[i].p
    if at < 0 then return kept[i].id end
  end
  return kept[count].id
end

local model = assert(fp8llm.load(arg[1] or "build/models/SmolLM2-135M-Instruct-FP8"))
local question = arg[2] or "Tell me a very short story about a lighthouse."
math.randomseed(tonumber(arg[3]) or 1)

local prompt = assert(model:template():encode({{role = "user", content = question}}, {add_generation_prompt = true}))
local ends = {}
for _, id in ipairs(model:eos()) do ends[id] = true end

local sequence = assert(model:sequence())
local text = model:tokenizer():stream {}
local logits = assert(sequence:feed(prompt))
for _ = 1, 120 do
  local id = typical(logits, 0.6)
  if ends[id] then break end
  io.write((assert(text:push(id))))
  io.flush()
  logits = assert(sequence:feed {id})
end
print((text:finish()))
