-- Tokens a minute for each client, counted exactly: the engine counts a prompt, as the model reads it, before it is let
-- in, and the answer's usage says what it took. As much as an answer may take is set aside while it runs, so that many
-- requests at a time spend no more than one after another. rate_limit.conf shows how to use it. (Limits for each API
-- key are the engine's own: fp8llm serve --api-keys.)
local scan = require "fp8llm.body"
local server = require "resty.fp8llm.server"

local rate_limit = {}

-- What is read of a body; the rest of it, which may be long, is the engine's to read.
local names = {"n", "max_tokens", "max_completion_tokens", "prompt", "add_special_tokens", "parse_special"}
local most_prompts = 64

local function number(text) return tonumber((scan.value(text, 64))) end

-- The items of a list of ids, as JSON text: one more than the commas.
local function count_ids(text)
  if text:find "^%[%s*%]$" then return 0 end
  local _, runs = text:gsub("[^,]+", "")
  return runs
end

-- A text, a list of ids, or a list of either -> the list of either, as JSON texts | nil, message
local function list_of_prompts(prompt)
  if not prompt:find "^%[%s*[%[\"]" then return {prompt} end
  return scan.items(prompt, most_prompts + 1) -- more are refused
end

-- What a chat takes at most -> tokens of the prompt, tokens of the answer, body | nil, refusal
local function weigh_chat(options, request, body)
  local line, refusal = options.engine:ask("tokenize", body)
  if not line then return nil, refusal end
  local count, context = line:match '"count":(%d+),"max_model_len":(%d+)'
  local most = number(request.max_completion_tokens) or number(request.max_tokens)
  if not most then
    most = math.max(1, math.min(options.max_tokens, context - count))
    body = body:gsub("}%s*$", ',"max_completion_tokens":' .. most .. "}") -- last: it goes before a null of the client's
  end
  return tonumber(count), most, body
end

local function count_text(options, request, prompt)
  local parts = {'{"prompt":' .. prompt}
  for _, name in ipairs {"add_special_tokens", "parse_special"} do
    if request[name] then parts[#parts + 1] = '"' .. name .. '":' .. request[name] end
  end
  local line, refusal = options.engine:ask("tokenize", table.concat(parts, ",") .. "}")
  if not line then return nil, refusal end
  return tonumber(line:match '"count":(%d+)')
end

local function weigh_completion(options, request, body)
  local prompts, trouble = list_of_prompts(request.prompt or "null")
  if not prompts then return nil, {code = "ARG", param = "prompt", message = "prompt: " .. trouble} end
  local sum = 0
  for _, prompt in ipairs(prompts) do
    local count, refusal
    if prompt:find "^%[" then count = count_ids(prompt) else count, refusal = count_text(options, request, prompt) end
    if not count then return nil, refusal end
    sum = sum + count
  end
  return sum, (number(request.max_tokens) or 16) * #prompts, body
end

local weigh = {chat = weigh_chat, completion = weigh_completion}

--- access_by_lua; options: engine; who, the client; tokens_per_minute; max_tokens, of a chat that does not say.
function rate_limit.access(options)
  server.access()
  local generation = server.generation()
  if not generation then return end -- it takes nothing
  local request, reason = scan.members(generation.body, names)
  if not request then return server.refuse {code = "ARG", message = "body: " .. reason} end
  local prompt, answer, body = weigh[generation.kind](options, request, generation.body)
  if not prompt then return server.refuse(answer) end
  generation.body = body
  local need = prompt + math.max(0, answer) * math.max(1, number(request.n) or 1)

  local minute, left = math.floor(ngx.time() / 60), 60 - ngx.time() % 60
  local dict, key = ngx.shared.tokens, options.who .. " " .. minute
  local taken, trouble = dict:incr(key, need, 0, 120)
  if not taken then return server.refuse {code = "NOMEM", message = "rate limit: " .. trouble} end
  if taken > options.tokens_per_minute then
    dict:incr(key, -need)
    return server.refuse {code = "BUSY", retry_after = left, message = string.format(
      "tokens: this may take %d, and of %d a minute %d are taken", need, options.tokens_per_minute, taken - need)}
  end
  ngx.header["X-RateLimit-Limit-Tokens"] = options.tokens_per_minute
  ngx.header["X-RateLimit-Remaining-Tokens"] = options.tokens_per_minute - taken
  ngx.header["X-RateLimit-Reset-Tokens"] = left .. "s"
  ngx.ctx.reserved = {dict = dict, key = key, tokens = need}
end

--- log_by_lua: give back what was set aside and not taken.
function rate_limit.log()
  local reserved, usage = ngx.ctx.reserved, server.usage()
  if not reserved then return end
  local took = usage and usage.prompt_tokens + usage.completion_tokens
  -- Broken off before anybody knew: it may have taken all.
  if not took then took = (ngx.status == 499 or ngx.status == 504) and reserved.tokens or 0 end
  reserved.dict:incr(reserved.key, took - reserved.tokens)
end

return rate_limit
