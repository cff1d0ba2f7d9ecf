local common = require "fp8llm.cmd.common"
local eval = require "fp8llm.eval"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local progress = require "fp8llm.progress"
local tasks = require "fp8llm.tasks"
local must = common.must

local M = {
  summary = "measure how good a model is",
  usage = "eval perplexity|multiple-choice|generate|suite MODEL ...",
  text = [[
perplexity      of the text in --text: exp of the mean negative log probability of a token, every token
                but the first counted once, seen in windows of --window tokens that overlap by the
                window less --stride
multiple-choice which option is the most likely one, for the rows of --data, a file of JSON lines
generate        greedy answers, compared exactly; --data as above
suite           all that the JSON file --suite lists: [{"name", "kind": one of the above, "text", "task",
                "data", "examples", "shots", "chat", "metric"}, ...], files beside it

--task arc, hellaswag, mmlu or winogrande (multiple-choice), gsm8k (generate): rows as in the data set of that
name, prompts and figures as in lm-eval's task; or a Lua file that returns such a table (see
lua/fp8llm/tasks.lua). With --baseline the same of another model, and recovery: 100 x this one's
figure over that one's (of perplexities the other way round).]],
  options = common.join({
    {"text", "string", "FILE", "perplexity: plain text to predict"},
    {"window", "integer", "N", "perplexity: tokens seen at once (default 1024)"},
    {"stride", "integer", "N", "perplexity: tokens counted per window (default half the window)"},
    {"task", "string", "NAME", "what the rows are"},
    {"data", "string", "FILE", "the rows"},
    {"shots", "integer", "N", "examples before each question (default 0)"},
    {"examples", "string", "FILE", "rows the examples are taken from, in order"},
    {"limit", "integer", "N", "only the first N rows"},
    {"chat", "flag", "", "ask through the chat template, an example a turn"},
    {"bos", "flag", "", "begin a prompt as the tokenizer begins a text (lm-eval does not)"},
    {"max-tokens", "integer", "N", "perplexity: only the first N tokens; generate: longest answer"},
    {"max-running", "integer", "N", "generate: answers computed together (default 32)"},
    {"suite", "string", "FILE", "suite: what to run"},
    {"baseline", "string", "MODEL", "compare with MODEL"},
    {"output", "string", "FILE", "write what each row gave, JSON lines"},
    {"json", "flag", "", "print one JSON object"},
  }, common.model_options),
}

-- A file is read once, whoever needs it: it may be a pipe, and a baseline is asked the same.
local texts = {}

local function read_once(path)
  texts[path] = texts[path] or common.read_file(path)
  return texts[path]
end

local function read_rows(path, limit)
  local rows, number = {}, 0
  for line in read_once(path):gmatch "([^\n]*)\n?" do
    number = number + 1
    if #rows == limit then break end
    if line:find "%S" then
      local row, message = json.decode(line)
      if type(row) ~= "table" then common.fail("%s: line %d: %s", path, number, message or "an object is needed") end
      rows[#rows + 1] = row
    end
  end
  return rows
end

local function find_task(name, kind)
  local task = tasks[name]
  if not task and name:find "%.lua$" then
    local chunk = must(loadfile(name))
    task = chunk()
  end
  if type(task) ~= "table" then common.usage("no task '%s'", name) end
  for _, member in ipairs(kind == "generate" and {"prompt", "target", "filters"} or {"options", "answer"}) do
    if not task[member] then common.usage("%s: not for %s: no %s", name, kind, member) end
  end
  return task
end

-- One entry of a suite on a model -> {name, metrics, stderr, n, seconds, samples}
local function run_entry(model, entry, opt)
  local bar, start = progress(), fp8llm.clock()
  local result, message
  local options = {
    window = opt.window, stride = opt.stride, max_tokens = opt.max_tokens, max_running = opt.max_running or 32,
    shots = entry.shots, chat = entry.chat, bos = opt.bos,
    examples = entry.examples and read_rows(entry.examples),
    progress = function(part) bar(entry.name, part) end,
  }
  if entry.kind == "perplexity" then
    local measured = must(eval.perplexity(model, read_once(entry.text), options))
    result = {n = measured.tokens, metrics = {perplexity = measured.perplexity}, stderr = {}, samples = {}}
  else
    local run = entry.kind == "generate" and eval.generate or eval.multiple_choice
    local task = find_task(entry.task, entry.kind)
    result, message = run(model, task, read_rows(entry.data, opt.limit), options)
    if not result then common.fail("%s: %s", entry.data, message) end
  end
  bar()
  result.name, result.seconds = entry.name, fp8llm.clock() - start
  return result
end

local function run_model(name, entries, opt)
  local model = common.load(name, opt)
  local report = {model = name, quantization = model:info().quantization, results = json.array {}}
  for i, entry in ipairs(entries) do report.results[i] = run_entry(model, entry, opt) end
  model:close()
  return report
end

local required = {
  perplexity = {"text"}, ["multiple-choice"] = {"task", "data"}, generate = {"task", "data"},
}

local function check_entry(entry, where)
  local need = required[entry.kind]
  if not need then common.usage("%sno evaluation '%s'", where, tostring(entry.kind)) end
  for _, name in ipairs(need) do
    local missing = type(entry[name]) ~= "string"
    if missing then common.usage("%s%s is missing", where, where == "" and "--" .. name or name) end
  end
  if (entry.shots or 0) > 0 and not entry.examples then common.usage("%sshots need examples", where) end
  return entry
end

local function read_suite(path)
  local folder = path:match "^(.*/)[^/]*$" or ""
  local entries, message = json.decode(common.read_file(path))
  if type(entries) ~= "table" or #entries == 0 then common.fail("%s: %s", path, message or "a list is needed") end
  for i, entry in ipairs(entries) do
    for _, name in ipairs {"text", "data", "examples"} do
      if entry[name] and entry[name]:sub(1, 1) ~= "/" then entry[name] = folder .. entry[name] end
    end
    entry.name = entry.name or entry.task or entry.kind
    check_entry(entry, path .. ": entry " .. i .. ": ")
  end
  return entries
end

local function sorted_names(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function figure(name, value)
  if name == "perplexity" then return string.format("%.4f", value) end
  return string.format("%.2f", 100 * value)
end

-- What part of the baseline's figure is kept, in percent; nil where that is 0.
local function recovery(name, value, baseline)
  if name == "perplexity" then value, baseline = baseline, value end
  return baseline > 0 and 100 * value / baseline or nil
end

local function print_report(report, entries)
  common.printf("%s (%s)", report.model, report.quantization)
  for i, r in ipairs(report.results) do
    for _, name in ipairs(sorted_names(r.metrics)) do
      local spread = r.stderr[name] and string.format(" +- %.2f", 100 * r.stderr[name]) or ""
      local unit = entries[i].kind == "perplexity" and "tokens" or "rows"
      common.printf("  %-32s %-18s %8s%s  (%d %s, %.1f s)", r.name, name, figure(name, r.metrics[name]), spread,
        r.n, unit, r.seconds)
    end
  end
end

-- The rows of a model card's table; its average is that of the metrics that count up.
local function compare(report, baseline, entries)
  local rows, sums = json.array {}, {n = 0, value = 0, baseline = 0}
  for i, r in ipairs(report.results) do
    for _, name in ipairs(entries[i].metric and {entries[i].metric} or sorted_names(r.metrics)) do
      local value, base = r.metrics[name], baseline.results[i].metrics[name]
      if not value then common.fail("%s: no figure '%s'", r.name, name) end
      rows[#rows + 1] = {
        name = r.name, metric = name, value = value, baseline = base, recovery_percent = recovery(name, value, base),
      }
      if name ~= "perplexity" then
        sums = {n = sums.n + 1, value = sums.value + value, baseline = sums.baseline + base}
      end
    end
  end
  if sums.n > 1 then
    local value, base = sums.value / sums.n, sums.baseline / sums.n
    rows[#rows + 1] = {
      name = "Average", metric = "", value = value, baseline = base, recovery_percent = recovery("", value, base),
    }
  end
  return rows
end

local function print_table(rows, report, baseline)
  local short = "([^/]+)/*$"
  common.printf("\n| Benchmark | Metric | %s | %s | Recovery |", baseline.model:match(short),
    report.model:match(short))
  common.print "|---|---|---:|---:|---:|"
  for _, row in ipairs(rows) do
    common.printf("| %s | %s | %s | %s | %s |", row.name, row.metric, figure(row.metric, row.baseline),
      figure(row.metric, row.value), row.recovery_percent and string.format("%.2f %%", row.recovery_percent) or "-")
  end
end

local function write_samples(file, path, report)
  common.empty(file, path)
  for _, r in ipairs(report.results) do
    for i, sample in ipairs(r.samples) do
      sample.name, sample.row = r.name, i
      must(file:write(json.encode(sample) .. "\n"))
    end
  end
  must(file:close())
end

function M.run(opt, words)
  local kind = common.argument(words, 1, "perplexity, multiple-choice, generate or suite")
  local name = common.argument(words, 2, "MODEL")
  common.no_more(words, 2)
  local entries
  if kind == "suite" then
    entries = read_suite(opt.suite or common.usage "--suite is missing")
  else
    entries = {check_entry({
      name = opt.task or opt.text, kind = kind, text = opt.text, task = opt.task, data = opt.data, shots = opt.shots,
      examples = opt.examples, chat = opt.chat,
    }, "")}
  end
  local file = opt.output and common.open_output(opt.output)
  local report = run_model(name, entries, opt)
  if not opt.json then print_report(report, entries) end
  if opt.output then write_samples(file, opt.output, report) end
  local baseline = opt.baseline and run_model(opt.baseline, entries, opt)
  if baseline then
    report.baseline, report.recovery = baseline, compare(report, baseline, entries)
    if not opt.json then
      print_report(baseline, entries)
      print_table(report.recovery, report, baseline)
    end
  end
  if opt.json then
    for _, r in ipairs(report.results) do r.samples = nil end
    for _, r in ipairs(baseline and baseline.results or {}) do r.samples = nil end
    common.write(json.encode(report) .. "\n")
  end
end

return M
