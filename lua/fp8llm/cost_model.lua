--- How long a step takes on a device, by its roofs: what must be read at the speed of its memory, what
-- must be multiplied at the speed of its units, whichever is longer; the linears and the attention
-- one after the other, then what the ranks of a tensor-parallel device tell each other.
local cost_model = {}

-- Published figures of one GPU: bytes/s of memory, dense FP8 FLOP/s, bytes of memory; NVLink bytes/s
-- in one direction. H100 SXM and H200 SXM data sheets (without sparsity).
local h100 = {bandwidth = 3.35e12, flops = 1979e12, memory = 80e9, link = 450e9}
local h200 = {bandwidth = 4.8e12, flops = 1979e12, memory = 141e9, link = 450e9}

-- What of these roofs is reached. Bandwidth: 0.75, measured by others with plain C code on Hopper.
-- Products: 0.44, what TensorRT-LLM's published 3,538 output tokens/s of Llama-3-8B on one H200 with
-- 2,048 tokens in and 128 out come to. Both are assumptions here: no GPU was asked.
local bandwidth_part, flops_part = 0.75, 0.44

-- Per all-reduce of a step, seconds before the first byte: an assumption as well.
local link_latency = 12e-6

local function gpu(one, ranks)
  return {
    ranks = ranks, bandwidth = one.bandwidth * bandwidth_part, flops = one.flops * flops_part,
    memory = one.memory, link = one.link,
  }
end

cost_model.devices = {
  ["sim:h100"] = gpu(h100, 1), ["sim:h200"] = gpu(h200, 1),
  ["sim:8xh100"] = gpu(h100, 8), ["sim:8xh200"] = gpu(h200, 8),
}

--- The numbers of a model that costs follow from. config: members of a config.json.
-- weight_bytes: of a parameter of a layer (1: FP8); the head is BF16. kv_bytes: of a number in the cache.
function cost_model.shape(config, weight_bytes, kv_bytes)
  local hidden, heads = config.hidden_size, config.num_attention_heads
  local head_dim = config.head_dim or hidden / heads
  local kv = (config.num_key_value_heads or heads) * head_dim
  local layer = hidden * (2 * heads * head_dim + 2 * kv) + 3 * hidden * config.intermediate_size
  local head = config.vocab_size * hidden
  local layers = config.num_hidden_layers
  return {
    layers = layers, hidden = hidden,
    token_flops = 2 * layers * layer, -- the linears of one token
    head_flops = 2 * head,
    read_bytes = layers * layer * weight_bytes + 2 * head, -- the weights, once a step
    stored_bytes = layers * layer * weight_bytes + 2 * head * (config.tie_word_embeddings and 1 or 2),
    kv_token_bytes = 2 * layers * kv * kv_bytes,
    attend_flops = 4 * layers * heads * head_dim, -- a token that looks at another
  }
end

--- Tokens of KV cache that fit beside the weights, with a tenth of the memory left for the rest.
function cost_model.kv_tokens(shape, device)
  return math.floor((0.9 * device.memory * device.ranks - shape.stored_bytes) / shape.kv_token_bytes)
end

--- Seconds of a step of `tokens` rows, `sampled` of them through the head; `seen`: pairs of a row and
-- a position it looks at, `cached`: positions of all its sequences. device: bandwidth, flops, ranks,
-- and with ranks > 1 link; overhead: seconds a step costs besides.
function cost_model.step(shape, device, work)
  local ranks = device.ranks or 1
  local flops, bandwidth = device.flops * ranks, device.bandwidth * ranks
  local linear = math.max((work.tokens * shape.token_flops + work.sampled * shape.head_flops) / flops,
    shape.read_bytes / bandwidth)
  local attend = math.max(work.seen * shape.attend_flops / flops, work.cached * shape.kv_token_bytes / bandwidth)
  local told = 0
  if ranks > 1 then -- two all-reduces a layer of a BF16 row; each sends and receives 2 (n-1)/n of it
    local bytes = 2 * work.tokens * shape.hidden * 2 * (ranks - 1) / ranks
    told = 2 * shape.layers * (link_latency + bytes / device.link)
  end
  return linear + attend + told + (device.overhead or 0)
end

return cost_model
