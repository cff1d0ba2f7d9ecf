local common = require "fp8llm.cmd.common"
local generate = require "fp8llm.generate"
local json = require "fp8llm.json"
local must = common.must

local M = {
  summary = "continue a text",
  usage = "generate MODEL [--prompt TEXT]",
  text = [[
The prompt is taken as it is, without a chat template; without --prompt it is read from stdin.]],
  options = common.join({
    {"prompt", "string", "TEXT", "the text to continue"},
    {"special", "flag", "", "read special tokens written in the prompt as such"},
    {"echo", "flag", "", "print the prompt too"},
    {"json", "flag", "", "print one JSON object"},
  }, common.sampling_options, common.model_options),
}

function M.run(opt, words)
  local name = common.argument(words, 1, "MODEL")
  common.no_more(words, 1)
  local model = common.load(name, opt)
  local prompt = opt.prompt or io.read "*a"
  local tokenizer = must(model:tokenizer())
  local ids = must(tokenizer:encode(prompt, {
    add_special_tokens = true, parse_special = opt.special and "all" or "none",
  }))
  if #ids == 0 then common.fail "the prompt is empty" end
  if opt.echo and not opt.json then common.write(prompt) end
  local result = must(generate(must(model:sequence()), ids, {
    tokenizer = tokenizer, sampler = common.sampler(model, opt), stop = must(model:eos()),
    max_tokens = opt.max_tokens or 256, on_piece = not opt.json and common.write or nil,
  }))
  if opt.json then
    common.write(json.encode(common.result_object(result)) .. "\n")
  else
    common.write "\n"
    io.stderr:write(common.speeds(result), "\n")
  end
end

return M
