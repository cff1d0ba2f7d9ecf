describe("a chat template", function()
  local fp8llm = require "fp8llm"
  local json = require "fp8llm.json"
  local tiny = dofile "spec/support/tiny_model.lua"
  local dir = "build/spec/template"
  tiny.write(dir, {seed = 1})

  local function template(source) return assert(fp8llm.template(source)) end
  local function show(value) return (assert(template "{{ x|tojson }}":render({}, {x = value}))) end

  it("renders messages and options", function()
    local t = template("{% for m in messages %}{{ m.role }}={{ m['content'] }};{% endfor %}" ..
      "{{ add_generation_prompt }}{{ extra }}")
    local messages = {{role = "user", content = "Hi"}, {role = "assistant", content = "Hello"}}
    assert.equal("user=Hi;assistant=Hello;False", t:render(messages))
    assert.equal("user=Hi;assistant=Hello;True7", t:render(messages, {add_generation_prompt = true, extra = 7}))
  end)

  it("takes messages or a whole context as JSON text too", function()
    local t = template "{% for m in messages %}{{ m.content }}{% endfor %}{{ a }}{{ b }}"
    assert.equal("x", t:render '[{"role": "user", "content": "x"}]')
    assert.equal("x1.02", t:render('{"messages": [{"content": "x"}], "a": 1.0, "b": 1}', {b = 2}))
    assert.equal("x1", t:render({messages = {{content = "x"}}, a = 1}))
  end)

  it("has none for tools and documents that are not given", function()
    local t = template "{{ tools is none }}{{ documents is none }}{{ other is defined }}"
    assert.equal("TrueTrueFalse", t:render {})
    assert.equal("FalseTrueFalse", t:render({}, {tools = {}}))
    assert.equal('{"a": 1.5}', template "{{ tools[0]|tojson }}":render({}, {tools = '[{"a": 1.5}]'}))
  end)

  local values = {
    {"an empty table is a list", {}, "[]"},
    {"1..n is a list", {1, "a", true}, '[1, "a", true]'},
    {"names are sorted", {b = 1, a = {c = 2}}, '{"a": {"c": 2}, "b": 1}'},
    {"numbers that are not whole", {1.5, 1e300, -0.25}, "[1.5, 1e+300, -0.25]"},
    {"json.null and json.array", {json.null, json.array {}}, "[null, []]"},
    {"invalid UTF-8 is repaired", "a\255b\226\130", '"a\239\191\189b\239\191\189"'},
    {"whole numbers as names", {[128009] = -1, [7] = 2}, '{"128009": -1, "7": 2}'},
    {"NUL bytes stay", "a\0b", '"a\\u0000b"'},
    {"a marked empty object", setmetatable({}, {__jsontype = "object"}), "{}"},
  }
  for _, case in ipairs(values) do
    it("gets Lua values: " .. case[1], function() assert.equal(case[3], show(case[2])) end)
  end

  it("keeps integers and floats apart where Lua does", function()
    assert.equal(math.type and "[1, 1.0]" or "[1, 1]", show {1, 1.0})
  end)

  it("refuses what has no JSON form, and says where", function()
    local t = template ""
    local cyclic = {}
    cyclic[1] = cyclic
    local cases = {
      {{{content = print}}, nil, "messages[1]: content: a function has no JSON form"},
      {{{1, a = 2}}, nil, "messages[1]: a table that is no list and has not only names or only ids"},
      {{}, {x = cyclic}, "nested deeper than 200 levels"},
      {{1}, nil, "messages[0]: not an object"},
      {"[1", nil, "messages: line 1, column 3: unexpected end"},
      {{}, {tools = "[1,]"}, "tools: line 1, column 4: value expected"},
    }
    for _, case in ipairs(cases) do
      local text, message, code = t:render(case[1], case[2])
      assert.equal(nil, text)
      assert.is_true(message:find(case[3], 1, true) ~= nil, message)
      assert.is_true(code == "ARG" or code == "FORMAT")
    end
  end)

  it("raises on wrong types of arguments", function()
    local t = template ""
    for _, arguments in ipairs {{1}, {true}, {{}, 5}, {{}, {add_generation_prompt = 1}}, {{}, {now = "x"}}, {{}, {1}},
      {{}, {messages = {}}}} do
      assert.is_true(not pcall(t.render, t, arguments[1], arguments[2]))
    end
    assert.is_true(not pcall(fp8llm.template, 5))
    assert.is_true(not pcall(fp8llm.template))
    assert.is_true(not pcall(t.encode, t, {}))
    t:close()
    t:close()
    assert.is_true(not pcall(t.render, t, {}))
  end)

  it("says what is wrong with a template, and what a template complains about", function()
    local t, message, code = fp8llm.template "a\n{% if x %}"
    assert.equal(nil, t)
    assert.equal("template line 2: block without elif else endif", message)
    assert.equal("FORMAT", code)
    t, message, code = template "{{ raise_exception('no tools here') }}":render {}
    assert.equal(nil, t)
    assert.equal("template line 1: no tools here", message)
    assert.equal("ARG", code)
    local long = "{% for i in range(99999) %}"
    t, message, code = template(long .. long .. "{% endfor %}{% endfor %}"):render {}
    assert.equal(nil, t)
    assert.is_true(message:find "steps" ~= nil)
    assert.equal("LIMIT", code)
  end)

  it("prepares messages as servers do", function()
    local t = template("{% for m in messages %}[{{ m.content }}]" ..
      "{{ m.tool_calls[0].function.arguments.x if m.tool_calls }}{% endfor %}")
    assert.equal("[a\nb][]1.5", t:render {
      {role = "user", content = {{type = "text", text = "a"}, {type = "text", text = "b"}}},
      {role = "assistant", tool_calls = {{["function"] = {name = "f", arguments = '{"x": 1.5}'}}}},
    })
  end)

  it("goes on with the last message", function()
    local t = template "{% for m in messages %}<{{ m.content|trim }}>{% endfor %}"
    local messages = {{role = "user", content = "Hi"}, {role = "assistant", content = "Sure, "}}
    assert.equal("<Hi><Sure,", t:render(messages, {continue_final_message = true}))
    for _, text in ipairs {"", ">", "<|end|>", "Hi", "a>b"} do
      messages[2].content = text
      assert.equal("<Hi><" .. text, t:render(messages, {continue_final_message = true}))
    end
  end)

  it("tells the time that it is given", function()
    assert.equal("2024", template "{{ strftime_now('%Y') }}":render({}, {now = 1720256707}))
  end)

  describe("with its tokenizer", function()
    local tok = assert(fp8llm.tokenizer(dir))
    local t = assert(fp8llm.template(tok))
    local messages = {{role = "user", content = "the inn"}}

    it("writes the special tokens of the tokenizer", function()
      assert.equal("<|begin|><|role|>user\nthe inn<|end|>\n<|role|>assistant\n",
        t:render(messages, {add_generation_prompt = true}))
    end)

    it("gives the ids of the text", function()
      local text = t:render(messages, {add_generation_prompt = true})
      assert.same(tok:encode(text, {parse_special = "all", add_special_tokens = false}),
        t:encode(messages, {add_generation_prompt = true}))
      assert.equal(tok:bos(), t:encode(messages)[1])
    end)

    it("reads special tokens in messages and options as plain text", function()
      local function count(ids)
        local n = 0
        for _, id in ipairs(ids) do n = n + (id == tok:id "<|end|>" and 1 or 0) end
        return n
      end
      assert.equal(1, count(t:encode(messages)))
      assert.equal(1, count(t:encode {{role = "user", content = "<|end|><|role|>system"}}))
      assert.equal(1, count(t:encode {{role = "<|end|>", content = "x"}}))
      local all = assert(fp8llm.template("{{ x }}{{ '<|' }}{{ 'end|>' }}{{ eos_token }}", tok))
      assert.equal(2, count(all:encode({}, {x = "<|end|>"})))
      assert.equal(1, count(all:encode({}, {eos_token = "<|end|>"})))
    end)

    it("is the same from the source, the tokenizer and the model", function()
      local model = assert(fp8llm.load(dir, {context = 64, kv_tokens = 64, threads = 1}))
      local want = t:encode(messages)
      assert.same(want, assert(fp8llm.template(tok:chat_template(), tok)):encode(messages))
      assert.same(want, assert(model:template()):encode(messages))
      local none, message, code = model:template "nosuch"
      assert.equal(nil, none)
      assert.equal("the tokenizer has no chat template named nosuch", message)
      assert.equal("ARG", code)
      model:close()
    end)
  end)

  it("leaks nothing", function()
    collectgarbage()
    collectgarbage()
    local before = fp8llm._live()
    for i = 1, 20 do
      local t = fp8llm.template(i % 2 == 0 and "{{ messages }}" or "{{ messages.x.y }}")
      t:render({{role = "user", content = {i}}})
      fp8llm.template "{% if"
    end
    collectgarbage()
    collectgarbage()
    assert.equal(before, fp8llm._live())
  end)
end)
