-- An operator's policy: an answer is "yes" or "no", whichever has more probability over all the ways to begin it.
--     fp8llm serve MODEL --policy yes_no=examples/nginx/yes_no.lua
-- It runs in the engine's process and sees whole rows of logits; clients choose it by its name. guard.lua does.
local answers = {yes = {"yes", "Yes", "YES", " yes", " Yes"}, no = {"no", "No", "NO", " no", " No"}}

-- {ids = of the answer as it is given, first = the tokens it can begin with}, for each answer.
local tables

local function prepare(model)
  local tokenizer = model:tokenizer()
  local function ids(text) return assert(tokenizer:encode(text, {add_special_tokens = false})) end
  tables = {}
  for answer, forms in pairs(answers) do
    local first, seen = {}, {}
    for _, form in ipairs(forms) do
      local id = ids(form)[1]
      if not seen[id] then first[#first + 1] = id end
      seen[id] = true
    end
    tables[answer] = {ids = ids(answer), first = first}
  end
end

local function log_sum(logits, ids)
  local max, sum = -math.huge, 0
  for _, id in ipairs(ids) do max = math.max(max, logits:get(id + 1)) end
  for _, id in ipairs(ids) do sum = sum + math.exp(logits:get(id + 1) - max) end
  return max + math.log(sum)
end

return {logits = true, step = function(step, model)
  if not tables then prepare(model) end
  local _, said = step:history()
  if #said == 0 then
    local answer = log_sum(step.logits, tables.yes.first) > log_sum(step.logits, tables.no.first) and "yes" or "no"
    step:accept(tables[answer].ids[1])
    return
  end
  local ids = said[1] == tables.yes.ids[1] and tables.yes.ids or tables.no.ids
  if ids[#said + 1] then step:accept(ids[#said + 1]) else step:stop() end
end}
