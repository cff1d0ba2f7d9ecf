local batch = require "fp8llm.batch"
local common = require "fp8llm.cmd.common"
local defaults = require "fp8llm.defaults"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local progress = require "fp8llm.progress"
local must = common.must

local M = {
  summary = "continue a text",
  usage = "generate MODEL [--prompt TEXT | --input FILE]",
  text = [[
The prompt is taken as it is, without a chat template; without --prompt it is read from stdin.
With --input every line of FILE is a prompt, or a JSON object where it begins with {: prompt, messages or
ids, and any other member of a request. All run together; each answer is a JSON object on a line, in order.
Status 3: some requests failed.
Where neither options nor the model say: temperature 0.7, top-p 0.95 and at most 256 tokens.]],
  options = common.join({
    {"prompt", "string", "TEXT", "the text to continue"},
    {"input", "string", "FILE", "a file or pipe (-: stdin) of prompts or requests, a line each"},
    {"output", "string", "FILE", "with --input: where the answers go (default, and -: stdout)"},
    {"max-running", "integer", "N", "with --input: completions computed together (default 64)"},
    {"kv-tokens", "integer", "N", "with --input: tokens that all together can hold (default 512 each)"},
    {"special", "flag", "", "read special tokens written in the prompt as such"},
    {"echo", "flag", "", "print the prompt too"},
    {"json", "flag", "", "print one JSON object"},
  }, common.sampling_options, common.model_options),
}

local function run_file(opt, name)
  if opt.prompt or opt.echo or opt.special then common.usage "--input: not with --prompt, --echo or --special" end
  local lines, out = common.open_lines(opt.input), common.open_output(opt.output)
  if opt.output and opt.input ~= "-" and out:is_regular() and out:is(opt.input) then
    common.fail("%s: is what is read, too", opt.output)
  end
  local running = opt.max_running or 64
  opt.kv_tokens = opt.kv_tokens or math.max(8192, running * 512)
  local model = common.load(name, opt)
  local engine = must(model:engine {max_running = running})
  common.empty(out, opt.output)
  local bar, start = progress(), fp8llm.clock()
  local fields = common.sampling(model, opt)
  fields.max_tokens = opt.max_tokens
  defaults.fill(fields, model:generation_config(), defaults.text_tokens)
  local report, message = batch.run_prompts(engine, lines, function(object)
    must(out:write(json.encode(object) .. "\n"))
  end, {defaults = fields, progress = common.batch_progress(bar, start)})
  bar()
  engine:close()
  must(report, message)
  must(out:close())
  local seconds = fp8llm.clock() - start
  io.stderr:write(string.format("%s: %d prompts, %d failed, %d tokens, %.1f s, %.1f tokens/s\n", opt.input,
    report.total, report.failed, report.tokens, seconds, common.rate(report.tokens, seconds)))
  return common.partly(report.failed)
end

function M.run(opt, words)
  local name = common.argument(words, 1, "MODEL")
  common.no_more(words, 1)
  if opt.input then return run_file(opt, name) end
  local model = common.load(name, opt)
  local prompt = opt.prompt or common.read_stdin()
  if prompt == "" then common.fail "the prompt is empty" end
  if opt.echo and not opt.json then common.write(prompt) end
  local fields = common.request_fields(opt)
  fields.prompt, fields.parse_special = prompt, opt.special or false
  local answer = must(model:submit(fields))
  local result = must(answer:read {on_piece = not opt.json and common.write or nil})
  if opt.json then
    common.write(json.encode(common.result_object(result)) .. "\n")
  else
    common.write "\n"
    io.stderr:write(common.speeds(result), "\n")
  end
end

return M
