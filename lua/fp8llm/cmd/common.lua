--- What the commands share: failing, options of models and samplers, words for sizes.
local fp8llm = require "fp8llm"
local hub = require "fp8llm.hub"
local json = require "fp8llm.json"
local progress = require "fp8llm.progress"

local common = {}

--- The words of the command, each a module of lua/fp8llm/cmd.
common.commands = {"pull", "chat", "generate", "tokenize", "inspect", "quantize", "eval", "batch", "serve", "bench"}

--- End the command with one line on stderr: exit status 1.
function common.fail(...) error({status = 1, message = string.format(...)}, 0) end

--- End the command because it was called wrongly: exit status 2.
function common.usage(...) error({status = 2, message = string.format(...)}, 0) end

--- What a command returns whose requests have not all succeeded: its exit status, nil for 0.
function common.partly(failed) return failed > 0 and 3 or nil end

--- Ctrl-C says that nothing is lost.
function common.resumable()
  fp8llm.catch_interrupts "fp8llm: interrupted; run the same command again to go on\n"
end

--- Pass values on, or fail with the message that follows a nil.
function common.must(value, message, ...)
  if value == nil then common.fail("%s", message) end
  return value, message, ...
end
local must = common.must

--- The text of a file, without a byte order mark.
function common.read_file(path)
  local f = must(io.open(path, "rb"))
  local text, message = f:read "*a"
  f:close()
  if not text then common.fail("%s: %s", path, message or "cannot be read") end
  return (text:gsub("^\239\187\191", ""))
end

--- All of stdin.
function common.read_stdin()
  local text, message = io.read "*a"
  if not text then common.fail("stdin: %s", message or "cannot be read") end
  return text
end

local stdout

--- Write to stdout now; what cannot be written ends the command, with status 1.
function common.write(text)
  stdout = stdout or must(fp8llm.sink())
  must(stdout:write(text))
end

--- The same with a line end.
function common.print(line) common.write(line .. "\n") end

--- A line as string.format makes it.
function common.printf(format, ...) common.print(string.format(format, ...)) end

--- At the end of a command: all of stdout is where it should be, or the command has failed.
function common.finish_output()
  if stdout then must(stdout:close()) end
  stdout = nil
end

--- A file for results as fp8llm.sink, nil or "-" is stdout. What it holds stays until common.empty.
function common.open_output(path) return must(fp8llm.sink(path ~= "-" and path or nil)) end

--- A file of lines as fp8llm.lines, "-" is stdin.
function common.open_lines(path) return must(fp8llm.lines(path ~= "-" and path or nil)) end

--- What a file that was named holds is replaced by what is written now.
function common.empty(sink, path)
  if path and path ~= "-" and sink:is_regular() then must(sink:cut(0)) end
end

common.model_options = {
  {"device", "string", "NAME", "where to run: auto, cpu, cuda, cuda:N (default auto: the CPU)"},
  {"gpu-memory-utilization", "number", "PART", "of a GPU's memory for model and KV cache (default 0.9)"},
  {"sparse-prefill", {"compressed", "dense"}, "FORM",
    "GPU: 2:4 weights as products of many rows read them: compressed, dense (a copy, default compressed)"},
  {"batch-invariant", "flag", "", "a sequence gives the same bits whatever it is computed with"},
  {"threads", "integer", "N", "CPU threads, 0 = one per physical core (default 0)"},
  {"context", "integer", "N", "longest sequence in tokens (default: the model's, at most 8192)"},
  {"kv", {"auto", "bf16", "fp8"}, "TYPE", "numbers of the KV cache: auto, bf16, fp8 (default auto)"},
}

common.sampling_options = {
  {"temperature", "number", "T", "0 always takes the most likely token"},
  {"top-p", "number", "P", "the smallest set of tokens whose probability reaches P"},
  {"top-k", "integer", "K", "only the K most likely tokens, 0 = all"},
  {"min-p", "number", "P", "only tokens with P times the probability of the best"},
  {"repetition-penalty", "number", "R", "divide the logits of tokens already there by R"},
  {"seed", "integer", "N", "same seed, same tokens"},
  {"max-tokens", "integer", "N", "stop after N tokens"},
}

--- What clients call a model when nobody says: its directory's name.
function common.base_name(path) return path:gsub("/+$", ""):match "[^/]+$" or path end

--- One list of options after another.
function common.join(...)
  local all = {}
  for _, list in ipairs {...} do
    for _, option in ipairs(list) do all[#all + 1] = option end
  end
  return all
end

--- The one word a command takes, by name.
function common.argument(words, i, name)
  if not words[i] then common.usage("%s is missing", name) end
  return words[i]
end

function common.no_more(words, n)
  if words[n + 1] then common.usage("unexpected '%s'", words[n + 1]) end
end

function common.find(name) return must(hub.find(name)) end

--- --gpu-memory-utilization, checked.
function common.gpu_part(opt)
  local part = opt.gpu_memory_utilization
  if part and not (part > 0 and part <= 1) then
    common.usage "--gpu-memory-utilization: more than 0, at most 1 expected"
  end
  return part
end

--- Load the model a command names, with its options, behind a progress bar.
function common.load(name, opt)
  local bar = progress()
  local dir = opt.config_json and name or common.find(name)
  local model, message = fp8llm.load(dir, {
    device = opt.device, threads = opt.threads, context = opt.context, kv = opt.kv, kv_tokens = opt.kv_tokens,
    gpu_memory_utilization = common.gpu_part(opt), prefix_cache = opt.prefix_cache, time_ops = opt.time_ops,
    load_format = opt.load_format, config_json = opt.config_json,
    sparse_prefill = opt.sparse_prefill, batch_invariant = opt.batch_invariant,
    progress = function(part) bar("loading", part) end,
  })
  bar()
  return must(model, message)
end

--- What the sampling options say, as fields of a request.
function common.request_fields(opt)
  local fields = {}
  for _, option in ipairs(common.sampling_options) do
    local name = option[1]:gsub("-", "_")
    fields[name] = opt[name]
  end
  return fields
end

--- Sampling as the user asked for, else as the model's own generation_config.json has it.
function common.sampling(model, opt)
  local default = model:generation_config()
  if default.do_sample == false then default.temperature = 0 end
  return {
    temperature = opt.temperature or default.temperature,
    top_p = opt.top_p or default.top_p,
    top_k = opt.top_k or default.top_k,
    min_p = opt.min_p or default.min_p,
    repetition_penalty = opt.repetition_penalty or default.repetition_penalty,
    seed = opt.seed,
  }
end

--- "1.23 GB", decimal units as disks and memory bandwidths are sold.
function common.bytes(n)
  for _, unit in ipairs {{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} do
    if n >= unit[1] then return string.format("%.3g %s", n / unit[1], unit[2]) end
  end
  return string.format("%d bytes", n)
end

--- progress(done, total, tokens) of a batch, on a bar.
function common.batch_progress(bar, start)
  return function(done, total, tokens)
    local rate = tokens / math.max(1e-9, fp8llm.clock() - start)
    if not total then return bar("requests", nil, string.format("%d, %.0f tokens/s", done, rate)) end
    bar("requests", total > 0 and done / total or 1, string.format("%d of %d, %.0f tokens/s", done, total, rate))
  end
end

function common.rate(count, seconds) return seconds > 0 and count / seconds or 0 end

function common.median(list)
  local sorted = {}
  for i, v in ipairs(list) do sorted[i] = v end
  table.sort(sorted)
  local middle = math.floor(#sorted / 2)
  if #sorted % 2 == 1 then return sorted[middle + 1] end
  return (sorted[middle] + sorted[middle + 1]) / 2
end

local function prompt_rate(result)
  return common.rate(result.prompt_tokens - result.cached_tokens, result.prompt_seconds)
end

local function decode_rate(result) return common.rate(result.decode_steps, result.decode_seconds) end

--- The figures of a generation, for a person.
function common.speeds(result)
  local cached = result.cached_tokens > 0 and string.format(" (%d known)", result.cached_tokens) or ""
  return string.format("prompt %d tokens%s, %.1f tokens/s; decode %d tokens, %.1f tokens/s", result.prompt_tokens,
    cached, prompt_rate(result), result.completion_tokens, decode_rate(result))
end

--- The same for a program.
function common.result_object(result)
  return {
    text = result.text,
    ids = json.array(result.ids),
    finish_reason = result.finish_reason,
    usage = {
      prompt_tokens = result.prompt_tokens, cached_tokens = result.cached_tokens,
      completion_tokens = result.completion_tokens,
    },
    prompt_tokens_per_second = prompt_rate(result),
    decode_tokens_per_second = decode_rate(result),
  }
end

return common
