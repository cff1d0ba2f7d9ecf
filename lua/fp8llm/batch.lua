--- Many requests through one engine: map over a list, or over the lines of an OpenAI batch file.
local json = require "fp8llm.json"
local openai = require "fp8llm.openai"

local batch = {}

-- In flight at a time: enough to keep the engine's queue from running dry, few enough to keep
-- a file of a million lines out of memory.
local window = 256

--- Feed items to submit(request) and hand out results. next_item() -> key, request | nil; request nil with
-- a message as third value is a failure of its own. Returns an iterator of key, result, message, code
-- in the order of submission, or (not ordered) as they end.
local function run(submit, next_item, ordered)
  local flight, exhausted = {}, false -- {key =, request = | message =, code =}
  local waiting -- {key, request} that the engine's full queue has not taken yet

  local function take_item()
    if waiting then return waiting[1], waiting[2] end
    return next_item()
  end

  local function refill()
    while not exhausted and #flight < window do
      local key, request, message, code = take_item()
      if key == nil then
        exhausted = true
        return
      end
      local entry = {key = key, message = message, code = code}
      if request then entry.request, entry.message, entry.code = submit(request) end
      if entry.code == "BUSY" and #flight > 0 then -- again when one of ours has ended
        waiting = {key, request}
        return
      end
      waiting = nil
      flight[#flight + 1] = entry
    end
  end

  -- Reading is what keeps a request going, so every one is polled, also where order is kept.
  local function ended(entry)
    if not entry.request then return true end
    local event
    repeat event = entry.request:poll() until not event
    return event == nil
  end

  local function take(i)
    local entry = table.remove(flight, i)
    if not entry.request then return entry.key, nil, entry.message, entry.code end
    local result, message, code = entry.request:result()
    entry.request:close()
    return entry.key, result, message, code
  end

  return function()
    refill()
    while #flight > 0 do
      local done
      for i = 1, #flight do
        if ended(flight[i]) and not done and (i == 1 or not ordered) then done = i end
      end
      if done then return take(done) end
      flight[1].request:wait(20)
    end
  end
end

--- for i, result, message, code in batch.map(eng, list, function(item, i) return request end) do
-- Results come in the order of the list. A nil result has a message: that request was refused.
function batch.map(eng, list, make)
  local i = 0
  local function submit(request) return eng:submit(request) end
  return run(submit, function()
    i = i + 1
    if list[i] == nil then return nil end
    return i, make(list[i], i)
  end, true)
end

-- The custom_ids a previous run has finished; a line that it was cut off in is dropped.
local function finished(path)
  local f = io.open(path, "rb")
  if not f then return {}, 0 end
  local text = f:read "*a"
  f:close()
  local whole = text:match "^(.*\n)" or ""
  if whole ~= text then
    local out = assert(io.open(path .. ".tmp", "wb"))
    assert(out:write(whole))
    assert(out:close())
    assert(os.rename(path .. ".tmp", path))
  end
  local ids, n = {}, 0
  for line in whole:gmatch "[^\n]+" do
    local ok, object = pcall(json.decode, line)
    local id = ok and type(object) == "table" and object.custom_id
    if id then ids[id], n = true, n + 1 end
  end
  return ids, n
end

local function count_lines(path)
  local n = 0
  for line in io.lines(path) do n = n + (line:find "%S" and 1 or 0) end
  return n
end

-- One line of the input -> custom_id, {body =, kind =} | custom_id, nil, message
local function read_line(line, number)
  local ok, object = pcall(json.decode, line)
  local name, where = "line-" .. number, "line " .. number
  if not ok or type(object) ~= "table" then return name, nil, where .. ": not a JSON object" end
  local id = object.custom_id
  if type(id) ~= "string" then return name, nil, where .. ": custom_id: need a string" end
  local kind = openai.kinds[object.url]
  if object.method ~= nil and object.method ~= "POST" then
    return id, nil, "method: need POST, got " .. tostring(object.method)
  end
  if not kind then
    return id, nil, "url: need /v1/chat/completions or /v1/completions, got " .. tostring(object.url)
  end
  if type(object.body) ~= "table" then return id, nil, "body: need an object" end
  return id, {body = object.body, kind = kind}
end

--- Run a file of OpenAI batch lines: {custom_id, method, url, body} -> {id, custom_id, response, error}.
-- options: model_name, tokenizer, ordered, progress(done, to_do, tokens). What `output` holds already is
-- not run again. Returns {total, skipped, done, failed, tokens}.
function batch.run_file(eng, input, output, options)
  local done_ids, skipped = finished(output)
  local total = count_lines(input)
  local out = assert(io.open(output, "ab"))
  local lines, number = io.lines(input), 0
  local requests, seen = {}, {}
  local report = {total = total, skipped = skipped, done = 0, failed = 0, tokens = 0}

  local function next_item()
    while true do
      local line = lines()
      if line == nil then return nil end
      number = number + 1
      if line:find "%S" then
        local id, request, message = read_line(line, number)
        if seen[id] then
          return {id = id}, nil, "custom_id: '" .. id .. "' is used twice", "ARG"
        end
        seen[id] = true
        if not done_ids[id] then
          local key = {id = id}
          requests[key] = request
          return key, request, message, "ARG"
        end
      end
    end
  end

  local function submit(request) return eng:submit(request.body, request.kind) end
  for key, result, message, code in run(submit, next_item, options.ordered) do
    local request = requests[key]
    requests[key] = nil
    local response = {status_code = 200, request_id = "batch-" .. key.id}
    if result then
      response.body, message, code = openai.response(request.kind, result, {
        model_name = options.model_name, tokenizer = options.tokenizer, echo = request.body.echo == true,
        start = request.body,
      })
      report.tokens = report.tokens + result.usage.completion_tokens
    end
    if not response.body then
      response.status_code = (code == "ARG" or code == "LIMIT") and 400 or 500
      response.body = openai.error_object(message, response.status_code)
      report.failed = report.failed + 1
    end
    local failed = response.status_code ~= 200
    assert(out:write(json.encode {
      id = "batch_req_" .. key.id, custom_id = key.id, response = response,
      error = failed and {code = tostring(code), message = message} or json.null,
    }, "\n"))
    assert(out:flush())
    report.done = report.done + 1
    if options.progress then options.progress(report.done, math.max(0, total - skipped), report.tokens) end
  end
  assert(out:close())
  return report
end

-- A line of a file of prompts -> request | nil, message. What it does not say, `defaults` say.
local function prompt_request(line, is_json, defaults)
  local own = {prompt = line}
  if is_json then
    local message
    own, message = json.decode(line)
    if type(own) ~= "table" or own[1] ~= nil then return nil, message or "not a JSON object" end
  end
  if own.policy then return nil, "policy: nobody answers it here", own.custom_id end
  local request = {}
  for name, value in pairs(defaults) do request[name] = value end
  for name, value in pairs(own) do
    if name ~= "custom_id" and value ~= json.null then request[name] = value end
  end
  return request, nil, own.custom_id
end

local function prompt_answer(result)
  local first, u = result.choices[1], result.usage
  local object = {
    text = first.d, finish_reason = first.fin, prompt_tokens = u.prompt_tokens, completion_tokens = u.completion_tokens,
  }
  if result.choices[2] then
    object.choices = json.array {}
    for i, choice in ipairs(result.choices) do
      object.choices[i] = {text = choice.d, finish_reason = choice.fin}
    end
  end
  if first.fin == "error" then object.error = {code = "CANCELLED", message = first.message} end
  return object
end

--- Run a file of prompts, one a line; where the first line is a JSON object each line is one, with the
-- members of eng:submit and a custom_id. write(object) is given, in order, {line, custom_id, text,
-- finish_reason, prompt_tokens, completion_tokens, choices (with n > 1)} or {line, custom_id, error}.
-- options: defaults (members of a request), progress(done, total, tokens). Returns {total, failed, tokens}.
function batch.run_prompts(eng, input, write, options)
  local lines, number, is_json = io.lines(input), 0, nil
  local report = {total = count_lines(input), failed = 0, tokens = 0}
  local function next_item()
    local line
    repeat
      line = lines()
      number = number + 1
    until line == nil or line:find "%S"
    if line == nil then return nil end
    if is_json == nil then is_json = line:find "^%s*{" ~= nil end
    local request, message, id = prompt_request(line, is_json, options.defaults or {})
    return {line = number, id = id}, request, message, "ARG"
  end
  local done = 0
  local function submit(request) return eng:submit(request) end
  for key, result, message, code in run(submit, next_item, true) do
    local object = result and prompt_answer(result) or {error = {code = code, message = message}}
    object.line, object.custom_id = key.line, key.id
    report.tokens = report.tokens + (object.completion_tokens or 0)
    if object.error then report.failed = report.failed + 1 end
    write(object)
    done = done + 1
    if options.progress then options.progress(done, report.total, report.tokens) end
  end
  return report
end

return batch
