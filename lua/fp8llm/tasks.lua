--- What the rows of a task's file mean, for fp8llm.eval. The rows are those of the data sets under
-- the names they have on the Hugging Face hub, the prompts those of lm-eval's task of that name.
--
-- A task of choices: options(row) -> list of {context, choice}, answer(row) -> index of the right
-- one. A task of answers: prompt(row), target(row), stop, max_tokens, and filters: for each name a
-- function that takes the answer out of a text, or nil; normalize(text) is applied to answer and target
-- before they are compared. Both may have description(row), which stands before everything
-- else, and group(row): examples are then rows of the same group.
local tasks = {}

local function trim(s) return (s:gsub("^%s+", ""):gsub("%s+$", "")) end

local function index_of(list, value)
  for i, v in ipairs(list) do
    if v == value then return i end
  end
end

local function same_context(context, choices)
  local options = {}
  for i, choice in ipairs(choices) do options[i] = {context = context, choice = choice} end
  return options
end

--- AI2 ARC: {question, choices: {text: [], label: []}, answerKey}
tasks.arc = {
  options = function(row) return same_context("Question: " .. row.question .. "\nAnswer:", row.choices.text) end,
  answer = function(row) return index_of(row.choices.label, row.answerKey) end,
}

--- MMLU: {question, subject, choices: [4], answer: 0..3}
tasks.mmlu = {
  description = function(row)
    return "The following are multiple choice questions (with answers) about " .. row.subject:gsub("_", " ") .. ".\n\n"
  end,
  group = function(row) return row.subject end,
  options = function(row)
    local lines = {trim(row.question)}
    for i = 1, 4 do lines[i + 1] = ("ABCD"):sub(i, i) .. ". " .. row.choices[i] end
    return same_context(table.concat(lines, "\n") .. "\nAnswer:", {"A", "B", "C", "D"})
  end,
  answer = function(row) return row.answer + 1 end,
}

local function hellaswag_text(s)
  return (trim(s):gsub(" %[title%]", ". "):gsub("%[.-%]", ""):gsub("  ", " "))
end

--- HellaSwag: {activity_label, ctx_a, ctx_b, endings: [], label}; the case of ASCII letters only is changed.
tasks.hellaswag = {
  options = function(row)
    local b = row.ctx_b:sub(1, 1):upper() .. row.ctx_b:sub(2):lower()
    local endings = {}
    for i, ending in ipairs(row.endings) do endings[i] = hellaswag_text(ending) end
    return same_context(hellaswag_text(row.activity_label .. ": " .. row.ctx_a .. " " .. b), endings)
  end,
  answer = function(row) return tonumber(row.label) + 1 end,
}

--- WinoGrande: {sentence with "_", option1, option2, answer: "1" or "2"}; what follows the blank is scored.
tasks.winogrande = {
  options = function(row)
    local before, after = row.sentence:match "^(.-)_(.*)$"
    if not before then return nil end
    return {
      {context = before .. row.option1, choice = trim(after)}, {context = before .. row.option2, choice = trim(after)},
    }
  end,
  answer = function(row) return tonumber(row.answer) end,
}

-- All matches of alternatives, of which the first that fits at a place counts, as in a|b.
local function find_all(text, alternatives)
  local found, at = {}, 1
  while at <= #text do
    local match, next_at
    for _, pattern in ipairs(alternatives) do
      match, next_at = text:match("^(" .. pattern .. ")()", at)
      if match then break end
    end
    if match then found[#found + 1] = match end
    at = match and next_at or at + 1
  end
  return found
end

--- GSM8K: {question, answer: "... #### 7"}
tasks.gsm8k = {
  prompt = function(row) return "Question: " .. row.question .. "\nAnswer:" end,
  target = function(row) return row.answer end,
  stop = {"Question:", "</s>", "<|im_end|>"},
  max_tokens = 256,
  filters = {
    ["strict-match"] = function(text) return text:match "#### (%-?[%d.,]+)" end,
    ["flexible-extract"] = function(text)
      local found = find_all(text, {"%-?[$%d.,][$%d.,]+", "%-?%d+"})
      return found[#found]
    end,
  },
  normalize = function(text)
    return (text:gsub(",", ""):gsub("%$", ""):gsub("^.*#### ", ""):gsub("%.$", ""):lower())
  end,
}

return tasks
