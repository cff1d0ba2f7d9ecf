-- Text in, text out: model:chat and its siblings on a tiny model, against what the engine says to the same request.
local files = dofile "spec/support/files.lua"
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/text"
tiny.write(dir, {seed = 5, context = 1024, vocab = 266})
local model = assert(fp8llm.load(dir, {threads = 1, kv_tokens = 4096}))
local engine = assert(model:engine {})
local hi = {{role = "user", content = "hi"}}

local function merge(a, b)
  local out = {}
  for k, v in pairs(a) do out[k] = v end
  for k, v in pairs(b) do out[k] = v end
  return out
end

local function said(request, kind) return assert(assert(engine:submit(request, kind)):result()).choices[1] end

local function raises(what, fn, ...)
  local fine, message = pcall(fn, ...)
  assert.is_true(not fine, what)
  assert.is_true(message:find(what, 1, true) ~= nil, message)
end

describe("model:chat", function()
  it("gives one text, of a text as of its message", function()
    local greedy = {temperature = 0, max_tokens = 12}
    local want = said(merge(greedy, {messages = hi}), "chat").d
    assert.is_true(#want > 0)
    assert.equal(want, model:chat(merge(greedy, {text = "hi"})))
    assert.equal(want, model:chat(merge(greedy, {"hi"})))
    assert.equal(want, model:chat(merge(greedy, {messages = hi})))
    assert.equal(1, select("#", model:chat {"hi", max_tokens = 1}))
    local system = {{role = "system", content = "Be brief."}, hi[1]}
    local brief = said(merge(greedy, {messages = system}), "chat").d
    assert.equal(brief, model:chat(merge(greedy, {"hi", system = "Be brief."})))
    assert.equal("string", type(model:chat "hi"))
  end)

  it("does with every field what a request over HTTP has of it", function()
    local whole = said({messages = hi, temperature = 0, max_tokens = 40, ignore_eos = true}, "chat").d
    local from = math.floor(#whole / 2)
    while from > 1 and whole:byte(from) >= 0x80 do from = from - 1 end
    for _, fields in ipairs {
      {stop = {whole:sub(from, from + 1)}}, {stop = whole:sub(from, from)}, {max_completion_tokens = 3},
      {temperature = 1.5, seed = 7, top_k = 5, min_p = 0.01}, {logit_bias = {["70"] = 100}},
      {bad_words = {whole:sub(1, 2)}},
      {repetition_penalty = 2, frequency_penalty = 1, presence_penalty = 0.5}, {min_tokens = 20, stop = {"a", "e"}},
      {include_stop_str_in_output = true, stop = {whole:sub(from, from + 1)}}, {truncate_prompt_tokens = 5},
      {tools = {{type = "function", ["function"] = {name = "f", parameters = {type = "object"}}}}},
      {chat_template_kwargs = {x = 1}}, {allowed_token_ids = {70, 71, 72}},
    } do
      local request = merge({messages = hi, temperature = 0, top_p = 0.9, max_tokens = 40, ignore_eos = true}, fields)
      assert.equal(said(request, "chat").d, model:chat(request), next(fields))
    end
    local stopped = model:chat {messages = hi, temperature = 0, max_tokens = 40, ignore_eos = true,
      stop = whole:sub(from, from + 1)}
    assert.is_true(#stopped < #whole and whole:sub(1, #stopped) == stopped)
  end)

  it("hands out pieces as they come, and ends when on_piece says false", function()
    local pieces, last = {}, nil
    local text = model:chat {"hi", max_tokens = 20, seed = 1, ignore_eos = true, on_piece = function(piece, event)
      pieces[#pieces + 1], last = piece, event
    end}
    assert.equal(text, table.concat(pieces))
    assert.equal("length", last.fin)
    assert.equal(20, last.usage.completion_tokens)
    local n = 0
    local endless = {"hi", max_tokens = 900, ignore_eos = true, seed = 1}
    local function once()
      n = n + 1
      return false
    end
    assert.equal("string", type(model:chat(merge(endless, {on_piece = once}))))
    assert.equal(1, n)
    assert.equal("cancelled", assert(model:submit(endless)):read({on_piece = once}).finish_reason)
    assert.equal(2, n)
    raises("mine", model.chat, model, {"hi", on_piece = function() error "mine" end})
  end)

  it("raises what the program says wrong, by its name", function()
    for method, field in pairs {chat = "text", generate = "prompt", submit = "text", conversation = "system"} do
      local who = "model:" .. method .. ": "
      local fn = model[method]
      raises(who .. "unknown field 'temprature'", fn, model, {[field] = "x", temprature = 1})
      raises(who .. "field 'temperature': number expected, got string", fn, model, {[field] = "x", temperature = "1"})
      local wrong = {[field] = 5}
      raises(who .. "field '" .. field .. "': string", fn, model, wrong)
      raises(who .. "bad argument #1", fn, model, 5)
      if method ~= "conversation" then
        raises(who .. "field 'on_piece': function expected", fn, model, {[field] = "x", on_piece = 5})
      end
    end
    raises("model:chat: field 'text' or 'messages' expected", model.chat, model, {})
    raises("model:chat: field 'text' and 'messages'", model.chat, model, {"x", messages = hi})
    raises("model:generate: field 'prompt' expected", model.generate, model, {})
    raises("model:generate: unknown field 'system'", model.generate, model, {"x", system = "y"})
    raises("text_spec.lua:", function() model:chat {"x", temprature = 1} end) -- where it was called
    raises("model:stream: unknown field 'x'", model.stream, model, {"x", x = 1})
    raises("model:chat: bad self", model.chat, engine, "x")
  end)

  it("gives nil, message and code of what else goes wrong", function()
    local function refused(code, fn, fields, what)
      local text, message, got = fn(model, fields)
      assert.same({nil, code}, {text, got}, message)
      assert.is_true(message:find(what, 1, true) ~= nil, message)
    end
    for _, fn in ipairs {model.submit, model.chat} do
      refused("ARG", fn, {"x", temperature = -1}, "temperature")
      refused("ARG", fn, {"x", response_format = {type = "nothing"}}, "response_format")
      refused("LIMIT", fn, {("x"):rep(5000)}, "context")
    end
    refused("ARG", model.chat, {"x", n = 2}, "model:submit")
    refused("ARG", model.generate, {prompt = ""}, "prompt")
  end)

  it("says so when there is no chat template, or no tokenizer", function()
    tiny.write("build/spec/text-bare", {tokenizer = false})
    local bare = assert(fp8llm.load "build/spec/text-bare")
    local text, message, code = bare:chat "x"
    assert.is_nil(text)
    assert.is_true(message ~= nil and code ~= nil)
    bare:close()
  end)
end)

describe("model:generate", function()
  it("continues a prompt as /v1/completions does, text or ids", function()
    local greedy = {temperature = 0, max_tokens = 9}
    local want = said(merge(greedy, {prompt = "abc"}), "completion").d
    assert.equal(want, model:generate(merge(greedy, {prompt = "abc"})))
    assert.equal(want, model:generate(merge(greedy, {"abc"})))
    assert.equal(want, model:generate(merge(greedy, {prompt = model:tokenizer():encode "abc"})))
    assert.equal("abc" .. want, model:generate(merge(greedy, {"abc", echo = true})))
    assert.equal("string", type(model:generate "abc"))
  end)
end)

describe("model:stream", function()
  it("is an iterator over pieces, of chats and of prompts", function()
    local fields = {temperature = 0, max_tokens = 9, ignore_eos = true}
    local texts = {}
    for piece in model:stream(merge(fields, {"hi"})) do texts[#texts + 1] = piece end
    assert.equal(model:chat(merge(fields, {"hi"})), table.concat(texts))
    texts = {}
    for piece, event in model:stream(merge(fields, {prompt = "abc"})) do
      texts[#texts + 1] = piece
      assert.equal(0, event.i)
    end
    assert.equal(model:generate(merge(fields, {"abc"})), table.concat(texts))
  end)

  it("raises in the loop what goes wrong", function()
    raises("model:stream: temperature", function()
      for _ in model:stream {"x", temperature = 500} do error "reached" end
    end)
  end)
end)

describe("an answer", function()
  it("has a file descriptor that is readable while there is something to read", function()
    local socket = require "socket"
    local function readable(fd, seconds)
      local source = {getfd = function() return fd end}
      return socket.select({source}, nil, seconds)[1] == source
    end
    for _, answer in ipairs {
      assert(model:submit {"hi", max_tokens = 30, ignore_eos = true}),
      assert(engine:submit {prompt = "hi", max_tokens = 30, ignore_eos = true}),
      assert(engine:submit({prompt = {"a", "b", "c"}, max_tokens = 30, ignore_eos = true}, "completion")),
    } do
      local fd, tokens, waits = answer:fd(), 0, 0
      assert.equal(fd, answer:fd())
      while true do
        assert.is_true(readable(fd, 20))
        local event = answer:poll()
        if event == nil then break end
        if event == false then waits = waits + 1 else tokens = tokens + #event.t end
      end
      assert.is_true(tokens == 30 or tokens == 90)
      assert.is_true(readable(fd, 0)) -- the end stays to be seen
      answer:close()
    end
  end)

  it("lets others run while it waits", function()
    local function task(name)
      return coroutine.create(function()
        return model:chat {name, max_tokens = 10, ignore_eos = true, temperature = 0, wait = function(answer)
          coroutine.yield(answer)
        end}
      end)
    end
    local tasks, texts = {a = task "a", b = task "b"}, {}
    while next(tasks) do
      for name, co in pairs(tasks) do
        local fine, value = coroutine.resume(co)
        assert.is_true(fine, value)
        if coroutine.status(co) == "dead" then texts[name], tasks[name] = value, nil end
      end
    end
    for _, name in ipairs {"a", "b"} do
      assert.equal(model:chat {name, max_tokens = 10, ignore_eos = true, temperature = 0}, texts[name])
    end
  end)
end)

describe("a conversation", function()
  local fields = {system = "Be brief.", temperature = 0, max_tokens = 8}

  it("says everything again that was said, and computes only what is new", function()
    local chat = model:conversation(fields)
    local first = assert(chat:say(("one "):rep(30)))
    local second = assert(chat:say "two")
    assert.is_true(chat.last.cached_tokens > 0)
    local messages = {
      {role = "system", content = "Be brief."}, {role = "user", content = ("one "):rep(30)},
      {role = "assistant", content = first}, {role = "user", content = "two"},
    }
    assert.equal(model:chat {messages = messages, temperature = 0, max_tokens = 8}, second)
    assert.equal(4, #chat:messages())
    local pieces = {}
    local third = chat:say {"three", max_tokens = 3, on_piece = function(piece) pieces[#pieces + 1] = piece end}
    assert.equal(third, table.concat(pieces))
    assert.equal(3, chat.last.completion_tokens)
  end)

  it("takes back, answers again, begins anew", function()
    local chat = model:conversation(fields)
    local first = assert(chat:say "one")
    assert(chat:say "two")
    assert.equal("two", chat:undo())
    assert.same({{role = "user", content = "one"}, {role = "assistant", content = first}}, chat:messages())
    assert.equal(first, chat:again())
    assert.equal(2, #chat:messages())
    assert.equal("one", chat:undo())
    assert.is_nil(chat:undo())
    local _, _, code = chat:again()
    assert.equal("ARG", code)
    chat:say "x"
    chat:reset()
    assert.same({}, chat:messages())
    assert.equal(first, chat:say "one")
  end)

  it("stays as it was when something fails", function()
    local chat = model:conversation(fields)
    assert(chat:say "one")
    local before = chat:messages()
    local text, message, code = chat:say(("x"):rep(3000))
    assert.same({nil, "LIMIT"}, {text, code})
    assert.is_true(message ~= nil)
    raises("conversation:say: unknown field 'temprature'", chat.say, chat, {"x", temprature = 1})
    raises("mine", chat.say, chat, {"x", on_piece = function() error "mine" end})
    raises("mine", chat.again, chat, {on_piece = function() error "mine" end})
    assert.same(before, chat:messages())
    raises("conversation:say: bad argument #1", chat.say, chat, 5)
    raises("conversation:say: field 'text'", chat.say, chat, {})
    raises("conversation:save: bad argument #1", chat.save, chat)
  end)

  it("is kept in a file", function()
    local chat, path = model:conversation(fields), "build/spec/text-chat.json"
    chat:say "one\n\"two\" ü"
    assert.equal(true, chat:save(path))
    local other = model:conversation {temperature = 0, max_tokens = 8}
    assert.equal(other, other:load(path))
    assert.same(chat:messages(), other:messages())
    assert.equal(chat:say "more", other:say "more") -- the system's words, too
    for _, text in ipairs {
      "", "{}", "[1]", '{"messages":[{"role":5}]}', '{"messages":[1]}', '{"messages":[],"system":1}',
    } do
      files.write(path, text)
      local none, message, code = other:load(path)
      assert.same({nil, "FORMAT"}, {none, code}, text)
      assert.is_true(message:find(path, 1, true) ~= nil)
    end
    assert.equal(4, #other:messages())
    assert.equal("IO", (select(3, other:load "build/spec/not-there")))
    assert.equal("IO", (select(3, other:save "build/spec/not-there/x.json")))
  end)
end)

describe("what nobody says", function()
  -- What the engine is asked for.
  local function asked(name, fields, given)
    local config = {vocab = 266, context = 1024, seed = 5}
    local m = tiny.build(config)
    m.generation_config = fields
    m:write("build/spec/text-" .. name)
    local loaded = assert(fp8llm.load("build/spec/text-" .. name, {threads = 1}))
    local request = require "fp8llm.defaults".fill(given, loaded:generation_config(), 77)
    loaded:close()
    return request
  end

  it("is temperature 0.7, top_p 0.95 and an end for answers to people", function()
    assert.same({temperature = 0.7, top_p = 0.95, max_tokens = 77}, asked("silent", {do_sample = true}, {}))
    local all = {temperature = 0, top_p = 1, max_tokens = 5}
    assert.same(merge(all, {}), asked("silent", {do_sample = true}, all))
    assert.same({top_p = 0.95, max_tokens = 77}, asked("warm", {temperature = 0.3}, {})) -- its own is added later
    assert.same({temperature = 0.7, max_tokens = 9}, asked("long", {top_p = 0.5, max_new_tokens = 9}, {}))
    assert.same({top_p = 0.95, max_tokens = 77}, asked("greedy", {do_sample = false}, {}))
    local json = require "fp8llm.json"
    assert.equal(0.7, asked("silent", {do_sample = true}, {temperature = json.null}).temperature)
  end)

  it("ends a chat that never ends", function()
    local long = model:chat {"hi", ignore_eos = true, temperature = 0}
    assert.is_true(#long > 0)
    local tokens = 0
    for _, event in model:stream {"hi", ignore_eos = true, max_tokens = 40} do tokens = tokens + #event.t end
    assert.equal(40, tokens)
  end)
end)

describe("a model that is closed", function()
  it("ends its engine, and says so", function()
    local mine = assert(fp8llm.load(dir, {threads = 1}))
    assert(mine:chat {"hi", max_tokens = 2})
    local answer = assert(mine:submit {"hi", ignore_eos = true})
    local chat = mine:conversation {}
    mine:close()
    raises("model:chat: the model is closed", mine.chat, mine, "hi")
    raises("the model is closed", chat.say, chat, "hi")
    local last
    for event in function() return answer:poll() or nil end do last = event end
    assert.equal("cancelled", last.fin)
  end)

  it("is not needed by name while an answer comes", function()
    local answer = assert(assert(fp8llm.load(dir, {threads = 1})):submit {"hi", max_tokens = 30, ignore_eos = true})
    collectgarbage()
    collectgarbage()
    assert.equal(30, #assert(answer:read()).ids)
  end)
end)
