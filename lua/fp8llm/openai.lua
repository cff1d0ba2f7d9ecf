--- OpenAI's request and response objects <-> the engine's. Plain Lua, no HTTP in here.
local json = require "fp8llm.json"

local openai = {kinds = {["/v1/chat/completions"] = "chat", ["/v1/completions"] = "completion"}}

-- Taken over under the same name; the engine checks them.
local same = {
  "n", "min_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty",
  "presence_penalty", "seed", "logit_bias", "allowed_token_ids", "stop", "stop_token_ids", "bad_words",
  "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "truncate_prompt_tokens", "priority",
  "cache_salt", "prompt_logprobs", "add_special_tokens",
}
local chat_only = {"tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template_kwargs"}

local function given(v) return v ~= nil and v ~= json.null end

local function copy(request, body, names)
  for _, name in ipairs(names) do
    if given(body[name]) then request[name] = body[name] end
  end
end

-- What we do not do is refused by its name, never ignored.
local function check(body)
  local format = body.response_format
  if given(format) and (type(format) ~= "table" or format.type ~= "text") then
    return nil, "response_format: only text is offered", "response_format"
  end
  local choice = body.tool_choice
  if given(choice) and choice ~= "auto" and choice ~= "none" then
    return nil, "tool_choice: only auto and none are offered", "tool_choice"
  end
  if given(body.suffix) then return nil, "suffix: not offered", "suffix" end
  return true
end

local function chat_request(body)
  if type(body.messages) ~= "table" then return nil, "messages: need a list", "messages" end
  local request = {messages = body.messages}
  copy(request, body, chat_only)
  if body.tool_choice == "none" then request.tools = nil end
  request.max_tokens = given(body.max_completion_tokens) and body.max_completion_tokens or
    given(body.max_tokens) and body.max_tokens or nil
  if body.logprobs == true then request.logprobs = given(body.top_logprobs) and body.top_logprobs or 0 end
  return request
end

local function completion_request(body)
  if type(body.prompt) ~= "string" and type(body.prompt) ~= "table" then
    return nil, "prompt: need a string or a list of token ids", "prompt"
  end
  local request = {prompt = body.prompt, max_tokens = given(body.max_tokens) and body.max_tokens or 16}
  if given(body.logprobs) then request.logprobs = body.logprobs end
  if body.echo == true then return nil, "echo: not offered here", "echo" end
  return request
end

--- kind "chat" or "completion" -> the engine's request | nil, message, name of the field
function openai.request(kind, body)
  local ok, message, field = check(body)
  if not ok then return nil, message, field end
  local request
  request, message, field = (kind == "chat" and chat_request or completion_request)(body)
  if not request then return nil, message, field end
  copy(request, body, same)
  return request
end

local function bytes_of(s) return json.array {s:byte(1, -1)} end

local function chat_logprobs(event, tokenizer)
  local function describe(id, logprob)
    local piece = tokenizer:bytes(id) or ""
    return {token = tokenizer:decode {id}, logprob = logprob, bytes = bytes_of(piece)}
  end
  local content = json.array {}
  for i, id in ipairs(event.t) do
    local entry = describe(id, event.lp[i])
    entry.top_logprobs = json.array {}
    for k, alternative in ipairs(event.top and event.top[i] or {}) do
      entry.top_logprobs[k] = describe(alternative[1], alternative[2])
    end
    content[i] = entry
  end
  return {content = content}
end

local function completion_logprobs(event, tokenizer)
  local out = {
    tokens = json.array {}, token_logprobs = json.array {}, top_logprobs = json.array {}, text_offset = json.array {},
  }
  local offset = 0
  for i, id in ipairs(event.t) do
    local text = tokenizer:decode {id}
    out.tokens[i], out.token_logprobs[i], out.text_offset[i] = text, event.lp[i], offset
    offset = offset + #text
    out.top_logprobs[i] = {}
    for _, alternative in ipairs(event.top and event.top[i] or {}) do
      out.top_logprobs[i][tokenizer:decode {alternative[1]}] = alternative[2]
    end
    out.top_logprobs[i][text] = event.lp[i] -- last: two tokens may have the same text
  end
  return out
end

--- The engine's result -> a response object | nil, message, code. options: model_name, tokenizer.
function openai.response(kind, result, options)
  local choices = json.array {}
  for i, event in ipairs(result.choices) do
    if event.fin ~= "stop" and event.fin ~= "length" then
      return nil, event.message or ("ended by " .. event.fin), "CANCELLED"
    end
    local choice = {index = event.i, finish_reason = event.fin, stop_reason = event.reason or json.null}
    choice.logprobs = event.lp and
      (kind == "chat" and chat_logprobs or completion_logprobs)(event, options.tokenizer) or json.null
    if kind == "chat" then
      choice.message = {role = "assistant", content = event.d}
    else
      choice.text = event.d
    end
    choices[i] = choice
  end
  local u = result.usage
  return {
    id = (kind == "chat" and "chatcmpl-" or "cmpl-") .. (options.id or "0"),
    object = kind == "chat" and "chat.completion" or "text_completion",
    created = os.time(), model = options.model_name, choices = choices,
    usage = {
      prompt_tokens = u.prompt_tokens, completion_tokens = u.completion_tokens,
      total_tokens = u.prompt_tokens + u.completion_tokens,
      prompt_tokens_details = {cached_tokens = u.cached_tokens},
    },
  }
end

--- {message, type, param, code} as OpenAI's error object.
function openai.error_object(message, status, field)
  return {error = {
    message = message, type = status < 500 and "invalid_request_error" or "server_error",
    param = field or json.null, code = json.null,
  }}
end

return openai
