--- The generation loop written with the public parts: sequence, sampler, stream.
local fp8llm = require "fp8llm"

-- Rewind a sequence to the longest beginning it shares with ids (at least the last id is left
-- to feed) -> the rest of ids, how many are kept.
local function continue_from(seq, ids)
  local have, shared = seq:ids(), 0
  while shared < #ids - 1 and have[shared + 1] == ids[shared + 1] do shared = shared + 1 end
  local ok, message, code = seq:rewind(shared)
  if not ok then return nil, message, code end
  local rest = {}
  for i = shared + 1, #ids do rest[#rest + 1] = ids[i] end
  return rest, shared
end

--- Answer the text `ids`, all of it: what the sequence already holds is not computed again, so
-- a conversation gives the whole conversation each turn. opt: tokenizer, sampler, stop (list of
-- token ids that end the text), max_tokens, on_piece (function, may be nil; called with each
-- complete piece of text).
-- Returns {text, ids, finish_reason = "stop"|"length", prompt_tokens, cached_tokens,
-- completion_tokens, prompt_seconds, decode_steps, decode_seconds}, or nil, message, code.
return function(seq, ids, opt)
  local stops = {}
  for _, id in ipairs(opt.stop) do stops[id] = true end
  local stream = opt.tokenizer:stream {}
  local chosen, text = {}, {}
  local function emit(piece)
    if piece == "" then return end
    text[#text + 1] = piece
    if opt.on_piece then opt.on_piece(piece) end
  end

  local rest, cached, code = continue_from(seq, ids)
  if not rest then return nil, cached, code end
  local t0 = fp8llm.clock()
  local logits, message
  logits, message, code = seq:feed(rest)
  if not logits then return nil, message, code end
  local t1 = fp8llm.clock()
  local reason, steps = "length", 0
  while #chosen < opt.max_tokens do
    local id
    id, message, code = opt.sampler:sample(logits, seq)
    if not id then return nil, message, code end
    if stops[id] then
      reason = "stop"
      break
    end
    chosen[#chosen + 1] = id
    local piece
    piece, message, code = stream:push(id)
    if not piece then return nil, message, code end
    emit(piece)
    if #chosen == opt.max_tokens then break end
    logits, message, code = seq:feed {id}
    if not logits then
      if code == "LIMIT" then break end -- the context is full: what there is, is the answer
      return nil, message, code
    end
    steps = steps + 1
  end
  local t2 = fp8llm.clock()
  emit(stream:finish())
  return {
    text = table.concat(text),
    ids = chosen,
    finish_reason = reason,
    prompt_tokens = #ids,
    cached_tokens = cached,
    completion_tokens = #chosen,
    prompt_seconds = t1 - t0,
    decode_steps = steps,
    decode_seconds = t2 - t1,
  }
end
