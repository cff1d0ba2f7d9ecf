local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local progress = require "fp8llm.progress"
local must = common.must

local M = {
  summary = "make an FP8 checkpoint of a BF16 one",
  usage = "quantize SRC DST --scheme NAME [--calibrate FILE.jsonl] [options]",
  text = [[
Writes SRC's linear weights as E4M3 with their scales into the new directory DST; embeddings, norms
and lm_head stay as they are. Scheme and formats that have it:
  fp8-static   a scale for each weight and for its input; autofp8, compressed-tensors, modelopt
  fp8-dynamic  a scale for each row, inputs by token; compressed-tensors, modelopt
               (autofp8: a scale for each weight)
  fp8-block    a scale for 128 x 128 weights, inputs by 128; autofp8, compressed-tensors
Input scales, KV scales and Wanda pruning are measured on the conversations of FILE.jsonl: a line is
{"messages": [...]} or {"text": "..."}.]],
  options = {
    {"scheme", "string", "NAME", "fp8-static, fp8-dynamic or fp8-block"},
    {"format", "string", "NAME", "autofp8, compressed-tensors or modelopt (default: the first above)"},
    {"observer", "string", "NAME", "weight scales: minmax, or mse (default minmax)"},
    {"sparse", "string", "2:4", "prune two of every four weights"},
    {"sparse-method", "string", "NAME", "wanda, or magnitude (default wanda)"},
    {"sparse-format", "string", "NAME", "dense, or bitmask (default dense)"},
    {"kv", "string", "fp8", "also scales of an FP8 KV cache"},
    {"calibrate", "string", "FILE", "JSON lines to run through SRC"},
    {"samples", "integer", "N", "at most N lines of FILE (default 512)"},
    {"max-length", "integer", "N", "at most N tokens of a line (default 2048)"},
    {"ignore", "list", "PATTERN", "leave a linear alone: its name, or re:EXPRESSION; may be repeated"},
    {"compat", "flag", "", "weights in the arithmetic of the format's own tool, bit for bit"},
    {"max-shard-size", "string", "SIZE", "bytes of one weight file, as 500MB, 5GB (default 5GB)"},
    {"device", "string", "NAME", "where to calibrate: auto, cpu, cuda, cuda:N (default auto: the CPU)"},
    {"gpu-memory-utilization", "number", "PART", "of a GPU's memory for model and KV cache (default 0.9)"},
    {"threads", "integer", "N", "CPU threads, 0 = one per physical core (default 0)"},
  },
}

local passed = {"scheme", "format", "observer", "sparse", "sparse_method", "sparse_format", "kv",
  "calibrate", "samples", "max_length", "ignore", "compat", "device", "threads"}

local units = {[""] = 1, KB = 1e3, MB = 1e6, GB = 1e9}

local function bytes_of(text)
  if not text then return nil end
  local number, unit = text:match "^([%d.]+)(%a*)$"
  number = tonumber(number)
  if not number or number <= 0 or not units[unit] then
    common.usage("--max-shard-size: a size such as 500MB expected, got '%s'", text)
  end
  return math.floor(number * units[unit])
end

function M.run(opt, words)
  local src, dst = common.argument(words, 1, "SRC"), common.argument(words, 2, "DST")
  common.no_more(words, 2)
  if not opt.scheme then common.usage "--scheme is missing" end
  local start, bar = fp8llm.clock(), progress()
  local request = {src = common.find(src), dst = dst, progress = bar}
  request.max_shard_bytes = bytes_of(opt.max_shard_size)
  for _, name in ipairs(passed) do request[name] = opt[name] end
  request.gpu_memory_utilization = common.gpu_part(opt)
  local report, message = fp8llm.quantize(request)
  bar()
  must(report, message)
  local calibrated = ""
  if report.samples > 0 then
    calibrated = string.format(", calibrated with %d conversations (%d tokens)", report.samples, report.tokens)
  end
  common.printf("%s: %d linears %s%s, %s -> %s, %.1f s", dst, report.linears, opt.scheme, calibrated,
    common.bytes(report.bytes_in), common.bytes(report.bytes_out), fp8llm.clock() - start)
end

return M
