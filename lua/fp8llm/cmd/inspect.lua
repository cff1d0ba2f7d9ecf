local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"
local json = require "fp8llm.json"
local must = common.must

local M = {
  summary = "what is in a checkpoint",
  usage = "inspect DIR",
  text = [[
Shape, number formats and sizes, read from config.json and the headers of the weight files; the
weights themselves are not loaded.]],
  options = {
    {"tensors", "flag", "", "list every tensor"},
    {"json", "flag", "", "print one JSON object"},
  },
}

local function read_json(path)
  local value, message = json.decode(common.read_file(path))
  if value == nil then common.fail("%s: %s", path, message) end
  if type(value) ~= "table" then common.fail("%s: an object is expected", path) end
  return value
end

local function exists(path)
  local f = io.open(path)
  if f then f:close() end
  return f ~= nil
end

-- The weight files of a directory: those of the index, else model.safetensors.
local function weight_files(dir)
  local index = dir .. "/model.safetensors.index.json"
  if not exists(index) then return {"model.safetensors"} end
  local map = read_json(index).weight_map
  if type(map) ~= "table" then common.fail("%s: no weight_map", index) end
  local seen, files = {}, {}
  for _, file in pairs(map) do
    if type(file) == "string" and not seen[file] then
      seen[file] = true
      files[#files + 1] = file
    end
  end
  table.sort(files)
  return files
end

local element_bytes = {f64 = 8, i64 = 8, u64 = 8, f32 = 4, i32 = 4, u32 = 4, bf16 = 2, f16 = 2, i16 = 2, u16 = 2}

local function collect(dir)
  local tensors, by_type, bytes, parameters = json.array {}, {}, 0, 0
  local files = weight_files(dir)
  for _, file in ipairs(files) do
    local st = must(fp8llm.safetensors(dir .. "/" .. file))
    for _, name in ipairs(st:names()) do
      local tensor = must(st:info(name))
      local count = 1
      for _, d in ipairs(tensor.shape) do count = count * d end
      local size = count * (element_bytes[tensor.dtype] or 1)
      tensors[#tensors + 1] = {
        name = name, dtype = tensor.dtype, shape = json.array(tensor.shape), bytes = size, file = file,
      }
      local sum = by_type[tensor.dtype] or {tensors = 0, bytes = 0, elements = 0}
      by_type[tensor.dtype] = {tensors = sum.tensors + 1, bytes = sum.bytes + size, elements = sum.elements + count}
      bytes = bytes + size
      if not name:match "scale$" and not name:match "scale_inv$" then parameters = parameters + count end
    end
    st:close()
  end
  return {tensors = tensors, types = by_type, bytes = bytes, parameters = parameters, files = json.array(files)}
end

local function quantization(config)
  local q = config.quantization_config
  if type(q) ~= "table" then return "none" end
  local scheme = type(q.activation_scheme) == "string" and " " .. q.activation_scheme or ""
  return tostring(q.quant_method or q.quant_algo or "unknown") .. scheme
end

local shape_keys = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
  "num_key_value_heads", "vocab_size", "max_position_embeddings", "tie_word_embeddings"}

local function show(r, list_tensors)
  print(r.dir)
  print(string.format("  %-24s %s", "architecture", r.architecture))
  for _, key in ipairs(shape_keys) do
    if r.config[key] ~= nil then print(string.format("  %-24s %s", key, json.encode(r.config[key]))) end
  end
  print(string.format("  %-24s %s", "quantization", r.quantization))
  print(string.format("  %-24s %s", "chat template", r.chat_template and "yes" or "no"))
  print(string.format("  %-24s %.1f million, %s in %d %s", "parameters", r.parameters / 1e6, common.bytes(r.bytes),
    #r.files, #r.files == 1 and "file" or "files"))
  local types = {}
  for dtype in pairs(r.types) do types[#types + 1] = dtype end
  table.sort(types)
  for _, dtype in ipairs(types) do
    local t = r.types[dtype]
    print(string.format("  %-24s %d tensors, %s", "  " .. dtype, t.tensors, common.bytes(t.bytes)))
  end
  if not list_tensors then return end
  for _, t in ipairs(r.tensors) do
    print(string.format("  %-52s %-5s [%s]", t.name, t.dtype, table.concat(t.shape, ",")))
  end
end

function M.run(opt, words)
  local dir = common.find(common.argument(words, 1, "DIR"))
  common.no_more(words, 1)
  local config = read_json(dir .. "/config.json")
  local result = collect(dir)
  result.dir, result.config, result.quantization = dir, config, quantization(config)
  local names = config.architectures
  result.architecture = type(names) == "table" and type(names[1]) == "string" and names[1]
    or tostring(config.model_type or "unknown")
  result.chat_template = exists(dir .. "/chat_template.jinja")
  if not result.chat_template and exists(dir .. "/tokenizer_config.json") then
    result.chat_template = read_json(dir .. "/tokenizer_config.json").chat_template ~= nil
  end
  if opt.json then
    if not opt.tensors then result.tensors = nil end
    common.write(json.encode(result) .. "\n")
  else
    show(result, opt.tensors)
  end
end

return M
