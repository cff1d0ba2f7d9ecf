local common = require "fp8llm.cmd.common"
local json = require "fp8llm.json"

-- Each is the module fp8llm.cmd.bench_NAME: {text, options, run(opt, name) -> result, show(result)}.
local kinds = {"decode", "prefill", "throughput", "prefix", "policy", "ops", "startup", "schedule", "tokenizer"}

local function module_of(kind)
  for _, known in ipairs(kinds) do
    if known == kind then return require("fp8llm.cmd.bench_" .. kind) end
  end
  common.usage("no benchmark '%s'", kind)
end

-- The options of all of them: one that several take stands once.
local function all_options()
  local all, seen = {}, {}
  for _, kind in ipairs(kinds) do
    for _, option in ipairs(module_of(kind).options) do
      if not seen[option[1]] then
        seen[option[1]] = true
        all[#all + 1] = option
      end
    end
  end
  return all
end

local function all_texts()
  local lines = {}
  for i, kind in ipairs(kinds) do
    lines[i] = string.format("%-10s %s", kind, (module_of(kind).text:gsub("\n", "\n" .. (" "):rep(11))))
  end
  return table.concat(lines, "\n")
end

local M = {
  summary = "measure speed on this machine",
  usage = "bench " .. table.concat(kinds, "|") .. " MODEL",
  text = all_texts() .. "\nFigures are medians over --runs, the bandwidth is the best of them.",
  options = common.join(all_options(), {
    {"runs", "integer", "N", "measurements of each figure (default 5)"},
    {"json", "flag", "", "print one JSON object"},
  }, common.model_options),
}

function M.run(opt, words)
  local kind = module_of(common.argument(words, 1, table.concat(kinds, ", ")))
  local name = opt.shape or common.argument(words, 2, "MODEL")
  common.no_more(words, opt.shape and 1 or 2)
  opt.runs = opt.runs or 5
  if opt.runs < 1 then common.usage "--runs: at least 1 expected" end
  local result = kind.run(opt, name)
  result.model = name
  if opt.json then common.write(json.encode(result) .. "\n") else kind.show(result) end
end

return M
