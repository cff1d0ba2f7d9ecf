local common = require "fp8llm.cmd.common"
local printable = require "fp8llm.printable"
local progress = require "fp8llm.progress"
local fp8llm = require "fp8llm"
local pull = require "fp8llm.pull"

local M = {
  summary = "get a model from the Hugging Face hub",
  usage = "pull ORG/NAME[@REVISION]",
  text = [[
Downloads what fp8llm reads of a model (configuration, tokenizer, *.safetensors) into the Hugging Face cache, where
other programs find it too, and prints its directory. Other commands then take ORG/NAME. A download that was
interrupted goes on where it was; sizes and digests are checked. It needs the command curl.

HF_TOKEN, or the file token in HF_HOME, says who you are, which gated and private models need. HF_HUB_CACHE, HF_HOME
and XDG_CACHE_HOME say where the cache is (default ~/.cache/huggingface/hub), HF_ENDPOINT which hub is asked;
HF_HUB_OFFLINE=1 asks none. Proxies are those of curl: https_proxy, no_proxy, ~/.curlrc.]],
  options = {},
}

function M.run(_, words)
  local name = common.argument(words, 1, "ORG/NAME")
  common.no_more(words, 1)
  common.resumable()
  local bar, start = progress(), fp8llm.clock()
  local report, message = pull(name, {
    bar = bar,
    say = function(...)
      bar()
      io.stderr:write(printable(string.format(...)), "\n")
    end,
  })
  bar()
  common.must(report, message)
  if report.offline then
    io.stderr:write(name, ": in the cache; the hub was not asked, as HF_HUB_OFFLINE is set\n")
  else
    io.stderr:write(string.format("%s: %d files, %s, of which %s came now, %.1f s\n", name, report.files,
      common.bytes(report.bytes), common.bytes(report.fetched), fp8llm.clock() - start))
  end
  common.print(report.dir)
end

return M
