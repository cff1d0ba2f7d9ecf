--- How good is a model: perplexity of a text, questions with choices, questions with answers.
-- The definitions are lm-eval's, so that the same rows and prompts give the same figures.
-- What the world can cause returns nil, message, code.
local batch = require "fp8llm.batch"

local eval = {}

-- Inside, a failure is raised as a table; `public` makes it nil, message, code again.
local function must(value, message, code)
  if value == nil then error({message = message, code = code}, 0) end
  return value, message
end

local function refuse(code, ...) error({message = string.format(...), code = code}, 0) end

local function public(f)
  return function(...)
    local ok, result = pcall(f, ...)
    if ok then return result end
    if type(result) ~= "table" then error(result, 0) end
    return nil, result.message, result.code
  end
end

-- ---- perplexity ---------------------------------------------------------------------------------

-- The sum of log probabilities of ids[first..last], which follow ids[from..first-1] and `begin`.
local function score_window(model, ids, window)
  local list = {}
  for _, id in ipairs(window.begin) do list[#list + 1] = id end
  for i = window.from, window.last do list[#list + 1] = ids[i] end
  local seq = must(model:sequence())
  local logprobs = must(seq:score(list))
  local sum = 0
  for i = #list - (window.last - window.first), #list do sum = sum + logprobs:get(i) end
  seq:close()
  return sum
end

--- Every token of the text but the first is predicted once, from windows of `window` tokens of which
-- `stride` are counted. options: window, stride, max_tokens, progress(part).
-- -> {perplexity, tokens}
eval.perplexity = public(function(model, text, options)
  local tokenizer = must(model:tokenizer())
  local begin = must(tokenizer:encode("", {add_special_tokens = true}))
  local ids = must(tokenizer:encode(text, {add_special_tokens = false}))
  local n = math.min(#ids, options.max_tokens or #ids)
  local width = math.min(options.window or 1024, model:info().context - #begin)
  local stride = options.stride or math.max(1, math.floor(width / 2))
  if stride < 1 or width < 2 or stride > width then
    refuse("ARG", "stride %d and window %d do not fit", stride, width)
  end
  -- With nothing before it the first token has no prediction.
  local first = #begin > 0 and 1 or 2
  if n < first then refuse("ARG", "text: %d tokens, at least 2 expected", n) end
  local sum, counted = 0, 0
  while first <= n do
    local last = math.min(counted == 0 and width or first + stride - 1, n)
    local from = math.max(1, last - width + 1)
    sum = sum + score_window(model, ids, {begin = begin, from = from, first = first, last = last})
    counted = counted + last - first + 1
    first = last + 1
    if options.progress then options.progress(last / n) end
  end
  return {perplexity = math.exp(-sum / counted), tokens = counted}
end)

-- ---- prompts ------------------------------------------------------------------------------------

-- Call a task's function on a row; a row that it cannot read is named.
local function read(task, member, row, number)
  local ok, value = pcall(task[member], row)
  if not ok or value == nil then
    refuse("FORMAT", "row %d: no %s%s", number, member, ok and "" or ": " .. tostring(value):gsub("^.-:%d+: ", ""))
  end
  return value
end

-- An example as question and answer.
local function read_shot(task, row, number)
  if not task.options then return {read(task, "prompt", row, number), read(task, "target", row, number)} end
  local right = read(task, "options", row, number)[read(task, "answer", row, number)]
  if not right then refuse("FORMAT", "row %d: the answer is none of the options", number) end
  return {right.context, right.choice}
end

-- The examples that stand before a row: the first n of its group.
local function read_shots(task, options, row, number)
  local shots, n, group = {}, options.shots or 0, task.group and read(task, "group", row, number)
  for i, example in ipairs(n > 0 and options.examples or {}) do
    if #shots == n then break end
    local fits = not task.group or read(task, "group", example, i) == group
    if fits then shots[#shots + 1] = read_shot(task, example, i) end
  end
  if #shots < n then
    local of = group and " of " .. group or ""
    refuse("ARG", "row %d: %d examples are asked for, there are %d%s", number, n, #shots, of)
  end
  return shots
end

-- Description, examples and question: as text, or as messages.
local function make_prompt(prompt, question, chat)
  if chat then
    local messages = {}
    if prompt.description then messages[1] = {role = "system", content = prompt.description} end
    for _, shot in ipairs(prompt.shots) do
      messages[#messages + 1] = {role = "user", content = shot[1]}
      messages[#messages + 1] = {role = "assistant", content = shot[2]}
    end
    messages[#messages + 1] = {role = "user", content = question}
    return messages
  end
  local parts = {prompt.description or ""}
  for _, shot in ipairs(prompt.shots) do parts[#parts + 1] = shot[1] .. " " .. shot[2] .. "\n\n" end
  parts[#parts + 1] = question
  return table.concat(parts)
end

-- What stands before the question of a row.
local function before(task, options, row, number)
  return {
    description = task.description and read(task, "description", row, number),
    shots = read_shots(task, options, row, number),
  }
end

-- ---- choices ------------------------------------------------------------------------------------

-- Ids of a context, and of what a choice adds to them. They are encoded joined, so that a word may span
-- the seam; space at the end of the context belongs to the choice.
local function encode_pair(state, context, choice)
  local space = context:match "%s*$"
  context, choice = context:sub(1, #context - #space), space .. choice
  local whole = must(state.tokenizer:encode(context .. choice, state.encoding))
  local head = must(state.tokenizer:encode(context, state.encoding))
  local rest = {}
  for i = #head + 1, #whole do rest[#rest + 1] = whole[i] end
  if #head == 0 then refuse("ARG", "an empty context needs bos") end
  return head, rest
end

-- Log-likelihood of each option; neighbours with one context share its computation.
local function score_options(state, prompt, options)
  local logprobs, i = {}, 1
  while i <= #options do
    local context, choices, head = options[i].context, {}, nil
    local text = make_prompt(prompt, context, state.chat)
    if state.chat then text = must(state.template:render(text, {add_generation_prompt = true})) end
    local first = i
    while options[i] and options[i].context == context do
      head, choices[#choices + 1] = encode_pair(state, text, (state.chat and "" or " ") .. options[i].choice)
      i = i + 1
    end
    for k, logprob in ipairs(must(state.model:score(head, choices))) do logprobs[first + k - 1] = logprob end
  end
  return logprobs
end

-- The first of the largest of values, each divided by what it is long.
local function best(values, lengths)
  local at
  for i, v in ipairs(values) do
    v = lengths and v / lengths[i] or v
    if not at or v > at.value then at = {index = i, value = v} end
  end
  return at.index
end

local function count_characters(s) return #(s:gsub("[\128-\191]", "")) end

local function judge(options, logprobs, answer)
  local characters, bytes = {}, {}
  for i, option in ipairs(options) do
    characters[i], bytes[i] = count_characters(option.choice), #option.choice
  end
  return {
    logprobs = logprobs, answer = answer, acc = best(logprobs) == answer and 1 or 0,
    acc_norm = best(logprobs, characters) == answer and 1 or 0, acc_bytes = best(logprobs, bytes) == answer and 1 or 0,
  }
end

local function summarize(samples, names)
  local result = {n = #samples, samples = samples, metrics = {}, stderr = {}}
  for _, name in ipairs(names) do
    local sum = 0
    for _, sample in ipairs(samples) do sum = sum + sample[name] end
    local mean = sum / #samples
    result.metrics[name] = mean
    result.stderr[name] = #samples > 1 and math.sqrt(mean * (1 - mean) / (#samples - 1)) or 0
  end
  return result
end

--- Which option is the most likely one? acc: by its log-likelihood; acc_norm: by that over its number of
-- characters; acc_bytes: over its number of bytes. options: shots (how many examples) and
-- examples (their rows), chat (through the chat template), bos (begin with what the tokenizer puts before
-- a text), progress(part).
-- -> {n, metrics = {acc, acc_norm, acc_bytes}, stderr = the same, samples = {{logprobs, answer, ...}}}
eval.multiple_choice = public(function(model, task, rows, options)
  local state = {
    model = model, tokenizer = must(model:tokenizer()), chat = options.chat,
    template = options.chat and must(model:template()),
    encoding = {add_special_tokens = options.bos or false, parse_special = options.chat and "all" or "none"},
  }
  local samples = {}
  for number, row in ipairs(rows) do
    local choices, answer = read(task, "options", row, number), read(task, "answer", row, number)
    if not choices[answer] then refuse("FORMAT", "row %d: the answer is none of the options", number) end
    local logprobs = score_options(state, before(task, options, row, number), choices)
    samples[number] = judge(choices, logprobs, answer)
    if options.progress then options.progress(number / #rows) end
  end
  if #samples == 0 then refuse("ARG", "no rows") end
  return summarize(samples, {"acc", "acc_norm", "acc_bytes"})
end)

-- ---- answers ------------------------------------------------------------------------------------

local invalid = "[invalid]" -- lm-eval's word for a text in which a filter finds nothing

local function grade(task, row, number, text)
  local normalize = task.normalize or function(s) return s end
  local target = normalize(read(task, "target", row, number))
  local sample = {text = text, target = target, answers = {}}
  for name, filter in pairs(task.filters) do
    sample.answers[name] = filter(text) or invalid
    sample[name] = normalize(sample.answers[name]) == target and 1 or 0
  end
  return sample
end

--- Greedy answers, as many at a time as the engine runs; each filter's answer counts when it is
-- exactly the target. options as in multiple_choice, and max_tokens.
-- -> {n, metrics = {[filter] = part}, stderr, samples = {{text, target, answers, ...}}}
eval.generate = public(function(model, task, rows, options)
  local tokenizer = must(model:tokenizer())
  local function request(row, number)
    local prompt = make_prompt(before(task, options, row, number), read(task, "prompt", row, number), options.chat)
    local r = {temperature = 0, stop = task.stop, max_tokens = options.max_tokens or task.max_tokens}
    if options.chat then
      r.messages = prompt
    else
      r.ids = must(tokenizer:encode(prompt, {add_special_tokens = options.bos or false}))
    end
    return r
  end
  local requests = {} -- made here: what is wrong with a row ends the run before it begins
  for number, row in ipairs(rows) do requests[number] = request(row, number) end
  if #requests == 0 then refuse("ARG", "no rows") end
  local engine = must(model:engine {max_running = options.max_running})
  local samples = {}
  local ok, trouble = pcall(function()
    for number, result, message, code in batch.map(engine, requests, function(r) return r end) do
      if not result then refuse(code, "row %d: %s", number, message) end
      local choice = result.choices[1]
      if choice.fin ~= "stop" and choice.fin ~= "length" then
        refuse("CANCELLED", "row %d: %s", number, choice.message or choice.fin)
      end
      samples[number] = grade(task, rows[number], number, choice.d)
      if options.progress then options.progress(number / #rows) end
    end
  end)
  engine:close()
  if not ok then error(trouble, 0) end
  local names = {}
  for name in pairs(task.filters) do names[#names + 1] = name end
  return summarize(samples, names)
end)

return eval
