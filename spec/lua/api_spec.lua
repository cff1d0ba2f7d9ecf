-- lua/fp8llm/meta.lua is the API reference: it must name what the module has, and nothing else.
describe("the API reference", function()
  local fp8llm = require "fp8llm"
  local text = dofile("spec/support/files.lua").read "lua/fp8llm/meta.lua"

  -- {class = {method = true}} of all lines "function class:method(...) end"
  local described = {}
  for class, method in text:gmatch "\nfunction ([%w_]+)[.:]([%w_]+)%(" do
    described[class] = described[class] or {}
    described[class][method] = true
  end

  local function names_of_functions(t)
    local names = {}
    for name, value in pairs(t) do
      if type(value) == "function" then names[name] = true end
    end
    return names
  end

  it("names every function of the module", function()
    assert.same(names_of_functions(fp8llm), described.fp8llm)
  end)

  local registry = debug.getregistry()
  local lua_classes = {} -- over C classes that nobody else sees
  for i = 1, 9 do
    local name, value = debug.getupvalue(require "fp8llm.conversation", i)
    if name == "conversation" then lua_classes.conversation = value end
  end
  for i = 1, 9 do
    local name, value = debug.getupvalue(require "fp8llm.answer", i)
    if name == "answer" then lua_classes.answer = value end
  end
  local hidden = {exchange = true}
  for key, metatable in pairs(registry) do
    local class = type(key) == "string" and key:match "^fp8llm%.([%w_]+)$"
    if class and metatable.__index and not hidden[class] then
      local methods = metatable.__index
      if type(methods) == "function" then -- a C closure over the table of methods
        methods = select(2, debug.getupvalue(methods, 2))
      end
      if class == "model" then local _ = methods.chat end -- those of fp8llm.text come when asked for
      if methods then -- Lua 5.1 does not show what a C function closes over
        it("names every method of " .. class, function()
          assert.same(names_of_functions(methods), described[class] or {})
        end)
      end
    end
  end

  for class, metatable in pairs(lua_classes) do
    it("names every method of " .. class, function()
      local methods = {}
      for name in pairs(metatable) do methods[name] = not name:find "^_" and name ~= "new" or nil end
      assert.same(methods, described[class])
    end)
  end

  it("describes no class that is not there", function()
    for class in pairs(described) do
      assert.is_true(class == "fp8llm" or (registry["fp8llm." .. class] or lua_classes[class]) ~= nil, class)
    end
  end)

  -- The lines of the reference are made from the table of fields, so they say what it says.
  it("lists the fields of a request as request_fields() has them", function()
    local types = {["string or list of strings"] = "string|string[]", ["list of ids"] = "fp8llm.ids",
      ["object of id to bias"] = "table<integer, number>", ["list of stages"] = "string[]"}
    for _, f in ipairs(fp8llm.request_fields()) do
      local line = ("---@field %s? %s %s"):format(f.name, types[f.type] or f.type, f.doc)
      if f.default ~= nil then line = ("%s (default %s)"):format(line, tostring(f.default):gsub("%.0$", "")) end
      assert.is_true(text:find("\n" .. line .. "\n", 1, true) ~= nil, line)
    end
  end)

  -- {name = its type as written} of all fields of a class, and of the class that it is made of
  local function fields_of(class)
    local base, block = text:match("\n%-%-%-@class %(exact%) fp8llm%." .. class .. "(:?[^\n]*)\n(.-)\n\n")
    local fields = {}
    if not block then block = text:match("\n%-%-%-@class fp8llm%." .. class .. "\n(.-)\n\n") end
    for name, kind in ("\n" .. block):gmatch "\n%-%-%-@field ([%w_]+)%?? (%S+)" do fields[name] = kind end
    if base and base:find "sampling_fields" then
      for name, kind in pairs(fields_of "sampling_fields") do fields[name] = kind end
    end
    return fields
  end

  it("gives chats, prompts and requests the fields that their reader knows, and their types", function()
    local own = {on_piece = true, wait = true, text = true, system = true} -- of model:chat itself
    local value = {string = "x", integer = 1, number = 0.5, boolean = true, table = {}, ids = {1}, list = {"x"}}
    for class, kind in pairs {chat_options = "chat", generate_options = "completion", request_options = "own"} do
      local fields = fields_of(class)
      assert.is_true(fields.temperature == "number" and fields.stop ~= nil and fields.seed == "integer", class)
      for name, words in pairs(fields) do
        local first = words:match "^fp8llm%.(ids)" or words:match "^table%[%]" and "table"
          or words:match "%[%]$" and "list" or words:match "^fp8llm%.sampling_fields" and "table"
          or words:match '^"' and "string" or words:match "^%a+"
        if not (own[name] and kind ~= "own") then
          assert.is_nil(fp8llm._misuse({[name] = value[first]}, kind), class .. "." .. name)
          assert.is_true(fp8llm._misuse({[name] = print}, kind) ~= nil or words == "table", class .. "." .. name)
        end
      end
      for _, f in ipairs(fp8llm.request_fields()) do
        local of_policy = f.name:find "^policy" and kind ~= "own"
        local other = f.name == "echo" and kind == "chat"
        assert.is_true(fields[f.name] ~= nil or of_policy or other, class .. "." .. f.name)
      end
    end
  end)

  it("is Lua", function()
    assert.is_true(loadstring and loadstring(text) ~= nil or load(text) ~= nil) -- luacheck: ignore
  end)
end)
