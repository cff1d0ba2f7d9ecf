-- broken.lua - checkpoints with one thing wrong: how to break a tiny one, and the check of what is said.
--
--   local broken = dofile "spec/support/broken.lua"(it, assert)      -- busted's
--
-- A case is {what, how, code, words...}: loading must give nil, a message of one line with all words, and
-- the code. `how` has options of tiny_model.lua, change(model) before it is written, after(dir) behind.
local fp8llm = require "fp8llm"
local files = dofile "spec/support/files.lua"
local tiny = dofile "spec/support/tiny_model.lua"

return function(it, assert)

local broken = {}

function broken.config(changes)
  return {
    change = function(m)
      for k, v in pairs(changes) do m.config[k] = v end
    end,
  }
end

function broken.quantization(changes) return broken.config {quantization_config = changes} end

-- Change the tensor `name` of a static FP8 checkpoint.
function broken.tensor(name, change)
  return {options = {quant = "fp8-static"}, change = function(m) change(assert(m:tensor(name), name), m) end}
end

function broken.set(name, dtype, shape, data)
  return {options = {quant = "fp8-static"}, change = function(m) m:put(name, dtype, shape, data) end}
end

function broken.without(name, options)
  return {options = options or {quant = "fp8-static"}, change = function(m) m:remove(name) end}
end

function broken.file(name, text, options)
  return {options = options, after = function(dir) files.write(dir .. "/" .. name, text) end}
end

function broken.rewrite(name, edit, options)
  return {
    options = options,
    after = function(dir)
      files.write(dir .. "/" .. name, edit(files.read(dir .. "/" .. name)))
    end,
  }
end

function broken.gone(name, options)
  return {options = options, after = function(dir) assert(os.remove(dir .. "/" .. name)) end}
end

-- Edit the JSON header in place, its length unchanged.
function broken.header(find, replace)
  assert(#find == #replace)
  return broken.rewrite("model.safetensors", function(text)
    local at = assert(text:find(find, 1, true), find)
    return text:sub(1, at - 1) .. replace .. text:sub(at + #find)
  end)
end

local function make(dir, how)
  os.execute("rm -rf '" .. dir .. "'")
  local m = tiny.build(how.options)
  if how.change then how.change(m) end
  m:write(dir)
  if how.after then how.after(dir) end
end

--- One test for each case, in a folder of its own below `folder`; options: of fp8llm.load.
function broken.refused(folder, cases, options)
  for i, case in ipairs(cases) do
    it("is refused: " .. case[1], function()
      local dir = folder .. "/" .. i
      make(dir, case[2])
      local model, message, code = fp8llm.load(dir, options or {context = 64})
      assert.equal(nil, model)
      assert.equal("string", type(message))
      for k = 4, #case do
        if not message:find(case[k], 1, true) then assert.equal("a message with " .. case[k], message) end
      end
      assert.equal(case[3], code)
      assert.equal(nil, message:find "\n")
      os.execute("rm -rf '" .. dir .. "'")
    end)
  end
end

--- A case is {what, how, words...}: loading works, with exactly one warning, which has all words; no words: none.
function broken.warned(folder, cases)
  local load, dirs = dofile "spec/support/run.lua" "spec/support/load_all.lua", {}
  for i, case in ipairs(cases) do
    dirs[i] = folder .. "/" .. i
    make(dirs[i], case[2])
  end
  local out, err = load((unpack or table.unpack)(dirs)) -- luacheck: ignore 143
  for i, case in ipairs(cases) do
    it("loads: " .. case[1], function()
      local name, warnings = dirs[i]:gsub("%p", "%%%0"), {}
      assert.equal(dirs[i] .. " ok", out:match(name .. " [^\n]*"))
      for line in err:gmatch "[^\n]+" do
        if line:find(name .. "[^%d]") then warnings[#warnings + 1] = line end
      end
      assert.same(#case > 2 and {warnings[1]} or {}, warnings)
      for k = 3, #case do
        if not (warnings[1] or ""):find(case[k], 1, true) then
          assert.equal("a warning with " .. case[k], warnings[1])
        end
      end
      os.execute("rm -rf '" .. dirs[i] .. "'")
    end)
  end
end

return broken

end
