--- How much memory a checkpoint needs on each of tp devices, as Megatron splits a Llama: q, k, v,
-- gate, up, embedding and head by rows, o and down by columns, norms on all.

---@class fp8llm.memory_plan bytes are those of one device
---@field tp integer devices
---@field context integer tokens of one sequence
---@field max_running integer sequences of that length at once
---@field kv_dtype string
---@field kv_heads integer KV heads on one device; with fewer heads than devices each is kept more than once
---@field weight_bytes integer
---@field sparse_dense_bytes integer what sparse_prefill = "dense" adds on a GPU: a dense copy of 2:4 weights
---@field kv_bytes integer
---@field kv_bytes_per_token integer
---@field activation_bytes integer of one step of max_step_rows rows
---@field max_step_rows integer
---@field rope_bytes integer sines and cosines of every position
---@field total_bytes integer

-- Rows of logits computed at once; a GPU replays whole steps with as many rows as sequences.
local LOGIT_ROWS, GPU_LOGIT_ROWS = 32, 256
local GPU_SPARE_TOKENS = 32 -- a KV page that belongs to nobody
local EDITS = 2 ^ 15 -- of logits, for all tokens that a step draws on a GPU

local function up(a, b) return math.ceil(a / b) end

-- What a step of t rows keeps, as src/model/scratch.c lays it out: activations, their FP8 form, logits.
local function activations(c, t, tp, logit_rows)
  local d, f = c.hidden_size, up(c.intermediate_size, tp)
  local q, kv = up(c.num_attention_heads, tp) * c.head_dim, up(c.num_key_value_heads, tp) * c.head_dim
  local halves = 2 * t * (3 * d + 2 * q + 2 * kv + 3 * f) + t * (d + q + f) + 4 * 3 * t
  return halves + logit_rows * (3 * d + 4) + 4 * logit_rows * up(c.vocab_size, tp)
end

-- Parameters, edits of logits and masks of the tokens that a GPU draws.
local function draws(c, logit_rows)
  return logit_rows * (64 + 8 + 4 * up(c.vocab_size, 32)) + 16 * EDITS
end

-- Bytes of all linears and vocabularies on one device.
local function weights(report, tp, kv_heads)
  local c = report.config
  local sum = 0
  for _, l in ipairs(report.linears) do
    -- Heads that do not split leave copies: k and v by what a device holds of them.
    local part = 1 / tp
    if l.kind == "k_proj" or l.kind == "v_proj" then part = kv_heads / c.num_key_value_heads end
    sum = sum + l.packed_bytes * part
  end
  return sum + report.embedding_bytes / tp + report.norm_bytes
end

local function dense_copies(report, tp)
  local sum = 0
  for _, l in ipairs(report.linears) do
    if l.sparsity and l.dtype == "F8_E4M3" then sum = sum + l.shape[1] * l.shape[2] / tp end
  end
  return math.ceil(sum)
end

--- options: context (default the model's, at most 8192), max_running (1), tp (1), kv ("auto",
-- "bf16", "fp8"), max_step_rows (256), device ("cpu"; "cuda": a GPU). On misuse nil and a message.
---@param report fp8llm.inspect_report
---@param options table
---@return fp8llm.memory_plan?
---@return string? message
local function plan(report, options)
  local c = report.config
  local tp, running = options.tp or 1, options.max_running or 1
  local context = options.context or math.min(c.max_position_embeddings, 8192)
  local rows = math.min(options.max_step_rows or 256, context)
  if tp < 1 or running < 1 or context < 1 then return nil, "tp, max_running and context: at least 1 expected" end
  if context > c.max_position_embeddings then
    return nil, string.format("context: %d, the model has %d positions", context, c.max_position_embeddings)
  end
  if c.num_attention_heads % tp ~= 0 then
    return nil, string.format("tp: %d attention heads do not split into %d", c.num_attention_heads, tp)
  end
  local kv = report.kv_cache.dtype
  if options.kv == "fp8" then kv = "F8_E4M3" elseif options.kv == "bf16" and kv == "F8_E4M3" then kv = "BF16" end
  local kv_heads = up(c.num_key_value_heads, tp)
  local per_token = 2 * c.num_hidden_layers * kv_heads * c.head_dim * (kv == "F8_E4M3" and 1 or 2)
  local gpu = (options.device or ""):match "^cuda"
  local logit_rows = gpu and math.max(LOGIT_ROWS, math.min(GPU_LOGIT_ROWS, rows)) or LOGIT_ROWS
  local p = {
    tp = tp, context = context, max_running = running, kv_dtype = kv, kv_heads = kv_heads,
    weight_bytes = math.ceil(weights(report, tp, kv_heads)), kv_bytes_per_token = per_token,
    sparse_dense_bytes = dense_copies(report, tp),
    kv_bytes = per_token * (context * running + (gpu and GPU_SPARE_TOKENS or 0)), max_step_rows = rows,
    activation_bytes = activations(c, rows, tp, logit_rows) + (gpu and draws(c, logit_rows) or 0),
    rope_bytes = 4 * context * c.head_dim,
  }
  p.total_bytes = p.weight_bytes + p.kv_bytes + p.activation_bytes + p.rope_bytes
  return p
end

return plan
