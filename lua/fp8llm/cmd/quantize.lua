local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local progress = require "fp8llm.progress"
local must = common.must

local M = {
  summary = "make an FP8 checkpoint of a BF16 one",
  usage = "quantize SRC DST --scheme fp8-static --calibrate FILE.jsonl",
  text = [[
Writes SRC's linear weights as E4M3 with one scale each into the new directory DST; embeddings,
norms and lm_head stay as they are. fp8-static also fixes one scale for the input of each linear,
from the conversations of FILE.jsonl: a line is {"messages": [...]} or {"text": "..."}.]],
  options = {
    {"scheme", "string", "NAME", "fp8-static"},
    {"calibrate", "string", "FILE", "JSON lines to run through SRC"},
    {"samples", "integer", "N", "at most N lines of FILE"},
    {"max-length", "integer", "N", "at most N tokens of a line"},
    {"device", "string", "NAME", "where to run: auto, cpu (default auto)"},
    {"threads", "integer", "N", "CPU threads, 0 = one per physical core (default 0)"},
  },
}

function M.run(opt, words)
  local src, dst = common.argument(words, 1, "SRC"), common.argument(words, 2, "DST")
  common.no_more(words, 2)
  if not opt.scheme then common.usage "--scheme is missing" end
  if not opt.calibrate then common.usage "--calibrate is missing" end
  local start, bar = fp8llm.clock(), progress()
  local report, message = fp8llm.quantize {
    src = common.find(src), dst = dst, scheme = opt.scheme, calibrate = opt.calibrate, samples = opt.samples,
    max_length = opt.max_length, device = opt.device, threads = opt.threads, progress = bar,
  }
  bar()
  must(report, message)
  print(string.format("%s: %d linears %s, calibrated with %d conversations (%d tokens), %s -> %s, %.1f s", dst,
    report.linears, opt.scheme, report.samples, report.tokens, common.bytes(report.bytes_in),
    common.bytes(report.bytes_out), fp8llm.clock() - start))
end

return M
