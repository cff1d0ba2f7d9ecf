-- cut_model.lua SRC DST - the first two layers and 8192 rows of the vocabulary of a tied Llama checkpoint in one
-- file, for machines that the whole is too large to carry to.  Its prompts are ids: it has no tokenizer.
local json = require "fp8llm.json"
local LAYERS, ROWS = 2, 8192

local src, dst = arg[1], arg[2]

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "*a"
  f:close()
  return text
end

local function write(path, text)
  local f = assert(io.open(path, "wb"))
  assert(f:write(text))
  assert(f:close())
end

local function length_of(text)
  local n = 0
  for i = 8, 1, -1 do n = n * 256 + text:byte(i) end
  return n
end

local function length_bytes(n)
  local bytes = {}
  for i = 1, 8 do
    bytes[i] = string.char(n % 256)
    n = math.floor(n / 256)
  end
  return table.concat(bytes)
end

-- Bytes of a tensor that stay, and its shape then; nil: it goes.
local function keep(name, tensor)
  local layer = tonumber(name:match "^model%.layers%.(%d+)%.")
  if layer and layer >= LAYERS then return nil end
  local from, to = tensor.data_offsets[1], tensor.data_offsets[2]
  if name == "model.embed_tokens.weight" or name == "lm_head.weight" then
    to = from + (to - from) / tensor.shape[1] * ROWS
    tensor.shape[1] = ROWS
  end
  return from, to
end

local text = read(src .. "/model.safetensors")
local size = length_of(text)
local header = assert(json.decode(text:sub(9, 8 + size)))
local names, data, at, out = {}, {}, 0, {}
for name in pairs(header) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do
  local tensor = header[name]
  local from, to
  if name ~= "__metadata__" then from, to = keep(name, tensor) end
  if from then
    data[#data + 1] = text:sub(9 + size + from, 8 + size + to)
    out[name] = {dtype = tensor.dtype, shape = json.array(tensor.shape), data_offsets = json.array {at, at + to - from}}
    at = at + to - from
  end
end
local head = json.encode(out)
head = head .. (" "):rep(-#head % 8)
write(dst .. "/model.safetensors", length_bytes(#head) .. head .. table.concat(data))

local config = assert(json.decode(read(src .. "/config.json")))
config.num_hidden_layers, config.vocab_size = LAYERS, ROWS
write(dst .. "/config.json", json.encode(config))
