--- `fp8llm bench tokenizer`: speed of ours and, where a Python has it, of the package tokenizers.
-- Times are processor time of one thread, so that what else the machine does counts little.
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local sample_text = require "fp8llm.sample_text"
local must = common.must

local BYTES = 1000000

-- Arguments: tokenizer.json, runs, texts.  One line a figure; the median of runs.
local reference_script = [[
import statistics, sys, time, tokenizers
def seconds(f):
    times = []
    for _ in range(int(sys.argv[2])):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    return statistics.median(times)
print(tokenizers.__version__)
print(seconds(lambda: tokenizers.Tokenizer.from_file(sys.argv[1])))
t = tokenizers.Tokenizer.from_file(sys.argv[1])
t.no_truncation()
t.encode_special_tokens = True
for path in sys.argv[3:]:
    text = open(path, encoding="utf-8", errors="replace", newline="").read()
    print(seconds(lambda: t.encode_batch_fast([text])))
]]

local function timed(f)
  local start = os.clock()
  f()
  return os.clock() - start
end

local function measure(tokenizer, kind, text, runs)
  local encode, decoding, ids = {}, {}, nil
  for i = 1, runs do
    encode[i] = timed(function() ids = must(tokenizer:encode(text)) end)
    decoding[i] = timed(function() must(tokenizer:decode(ids)) end)
  end
  return {
    kind = kind, bytes = #text, tokens = #ids, encode_bytes_per_second = #text / common.median(encode),
    decode_bytes_per_second = #text / common.median(decoding),
  }
end

local function quote(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

-- Lines the script prints, nil when there is no such Python or package.
local function reference_lines(python, dir, runs, files)
  local words = {python, "-c", reference_script, dir .. "/tokenizer.json", tostring(runs)}
  for _, file in ipairs(files) do words[#words + 1] = file end
  for i, word in ipairs(words) do words[i] = quote(word) end
  local pipe = io.popen("TOKENIZERS_PARALLELISM=false " .. table.concat(words, " ") .. " 2>/dev/null")
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return #lines == 2 + #files and lines or nil
end

local function compare(result, texts, dir, opt)
  local files = {}
  for i, text in ipairs(texts) do
    files[i] = os.tmpname()
    local f = must(io.open(files[i], "wb"))
    f:write(text)
    f:close()
  end
  local lines = reference_lines(opt.python or "python3", dir, opt.runs, files)
  for _, file in ipairs(files) do os.remove(file) end
  if not lines then
    if opt.python then common.fail("%s: no Python with the package tokenizers", opt.python) end
    return
  end
  result.reference = "tokenizers " .. lines[1]
  result.reference_load_seconds = tonumber(lines[2])
  for i, one in ipairs(result.tokenizer) do
    one.reference_bytes_per_second = one.bytes / tonumber(lines[2 + i])
    one.ratio = one.encode_bytes_per_second / one.reference_bytes_per_second
  end
end

local M = {
  text = [[
MB/s of text for several kinds of text, and the time to load, in processor time of one
thread; beside them those of the Python package tokenizers where it is installed]],
  options = {
    {"text", "string", "FILE", "tokenizer: also this text, repeated to 1 MB"},
    {"python", "string", "PATH", "tokenizer: the Python to compare with (default python3)"},
  },
}

function M.run(opt, name)
  local dir = common.find(name)
  local loads, tok = {}, nil
  for i = 1, opt.runs do
    loads[i] = timed(function() tok = must(fp8llm.tokenizer(dir)) end)
  end
  local result = {load_seconds = common.median(loads), tokenizer = json.array {}}
  local texts = {}
  for i, kind in ipairs(sample_text.kinds) do texts[i] = sample_text.make(kind, BYTES) end
  if opt.text then
    local text = common.read_file(opt.text)
    if text == "" then common.fail("%s: no text in it", opt.text) end
    texts[#texts + 1] = text:rep(math.ceil(BYTES / #text))
  end
  for i, text in ipairs(texts) do
    result.tokenizer[i] = measure(tok, sample_text.kinds[i] or opt.text, text, opt.runs)
  end
  compare(result, texts, dir, opt)
  return result
end

function M.show(r)
  local other = r.reference_load_seconds
  common.printf("load       %.1f ms%s", 1000 * r.load_seconds,
    other and string.format(", %s %.1f ms", r.reference, 1000 * other) or "")
  for _, one in ipairs(r.tokenizer) do
    common.printf("%-10s encode %7.2f MB/s%s  decode %7.2f MB/s  (%.2f bytes a token, %s)", one.kind,
      one.encode_bytes_per_second / 1e6,
      one.ratio and string.format(" (%s %.2f, ratio %.1f)", r.reference, one.reference_bytes_per_second / 1e6,
        one.ratio) or "",
      one.decode_bytes_per_second / 1e6, one.bytes / math.max(1, one.tokens), common.bytes(one.bytes))
  end
end

return M
