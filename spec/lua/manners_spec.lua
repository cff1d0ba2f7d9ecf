-- The one rule of lua/fp8llm/meta.lua for errors, held against every function that it describes; what tostring says;
-- and what a closed model leaves behind.
local files = dofile "spec/support/files.lua"
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/manners"
tiny.write(dir, {layers = 1, hidden = 32, ffn = 32, heads = 2, kv_heads = 1, quant = "fp8-dynamic", context = 64})

-- {class = {method = number of its parameters}} of all lines "function class:method(a, b) end"
local described = {}
for class, method, list in files.read "lua/fp8llm/meta.lua":gmatch "\nfunction ([%w_]+)[.:]([%w_]+)%(([^)]*)%)" do
  described[class] = described[class] or {}
  described[class][method] = select(2, list:gsub("[%w_]+", ""))
end

local odd = coroutine.create(function() end) -- which nothing takes

local function raises(what, fn, ...)
  local fine, message = pcall(fn, ...)
  assert.is_true(not fine, what .. ": does not raise")
  assert.is_true(tostring(message):find(what, 1, true) ~= nil, what .. ": " .. tostring(message))
  return message
end

-- An object of each class, from a model of its own.
local function objects()
  local o = {model = assert(fp8llm.load(dir, {context = 64, kv_tokens = 256, threads = 1}))}
  o.tokenizer = assert(o.model:tokenizer())
  o.template, o.stream, o.sequence = assert(o.model:template()), o.tokenizer:stream {}, assert(o.model:sequence())
  o.sampler, o.tensor = assert(fp8llm.sampler {}), assert(fp8llm.tensor("f32", {2, 3}))
  o.safetensors = assert(fp8llm.safetensors(dir .. "/model.safetensors"))
  o.engine = assert(o.model:engine {})
  o.request = assert(o.engine:submit {ids = {1, 2}, max_tokens = 2, policy = true, ignore_eos = true})
  o.step = o.request:steps()(o.request)
  o.answer = assert(o.engine:submit({prompt = "x", max_tokens = 1}, "completion"))
  o.conversation = o.model:conversation {}
  o.sink, o.lines = assert(fp8llm.sink "build/spec/manners.out"), assert(fp8llm.lines(dir .. "/config.json"))
  return o
end

describe("every function", function()
  local o
  setup(function() o = objects() end)
  teardown(function()
    o.model:close()
    o.sink:close()
  end)

  it("has an object here", function()
    for class in pairs(described) do assert.is_true(class == "fp8llm" or o[class] ~= nil, class) end
  end)

  it("raises on an argument of the wrong type, by its name", function()
    for name, n in pairs(described.fp8llm) do
      if n > 0 then raises("fp8llm." .. name .. ": ", fp8llm[name], odd) end
    end
    for class, methods in pairs(described) do
      for name, n in pairs(methods) do
        local who = class .. ":" .. name
        if class ~= "fp8llm" and n > 0 then raises(who .. ": ", o[class][name], o[class], odd) end
      end
    end
  end)

  it("raises on options that nobody knows, by its name", function()
    local function unknown(who, fn, ...)
      raises(who .. ": ", fn, ...)
      assert.is_true(raises("bogus", fn, ...):find("unknown", 1, true) ~= nil)
    end
    local bogus = {bogus = 1}
    for name, arguments in pairs {
      load = {dir, bogus}, sampler = {bogus}, quantize = {{src = dir, dst = "x", bogus = 1}}, read_bandwidth = {bogus},
      flop_peak = {bogus}, handover_cost = {bogus},
    } do unknown("fp8llm." .. name, fp8llm[name], (table.unpack or unpack)(arguments)) end -- luacheck: ignore
    unknown("model:engine", o.model.engine, o.model, bogus)
    unknown("engine:submit", o.engine.submit, o.engine, bogus)
    unknown("engine:listen", o.engine.listen, o.engine, "x", bogus)
    unknown("tokenizer:encode", o.tokenizer.encode, o.tokenizer, "x", bogus)
    unknown("tokenizer:decode", o.tokenizer.decode, o.tokenizer, {1}, bogus)
    unknown("tokenizer:stream", o.tokenizer.stream, o.tokenizer, bogus)
    unknown("tensor:quantize", o.tensor.quantize, o.tensor, bogus)
    unknown("tensor:linear", o.tensor.linear, o.tensor, o.tensor, bogus)
    for _, name in ipairs {"chat", "generate", "stream", "submit", "conversation"} do
      unknown("model:" .. name, o.model[name], o.model, bogus)
    end
    unknown("answer:read", o.answer.read, o.answer, bogus)
    unknown("answer:response", o.answer.response, o.answer, bogus)
  end)

  it("raises on another kind of object, by its name", function()
    for class, methods in pairs(described) do
      for name in pairs(methods) do
        local who = class .. ":" .. name
        if class ~= "fp8llm" then
          raises(who .. ": bad self", o[class][name], odd)
          raises(who .. ": bad self", o[class][name], class == "model" and o.tensor or o.model)
        end
      end
    end
  end)

  it("says what the world brings as nil, message and code", function()
    local codes = {}
    for code in ("ARG NOMEM IO FORMAT UNSUPPORTED DEVICE LIMIT CANCELLED BUSY"):gmatch "%u+" do codes[code] = true end
    local function refused(what, value, message, code)
      assert.is_nil(value, what)
      assert.equal("string", type(message), what)
      assert.is_true(codes[code], what)
    end
    local none = "build/spec/not-there"
    files.write("build/spec/manners.json", "{")
    refused("load", fp8llm.load(none))
    refused("tokenizer", fp8llm.tokenizer(none))
    refused("describe", fp8llm.describe(none))
    refused("safetensors", fp8llm.safetensors(none))
    refused("lines", fp8llm.lines(none))
    refused("sink", fp8llm.sink(none .. "/x"))
    refused("quantize", fp8llm.quantize {src = none, dst = none, scheme = "fp8-dynamic"})
    refused("sampler", fp8llm.sampler {temperature = -1})
    refused("template", fp8llm.template "{{")
    refused("tensor", fp8llm.tensor("f32", {2 ^ 40, 2 ^ 20}))
    refused("model:tensor", o.model:tensor "no.such")
    refused("model:template", o.model:template "no-such")
    refused("safetensors:tensor", o.safetensors:tensor "no.such")
    refused("sequence:feed", o.sequence:feed {100000})
    refused("sequence:rewind", o.sequence:rewind(5))
    refused("tokenizer:decode", o.tokenizer:decode {100000})
    refused("engine:submit", o.engine:submit {ids = {1}, temperature = -1})
    refused("engine:submit", o.engine:submit({prompt = "x", temperature = -1}, "completion"))
    refused("model:chat", o.model:chat {"x", temperature = -1})
    refused("load", fp8llm.load(dir, {device = "cuda:99"}))
    local src = {src = dir, dst = none, scheme = "fp8-dynamic"}
    for what, wrong in pairs {
      load = {{threads = -1}, {tp = 2}, {kv = "x"}, {sparse_prefill = "x"}, {load_format = "x"}, {config_json = "{}"},
        {gpu_memory_utilization = 0}, {context = -1}, {kv_tokens = -1}, {max_step_rows = -1}, {isa = "x"},
        {device = "x"}},
      quantize = {{threads = -1}, {max_shard_bytes = -1}, {gpu_memory_utilization = 2}, {scheme = "x"}, {format = "x"},
        {observer = "x"}, {sparse = "x"}, {kv = "x"}},
      read_bandwidth = {{threads = -1}, {bytes = -1}, {device = "x"}},
      flop_peak = {{threads = -1}, {dtype = "x"}, {size = 5}, {device = "x"}},
      handover_cost = {{rounds = 0}, {work = -1}}, engine = {{max_running = -1}, {prompt_lookup_min = 9}},
      listen = {{drain_ms = -1}, {max_connections = -1}, {temperature_default = -1}}, encode = {{parse_special = "x"}},
      sampler = {{top_p = 2}, {top_k = -5}, {order = {"x"}}, {logit_bias = {[-1] = 1}}}, render = {{now = 1 / 0}},
    } do
      for _, options in ipairs(wrong) do
        local name = next(options)
        local call = {
          load = function() return fp8llm.load(dir, options) end,
          engine = function() return o.model:engine(options) end,
          listen = function() return o.engine:listen("build/spec/manners.sock", options) end,
          encode = function() return o.tokenizer:encode("x", options) end,
          render = function() return o.template:render({{role = "user", content = "x"}}, options) end,
          quantize = function()
            for k, v in pairs(src) do if options[k] == nil then options[k] = v end end
            return fp8llm.quantize(options)
          end,
        }
        refused(what .. " " .. name, (call[what] or function() return fp8llm[what](options) end)())
      end
    end
    refused("submit", o.engine:submit({ids = {1}}, "x"))
    refused("supervise", fp8llm.supervise({{"true", stop = "KILL"}}, 1))
    refused("supervise", fp8llm.supervise({{"true"}}, -1))
    refused("check_port", fp8llm.check_port("127.0.0.1", 0))
  end)
end)

describe("an object", function()
  it("says what it is, open and closed, and raises by its function's name when it is closed", function()
    local o = objects()
    for class, object in pairs(o) do
      assert.equal("fp8llm." .. class, tostring(object):match "^fp8llm%.%w+", tostring(object))
      assert.is_true(#tostring(object) > 0 and not tostring(object):find "closed")
    end
    assert.equal("fp8llm.model: manners, ", tostring(o.model):sub(1, 23))
    o.step:fail()
    o.model:close()
    for _, class in ipairs {"model", "sequence", "engine"} do -- which its model closes
      assert.equal("fp8llm." .. class .. ": closed", tostring(o[class]))
    end
    for class, object in pairs(o) do
      local methods = described[class]
      if methods.close then
        object:close()
        object:close()
        if class ~= "answer" then assert.equal("fp8llm." .. class .. ": closed", tostring(object)) end
        for name in pairs(methods) do
          local needs = {add_at = {1, 1}, mask_fill = {{1}, 0}}
          local who = class .. ":" .. name
          if name ~= "close" and class ~= "step" then
            local fine, message = pcall(object[name], object, (table.unpack or unpack)(needs[name] or {})) -- luacheck: ignore
            assert.is_true(not fine and message:find(who .. ": ", 1, true) ~= nil, who .. ": " .. tostring(message))
          end
        end
      end
    end
    raises("step:accept: ", o.step.accept, o.step, 1)
  end)

  it("is named by the hub's name where it lies in its cache", function()
    local snapshot = "build/spec/hub/models--some--model-x/snapshots/0123abc"
    os.execute("mkdir -p " .. snapshot .. " && cp " .. dir .. "/* " .. snapshot)
    local model = assert(fp8llm.load(snapshot, {threads = 1}))
    assert.equal("fp8llm.model: some/model-x, ", tostring(model):sub(1, 28))
    model:close()
  end)
end)

describe("closing a model", function()
  local big = "build/spec/manners-big"

  local function resident()
    local pages = tonumber(files.read "/proc/self/statm":match "^%d+ (%d+)")
    return pages * 4096
  end

  it("gives its memory back at once, whatever else lives", function()
    os.execute("luajit spec/support/tiny_model.lua " .. big ..
      " layers=4 hidden=256 ffn=1024 heads=8 kv_heads=8 context=512")
    local mb = 2 ^ 20
    local function load() return assert(fp8llm.load(big, {threads = 1, kv_tokens = 16384})) end
    load():close() -- what the allocator and threads keep
    local kept = {}
    for i = 1, 3 do
      local model = load()
      assert.is_true(model:info().kv_bytes > 30 * mb)
      local sequence, engine = assert(model:sequence()), assert(model:engine {})
      local row = assert(sequence:feed {1, 2, 3})
      local first = row:get(1)
      local request = assert(engine:submit {ids = {1, 2, 3}, max_tokens = 400, ignore_eos = true, logprobs = 2})
      local held = assert(engine:submit {ids = {1, 2}, policy = true, policy_logits = true, max_tokens = 3})
      local step = held:steps()(held)
      local answer = assert(model:submit {prompt = "x", max_tokens = 400, ignore_eos = true})
      local fork = assert(sequence:fork())
      local weight = model:tokenizer()
      request:wait()
      local during = resident()
      local logits = step.logits
      kept[i] = {model, sequence, engine, row, request, held, step, answer, fork, weight, logits}
      model:close()
      local back = (during - resident()) / mb -- 10 MB of weights, and what was used of the rest
      assert.is_true(back > 10, ("round %d: only %.1f MB came back"):format(i, back))
      assert.equal(first, row:get(1))
      local fin = request:result().choices[1].fin
      assert.is_true(fin == "cancelled" or fin == "length", fin)
      raises("sequence:feed: the sequence is closed", sequence.feed, sequence, 1)
      raises("sequence:length: the sequence is closed", fork.length, fork)
      raises("engine:submit: the engine is closed", engine.submit, engine, {ids = {1}})
    end
    assert.equal(3, #kept)
  end)

  it("leaves nothing behind in 100 rounds", function()
    local function round(close)
      local model = assert(fp8llm.load(dir, {threads = 2, context = 64}))
      local sequence = assert(model:sequence())
      local row = assert(sequence:feed {1, 2, 3})
      assert(model:chat {"hi", max_tokens = 1})
      local request = assert(assert(model:engine {}):submit {ids = {1}, max_tokens = 2})
      if close then model:close() end
      return row, request
    end
    for _ = 1, 10 do round(true) end
    collectgarbage()
    collectgarbage()
    local live, before = fp8llm._live(), resident()
    for i = 1, 100 do
      round(i % 2 == 0)
      if i % 10 == 0 then collectgarbage() end
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(fp8llm._live() <= live, ("%d blocks, %d before"):format(fp8llm._live(), live))
    assert.is_true(resident() - before < 8 * 2 ^ 20, ("%.1f MB more"):format((resident() - before) / 2 ^ 20))
  end)
end)
