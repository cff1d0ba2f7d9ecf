-- The prompts that are asked, what counts as right, and the command; the figures themselves are compared
-- with lm-eval's by make test-clients.
local cli = dofile "spec/support/run.lua" "lua/fp8llm/cli.lua"
local eval = require "fp8llm.eval"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local tasks = require "fp8llm.tasks"
local files = dofile "spec/support/files.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local dir, bf16 = "build/spec/eval", "build/spec/eval-bf16"
tiny.write(dir, {seed = 3, quant = "fp8-static", context = 1024, vocab = 266})
tiny.write(bf16, {seed = 3, context = 1024, vocab = 266})

-- A model whose ids are bytes and to whom the text with the most of letter x is the likeliest.
local function recorder()
  local seen = {}
  local function text(ids) return string.char((table.unpack or unpack)(ids)) end -- luacheck: ignore
  local tokenizer = {encode = function(_, s) return {s:byte(1, -1)} end}
  return {
    seen = seen,
    tokenizer = function() return tokenizer end,
    score = function(_, head, choices)
      local logprobs = {}
      for i, choice in ipairs(choices) do
        seen[#seen + 1] = {text(head), text(choice)}
        logprobs[i] = -1 - #text(choice):gsub("x", "")
      end
      return logprobs
    end,
  }
end

local arc = {
  {question = "Q1?", choices = {text = {"a", "bb"}, label = {"A", "B"}}, answerKey = "B"},
  {question = "Q2?", choices = {text = {"long but xxx", "xx"}, label = {"1", "2"}}, answerKey = "2"},
}

describe("the prompts of tasks", function()
  local function asked(task, rows, options)
    local model = recorder()
    assert(eval.multiple_choice(model, task, rows, options or {}))
    return model.seen
  end

  it("arc, with an example", function()
    assert.same({
      {"Question: Q1?\nAnswer: bb\n\nQuestion: Q2?\nAnswer:", " long but xxx"},
      {"Question: Q1?\nAnswer: bb\n\nQuestion: Q2?\nAnswer:", " xx"},
    }, asked(tasks.arc, {arc[2]}, {shots = 1, examples = arc}))
  end)

  it("mmlu takes examples of the same subject", function()
    local function row(subject, question) return
      {subject = subject, question = question, choices = {"p", "q", "r", "s"}, answer = 2}
    end
    local examples = {row("a_b", " E1?"), row("c", "E2?"), row("a_b", "E3?")}
    local function text(question) return question .. "\nA. p\nB. q\nC. r\nD. s\nAnswer:" end
    local head = "The following are multiple choice questions (with answers) about "
    local seen = asked(tasks.mmlu, {row("a_b", "Q?"), row("c", "R?")}, {shots = 1, examples = examples})
    assert.same({head .. "a b.\n\n" .. text "E1?" .. " C\n\n" .. text "Q?", " A"}, seen[1])
    assert.same({head .. "c.\n\n" .. text "E2?" .. " C\n\n" .. text "R?", " D"}, seen[8])
    local result, message, code = eval.multiple_choice(recorder(), tasks.mmlu, {row("c", "R?")},
      {shots = 2, examples = examples})
    assert.is_nil(result)
    assert.equal("row 1: 2 examples are asked for, there are 1 of c", message)
    assert.equal("ARG", code)
  end)

  it("hellaswag loses its brackets", function()
    local row = {activity_label = "Baking", ctx_a = "A [header] man [title] cooks.", ctx_b = "the MAN",
      endings = {"eats [step] it.", " sleeps. "}, label = "1"}
    assert.same({{"Baking: A man. cooks. The man", " eats it."}, {"Baking: A man. cooks. The man", " sleeps."}},
      asked(tasks.hellaswag, {row}))
  end)

  it("winogrande scores what follows the blank", function()
    local row = {sentence = "Ann thanked Bea because _ had helped.", option1 = "Ann", option2 = "Bea", answer = "2"}
    assert.same({{"Ann thanked Bea because Ann", " had helped."}, {"Ann thanked Bea because Bea", " had helped."}},
      asked(tasks.winogrande, {row}))
  end)

  it("space at the end of a context belongs to the choice", function()
    local task = {
      options = function() return {{context = "a \n", choice = "b"}} end,
      answer = function() return 1 end,
    }
    assert.same({{"a", " \n b"}}, asked(task, {{}}))
  end)

  it("gsm8k's filters find what lm-eval's find", function()
    local filters, normalize = tasks.gsm8k.filters, tasks.gsm8k.normalize
    for _, case in ipairs {
      {"so 3 + 4 = 7.\n#### 7", "7", "7"}, {"#### -1,234.50 and 5", "-1,234.50", "5"}, {"it costs $12.", nil, "$12."},
      {"no number", nil, nil}, {"#### x 7 - -8", nil, "-8"}, {"a. b, ...", nil, "..."}, {"####7", nil, "7"},
    } do
      assert.equal(case[2], filters["strict-match"](case[1]))
      assert.equal(case[3], filters["flexible-extract"](case[1]))
    end
    assert.equal("1234.5", normalize "words ... #### a #### $1,234.5.")
  end)
end)

describe("the figures", function()
  it("acc takes the likeliest, acc_norm and acc_bytes the likeliest for its length", function()
    local result = assert(eval.multiple_choice(recorder(), tasks.arc, arc, {}))
    -- " a" and " bb" cost -3 and -4, "long but xxx" -11 over 12 characters, "xx" -2 over 2
    assert.equal(0.5, result.metrics.acc)
    assert.equal(0.5, result.metrics.acc_norm)
    assert.is_true(math.abs(result.stderr.acc - 0.5) < 1e-9)
    assert.same({-3, -4}, result.samples[1].logprobs)
    local wide = {{question = "?", answerKey = "A", choices = {label = {"A", "B"}, text = {"\195\164\195\164", "zzz"}}}}
    local r = assert(eval.multiple_choice(recorder(), tasks.arc, wide, {}))
    assert.same({acc = 0, acc_norm = 0, acc_bytes = 1}, r.metrics) -- -6 over 2 or 4, -5 over 3
  end)

  it("are those of model:score", function()
    local model = assert(fp8llm.load(dir))
    local result = assert(eval.multiple_choice(model, tasks.arc, arc, {shots = 1, examples = arc}))
    local context = "Question: Q1?\nAnswer: bb\n\nQuestion: Q2?\nAnswer:"
    assert.same(assert(model:score(context, {" long but xxx", " xx"})), result.samples[2].logprobs)
    model:close()
  end)

  it("name a row that does not fit", function()
    for _, case in ipairs {
      {{question = "?", choices = {text = {"a"}, label = {"A"}}, answerKey = "E"}, "row 2: no answer"},
      {{question = "?"}, "row 2: no options: "},
      {{}, "row 2: no options: "},
    } do
      local result, message, code = eval.multiple_choice(recorder(), tasks.arc, {arc[1], case[1]}, {})
      assert.is_nil(result)
      assert.equal(case[2], message:sub(1, #case[2]))
      assert.equal("FORMAT", code)
    end
    local result, message = eval.multiple_choice(recorder(), tasks.arc, {}, {})
    assert.is_nil(result)
    assert.equal("no rows", message)
  end)
end)

describe("the command eval", function()
  local data = files.write("build/spec/eval.jsonl", json.encode(arc[1]) .. "\n\n" .. json.encode(arc[2]) .. "\n")
  files.write("build/spec/eval-sums.jsonl", json.encode {question = "1+1?", answer = "2\n#### 2"} .. "\n")
  local suite = files.write("build/spec/eval-suite.json", json.encode(json.array {
    {name = "one", kind = "multiple-choice", task = "arc", data = "eval.jsonl", shots = 1, examples = "eval.jsonl",
      metric = "acc"},
    {name = "two", kind = "generate", task = "gsm8k", data = "eval-sums.jsonl", metric = "strict-match"},
    {name = "three", kind = "generate", task = "gsm8k", data = "eval-sums.jsonl", chat = true, shots = 1,
      examples = "eval-sums.jsonl", metric = "flexible-extract"},
  }))

  local function succeed(...)
    local out, err, status = cli("eval", ...)
    if status ~= 0 then error("status " .. tostring(status) .. ": " .. err, 2) end
    return out
  end

  it("multiple-choice compares with a baseline and writes what each row gave", function()
    local log = "build/spec/eval-out.jsonl"
    local report = json.decode(succeed("multiple-choice", dir, "--task", "arc", "--data", data, "--baseline", bf16,
      "--json", "--output", log))
    assert.equal(2, report.results[1].n)
    assert.equal(3, #report.recovery - 1) -- acc, acc_bytes, acc_norm and their average
    assert.equal(bf16, report.baseline.model)
    local lines = {}
    for line in io.lines(log) do lines[#lines + 1] = json.decode(line) end
    assert.equal(2, #lines)
    assert.equal(2, #lines[2].logprobs)
    local row = report.recovery[1]
    if row.baseline > 0 then assert.equal(100 * row.value / row.baseline, row.recovery_percent) end
  end)

  it("suite prints the table of a model card", function()
    local out = succeed("suite", dir, "--suite", suite, "--baseline", bf16, "--max-tokens", "5")
    local head = "\n| Benchmark | Metric | eval-bf16 | eval | Recovery |\n|---|---|---:|---:|---:|\n| one | acc |"
    assert.is_true(out:find(head, 1, true) ~= nil)
    assert.is_true(out:find "\n| three | flexible%-extract | [%d.]+ | [%d.]+ | [%d.%%-]+[ %%]*|\n| Average |" ~= nil)
  end)

  it("takes a task from a Lua file", function()
    local own = files.write("build/spec/eval-task.lua", [[
      return {
        options = function(row) return {{context = row.q, choice = "yes"}, {context = row.q, choice = "no"}} end,
        answer = function() return 1 end,
      }]])
    local rows = files.write("build/spec/eval-own.jsonl", '{"q": "Is it?"}\n')
    local r = json.decode(succeed("multiple-choice", dir, "--task", own, "--data", rows, "--json")).results[1]
    assert.equal(1, r.n)
  end)

  it("names what is missing or wrong", function()
    local bad = files.write("build/spec/eval-bad.jsonl", "{}\n")
    for _, case in ipairs {
      {{"multiple-choice", dir}, 2, "--task is missing"},
      {{"multiple-choice", dir, "--task", "nil", "--data", data}, 2, "no task 'nil'"},
      {{"generate", dir, "--task", "arc", "--data", data}, 2, "arc: not for generate: no prompt"},
      {{"multiple-choice", dir, "--task", "arc", "--data", data, "--shots", "1"}, 2, "shots need examples"},
      {{"suite", dir}, 2, "--suite is missing"},
      {{"multiple-choice", dir, "--task", "arc", "--data", bad}, 1, bad .. ": row 1: no options"},
      {{"suite", dir, "--suite", bad}, 1, bad .. ": a list is needed"},
    } do
      local _, err, status = cli("eval", (table.unpack or unpack)(case[1])) -- luacheck: ignore
      assert.equal("fp8llm: " .. case[3], err:sub(1, #case[3] + 8))
      assert.equal(case[2], status)
    end
  end)
end)
