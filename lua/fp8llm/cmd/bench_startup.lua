--- `fp8llm bench startup`: from nothing to the first token.
local bench_model = require "fp8llm.cmd.bench_model"
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local must = common.must

local M = {
  text = [[
loading, with the files in the page cache: seconds and bytes of weights a second; then to the
first token of a short prompt; and a whole process, from exec to that token]],
  options = bench_model.options,
}

-- This Lua, as it was started.
local function interpreter()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

local function quote(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

-- Seconds from exec to exit of a command that says one token.
local function process_once(name)
  local line = table.concat({
    quote(interpreter()), quote(arg[0]), "generate", quote(name), "--prompt", "The", "--max-tokens", "1",
    "--temperature", "0", ">/dev/null 2>&1",
  }, " ")
  local status
  local seconds = bench_model.timed(function() status = os.execute(line) end)
  if status ~= 0 and status ~= true then common.fail("%s: the command failed", line) end
  return seconds
end

local function load_once(name, opt)
  local start = fp8llm.clock()
  local model = common.load(name, opt)
  local loaded = fp8llm.clock()
  local seq = must(model:sequence())
  local logits = must(seq:feed(bench_model.some_ids(8, model:config().vocab_size)))
  must(must(fp8llm.sampler {temperature = 0}):sample(logits, seq))
  local first = fp8llm.clock()
  local info = model:info()
  seq:close()
  model:close()
  return {load = loaded - start, first = first - start, info = info}
end

function M.run(opt, name)
  if opt.shape or opt.load_format == "dummy" then common.usage "startup: needs a MODEL with weights" end
  local loads, firsts, processes, info = {}, {}, {}, nil
  load_once(name, opt) -- the files into the page cache
  for i = 1, opt.runs do
    local one = load_once(name, opt)
    loads[i], firsts[i], info = one.load, one.first, one.info
    processes[i] = process_once(name)
  end
  return {
    load_seconds = common.median(loads), first_token_seconds = common.median(firsts),
    process_seconds = common.median(processes), weight_bytes = info.weight_bytes,
    bytes_per_second = info.weight_bytes / common.median(loads), runs = json.array(loads),
    device = info.device, quantization = info.quantization,
  }
end

function M.show(r)
  common.printf("model      %s: %s, on %s", r.model, r.quantization, r.device)
  common.printf("load       %.0f ms, %s of weights: %.2f GB/s (%d runs)", 1000 * r.load_seconds,
    common.bytes(r.weight_bytes), r.bytes_per_second / 1e9, #r.runs)
  common.printf("first      token %.0f ms after the start of loading", 1000 * r.first_token_seconds)
  common.printf("process    %.0f ms from exec to exit with one token", 1000 * r.process_seconds)
end

return M
