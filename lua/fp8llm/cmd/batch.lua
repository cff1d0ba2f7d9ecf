local batch = require "fp8llm.batch"
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local progress = require "fp8llm.progress"
local must = common.must

local M = {
  summary = "run a file of OpenAI batch requests",
  usage = "batch IN.jsonl OUT.jsonl --model MODEL",
  text = [[
Each line of IN is {"custom_id", "method": "POST", "url": "/v1/chat/completions" or "/v1/completions",
"body"}; each line of OUT {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}.
Requests run together and are answered as `serve` would. A run that was stopped goes on where it was: what
OUT holds is not run again. Status 3: some requests failed. IN is read once, so that it may be a pipe; - is
stdin, and as OUT stdout.]],
  options = common.join({
    {"model", "string", "MODEL", "a directory, or org/name in the local Hugging Face cache"},
    {"served-model-name", "list", "NAME", "what requests may call MODEL (default: its directory's name)"},
    {"ordered", "flag", "", "write in the order of IN, not as they end"},
    {"max-running", "integer", "N", "completions computed together (default 64)"},
    {"kv-tokens", "integer", "N", "tokens that all together can hold (default 64 per completion and more)"},
    {"json", "flag", "", "print the report as one JSON object"},
  }, common.model_options),
}

function M.run(opt, words)
  local input = common.argument(words, 1, "IN.jsonl")
  local output = common.argument(words, 2, "OUT.jsonl")
  common.no_more(words, 2)
  if not opt.model then common.usage "--model: a model is needed" end
  local lines = common.open_lines(input)
  if output ~= "-" then common.resumable() end
  local running = opt.max_running or 64
  opt.kv_tokens = opt.kv_tokens or math.max(8192, running * 512)
  local model = common.load(opt.model, opt)
  local engine = must(model:engine {
    max_running = running, names = opt.served_model_name or {common.base_name(opt.model)},
  })
  local bar, start = progress(), fp8llm.clock()
  local report, trouble = batch.run_file(engine, lines, output ~= "-" and output or must(fp8llm.sink()), {
    ordered = opt.ordered, progress = common.batch_progress(bar, start), input = input,
  })
  bar()
  engine:close()
  must(report, trouble)
  report.seconds = fp8llm.clock() - start
  local text = opt.json and json.encode(report) or string.format(
    "%s: %d requests, %d done before, %d failed, %d tokens, %.1f s, %.1f tokens/s", output, report.total,
    report.skipped, report.failed, report.tokens, report.seconds, common.rate(report.tokens, report.seconds))
  if report.to_stdout then io.stderr:write(text, "\n") else common.print(text) end
  return common.partly(report.failed + report.failed_before)
end

return M
