--- Many requests through one engine: map over a list, or over the lines of an OpenAI batch file.
local fp8llm = require "fp8llm"
local body = require "fp8llm.body"
local json = require "fp8llm.json"
local openai = require "fp8llm.openai"

local batch = {}

-- In flight at a time: enough to keep the engine's queue from running dry, few enough to keep
-- a file of a million lines out of memory.
local window = 256

--- Submit what comes and hand out what becomes of it. work.next(wait) -> key, request | key, nil, message, code, a
-- failure of its own | false, nothing has come yet | nil, nothing will come; work.submit(request) and
-- work.finish(request in the engine, key) return nil, message, code, param on failure. Returns an iterator of key,
-- result, message, code, param in the order of submission, or (not ordered) as they end.
local function run(work, ordered)
  local flight, exhausted = {}, false -- {key =, request = | failure = {message, code, param}}
  local waiting -- {key, request} that the engine's full queue has not taken yet

  local function take_item()
    if waiting then return waiting[1], waiting[2] end
    return work.next(#flight == 0)
  end

  local function refill()
    while not exhausted and #flight < window do
      local key, request, message, code = take_item()
      if not key then
        exhausted = key == nil
        return
      end
      local entry, param = {key = key}, nil
      if request then entry.request, message, code, param = work.submit(request) end
      if code == "BUSY" and #flight > 0 then -- again when one of ours has ended
        waiting = {key, request}
        return
      end
      waiting = nil
      if not entry.request then entry.failure = {message, code, param} end
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
    if not entry.request then return entry.key, nil, entry.failure[1], entry.failure[2], entry.failure[3] end
    local result, message, code, param = work.finish(entry.request, entry.key)
    entry.request:close()
    return entry.key, result, message, code, param
  end

  return function()
    repeat
      refill()
      local done
      for i = 1, #flight do
        if ended(flight[i]) and not done and (i == 1 or not ordered) then done = i end
      end
      if done then return take(done) end
      if flight[1] then flight[1].request:wait(20) end
    until exhausted and #flight == 0
  end
end

local function whole_result(request) return request:result() end

--- for i, result, message, code in batch.map(eng, list, function(item, i) return request end) do
-- Results come in the order of the list. A nil result has a message: that request was refused.
function batch.map(eng, list, make)
  local i = 0
  return run({
    next = function()
      i = i + 1
      if list[i] == nil then return nil end
      return i, make(list[i], i)
    end,
    submit = function(request) return eng:submit(request) end,
    finish = whole_result,
  }, true)
end

-- A file of lines that may be readable once only: what it is given as is read from beginning to end, once.
-- -> {next(wait) -> line, number | false | nil, count = of the lines that are not blank, or nil, read =, failed =}
local function open_input(input)
  local source, message, code = input, nil, nil
  if type(input) == "string" then source, message, code = fp8llm.lines(input) end
  if not source then return nil, message, code end
  local count
  count, message, code = source:count()
  if not count then return nil, message, code end
  local self = {count = count >= 0 and count or nil, read = 0}
  local number = 0
  function self.next(wait)
    while true do
      local line, trouble, why = source:next(wait)
      if not line then
        if trouble then self.failed = {trouble, why} end
        return line
      end
      number = number + 1
      if line:find "%S" then
        self.read = self.read + 1
        return line, number
      end
    end
  end
  return self
end

-- The end of a run: everything that was read is answered, or it has failed.
local function check_end(input, answered)
  if input.failed then return nil, input.failed[1], input.failed[2] end
  if answered == input.read then return true end
  return nil, string.format("%d lines were read, %d are answered", input.read, answered), "IO"
end

local envelope = {custom_id = true, method = true, url = true, body = true, policy = true}
local answered_members = {"custom_id", "error"} -- what a later run looks at in an answer

-- What a line says around its request, which stays as it is written: key order, {} and 1.0 count. -> {custom_id =,
-- method =, url =, policy =, body = JSON text} | nil, message. names: of the members that are looked for, nil for all.
local function line_members(line, names)
  local members, last = body.members(line, names, math.huge)
  if not members or not line:find("^}%s*$", last) then
    local _, message = json.decode(line) -- says where
    return nil, message or last
  end
  for name, text in pairs(members) do
    if name ~= "body" then
      local value, message = json.decode(text)
      if value == nil then return nil, name .. ": " .. message end
      members[name] = value
    end
  end
  return members
end

-- The custom_ids of a previous run, {id = how often}, and how many failed; a line that it was cut off in is dropped.
local function finished(output, path)
  local ids, failed = {}, 0
  local lines, message, code = fp8llm.lines(path)
  if not lines then return nil, message, code end
  local whole = lines:whole_bytes()
  repeat
    local line
    line, message, code = lines:next()
    if message then return nil, message, code end
    local ended = lines:whole_bytes()
    local members = line and ended > whole and line_members(line, answered_members) or {}
    local id = members.custom_id
    if id then ids[id] = (ids[id] or 0) + 1 end
    if id and members.error and members.error ~= json.null then failed = failed + 1 end
    if line and ended == whole then line, message, code = nil, output:cut(whole) end
    if code then return nil, message, code end
    whole = ended
  until not line
  lines:close()
  return ids, failed
end

-- Where answers go, and which there are already. path: as run_file has it.
local function open_output(path, input)
  local output, message, code = path, nil, nil
  if type(path) == "string" then output, message, code = fp8llm.sink(path) end
  if not output then return nil, message, code end
  if not (output:is_regular() and type(path) == "string") then return output, {}, 0 end
  if type(input) == "string" and output:is(input) then return nil, path .. ": is what is read, too", "ARG" end
  local ids, failed
  ids, failed, code = finished(output, path)
  if not ids then return nil, failed, code end
  return output, ids, failed
end

-- One line of the input -> custom_id, {body = JSON text, kind =} | custom_id, nil, message
local function read_line(line, number)
  local object, message = line_members(line)
  local name, where = "line-" .. number, "line " .. number
  if not object then return name, nil, ("%s: not a JSON object: %s"):format(where, message) end
  local id = object.custom_id
  if type(id) ~= "string" then return name, nil, where .. ": custom_id: need a string" end
  for member in pairs(object) do
    if not envelope[member] then return id, nil, member .. ": no member of a batch line" end
  end
  local kind = openai.kinds[object.url]
  if object.method ~= nil and object.method ~= "POST" then
    return id, nil, "method: need POST, got " .. tostring(object.method)
  end
  if not kind then
    return id, nil, "url: need /v1/chat/completions or /v1/completions, got " .. tostring(object.url)
  end
  if not (object.body or ""):find "^{" then return id, nil, "body: need an object" end
  return id, {body = object.body, kind = kind}
end

-- Names of the answers of a run, which no other answer has: a function(number of the line).
local function answer_ids()
  local random = io.open("/dev/urandom", "rb")
  local bytes = random and random:read(8) or ""
  if random then random:close() end
  local run_id = ("%08x"):format(os.time()) .. bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)
  return function(number) return ("%s-%d"):format(run_id, number) end
end

-- Lines of the input as items of run, without those that are answered already.
local function requests_of(input, answered, report)
  local seen, own = {}, answer_ids()
  return function(wait)
    while true do
      local line, number = input.next(wait)
      if not line then return line end
      local id, request, message = read_line(line, number)
      if answered[id] and answered[id] > 0 then
        answered[id] = answered[id] - 1
        report.skipped = report.skipped + 1
        seen[id] = true
      elseif seen[id] then
        return {id = id, own = own(number)}, nil, "custom_id: '" .. id .. "' is used twice", "ARG"
      else
        seen[id] = true
        return {id = id, own = own(number)}, request, message, "ARG"
      end
    end
  end
end

-- The line that answers one.
local function output_line(key, answer, message, code, param)
  local response = {status_code = 200, request_id = "batch-" .. key.own, body = answer}
  if not answer then
    response.status_code = openai.status(code, param)
    response.body = openai.error_object(message, response.status_code, param, code)
  end
  return json.encode {
    id = "batch_req_" .. key.own, custom_id = key.id, response = response,
    error = not answer and {code = tostring(code), message = message} or json.null,
  } .. "\n"
end

--- Run a file of OpenAI batch lines, {custom_id, method, url, body} -> {id, custom_id, response, error}, each body
-- answered as `serve` would. input: a path, or fp8llm.lines; output: a path, or fp8llm.sink. What a file `output`
-- holds already is not run again. options: model_name (of answers to requests that name none), ordered, input (its
-- path, where `input` is none), progress(done, to_do or nil, tokens).
-- -> {total, skipped, failed_before, done, failed, tokens, to_stdout} | nil, message, code: a file that
-- cannot be read or written
function batch.run_file(eng, input, output, options)
  local lines, message, code = open_input(input)
  if not lines then return nil, message, code end
  local sink, answered, failed = open_output(output, options.input or input)
  if not sink then return nil, answered, failed end
  local report = {skipped = 0, failed_before = failed, done = 0, failed = 0, tokens = 0, to_stdout = sink:is() or nil}
  local work = {
    next = requests_of(lines, answered, report),
    submit = function(request) return eng:submit(request.body, request.kind) end,
    finish = function(answer, key)
      return answer:response {model_name = options.model_name, id = "batch-" .. key.own}
    end,
  }
  for key, answer, trouble, why, param in run(work, options.ordered) do
    report.failed = report.failed + (answer and 0 or 1)
    report.tokens = report.tokens + (answer and answer.usage.completion_tokens or 0)
    local ok
    ok, message, code = sink:write(output_line(key, answer, trouble, why, param))
    if not ok then return nil, message, code end
    report.done = report.done + 1
    local to_do = lines.count and math.max(report.done, lines.count - report.skipped)
    if options.progress then options.progress(report.done, to_do, report.tokens) end
  end
  report.total = lines.read
  local ok
  ok, message, code = sink:close()
  if ok then ok, message, code = check_end(lines, report.done + report.skipped) end
  if not ok then return nil, message, code end
  return report
end

-- A line of a file of prompts -> request | nil, message; and its custom_id.
local function prompt_request(line)
  if not line:find "^%s*{" then return {prompt = line} end
  local members, message = line_members(line)
  if not members then return nil, message end
  if members.policy and members.policy ~= json.null then
    return nil, "policy: nobody answers it here", members.custom_id
  end
  return line, nil, members.custom_id
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

--- Run a file of prompts, one a line; a line that begins with { is a JSON object with the members of
-- eng:submit and a custom_id. input: a path, or fp8llm.lines. write(object) is given, in order, {line,
-- custom_id, text, finish_reason, prompt_tokens, completion_tokens, choices (with n > 1)} or {line, custom_id,
-- error}. options: defaults (members of a request), progress(done, total or nil, tokens).
-- -> {total, failed, tokens} | nil, message, code: a file that cannot be read
function batch.run_prompts(eng, input, write, options)
  local lines, message, code = open_input(input)
  if not lines then return nil, message, code end
  local report, done = {failed = 0, tokens = 0}, 0
  local work = {
    next = function(wait)
      local line, number = lines.next(wait)
      if not line then return line end
      local request, trouble, id = prompt_request(line)
      return {line = number, id = id}, request, trouble, "ARG"
    end,
    submit = function(request) return eng:submit(request, "own", options.defaults) end,
    finish = whole_result,
  }
  for key, result, trouble, why in run(work, true) do
    local object = result and prompt_answer(result) or {error = {code = why, message = trouble}}
    object.line, object.custom_id = key.line, key.id
    report.tokens = report.tokens + (object.completion_tokens or 0)
    if object.error then report.failed = report.failed + 1 end
    write(object)
    done = done + 1
    if options.progress then options.progress(done, lines.count and math.max(done, lines.count), report.tokens) end
  end
  report.total = lines.read
  local ok
  ok, message, code = check_end(lines, done)
  if not ok then return nil, message, code end
  return report
end

return batch
