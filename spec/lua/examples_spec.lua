-- Every example runs to its end: on a tiny random model on each Lua, on the real one on LuaJIT.
local run = dofile "spec/support/run.lua"
local files = dofile "spec/support/files.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/examples"
tiny.write(dir, {seed = 5, context = 1024, vocab = 266})
local real, bf16 = "build/models/SmolLM2-135M-Instruct-FP8", "build/models/SmolLM2-135M-Instruct"

local function succeed(name, ...)
  local out, err, status = run("examples/" .. name)(...)
  if status ~= 0 then error(name .. ": status " .. tostring(status) .. ": " .. err, 2) end
  return out
end

describe("examples on a tiny model", function()
  it("hello.lua", function() assert.equal("\n", succeed("hello.lua", dir, "hi"):sub(-1)) end)
  it("by_hand.lua says what hello.lua does", function()
    assert.equal(succeed("hello.lua", dir, "hi"), succeed("by_hand.lua", dir, "hi"))
  end)
  it("event_loop.lua answers two questions", function()
    local out = succeed("event_loop.lua", dir, "hi", "ho")
    assert.is_true(("\n" .. out):find("\n1\t", 1, true) ~= nil and ("\n" .. out):find("\n2\t", 1, true) ~= nil)
  end)
  it("neovim.lua, in Neovim or in what it uses of it", function()
    local out, err, status = run("spec/support/neovim.lua")("examples/" .. "neovim.lua", dir)
    assert.equal(0, status, err)
    local want = succeed("hello.lua", dir, "What is the capital of France?", "100")
    assert.equal(want, out)
    local nvim = io.popen "command -v nvim":read "*l"
    if not nvim or not jit then return end -- luacheck: ignore
    local pipe = io.popen(([[LUA_CPATH="$PWD/build/?.so" LUA_PATH="$PWD/lua/?.lua" nvim --headless -u NONE \
      --cmd "let g:model = '%s'" -c "luafile examples/neovim.lua" -c qa! 2>&1]]):format(dir))
    assert.equal(want, pipe:read "*a")
    pipe:close()
  end)
  it("chat.lua", function()
    local out = succeed("chat.lua", {input = "hi\n"}, dir)
    assert.equal("> ", out:sub(1, 2))
  end)
  it("score.lua", function() assert.is_true(succeed("score.lua", dir):find "\nbest: %w+\n$" ~= nil) end)
  it("custom_sampler.lua", function()
    local once = succeed("custom_sampler.lua", dir, "hi", "3")
    assert.equal(once, succeed("custom_sampler.lua", dir, "hi", "3"))
  end)
  it("tensors.lua", function()
    local out = succeed("tensors.lua", dir)
    local error_percent = tonumber(out:match "error of the weight: ([%d.]+) %%")
    assert.is_true(error_percent > 1 and error_percent < 4) -- E4M3 has three mantissa bits
  end)

  it("best_of.lua", function()
    local out = succeed("best_of.lua", dir, "hi", "3")
    local best, said = -math.huge, out:match "\nbest: (.*)\n$"
    local text_of_best
    for mean, text in out:gmatch " *(%-%d+%.%d%d%d)  ([^\n]*)" do
      if tonumber(mean) > best then best, text_of_best = tonumber(mean), text end
    end
    assert.equal(text_of_best, (said:gsub("%s+", " ")))
  end)
  it("beam_search.lua finds nothing less likely than greedy decoding", function()
    local function score(width)
      return tonumber(succeed("beam_search.lua", dir, "hi", tostring(width), "6"):match "^ *(%-[%d.]+)")
    end
    assert.is_true(score(4) >= score(1))
  end)
  it("guidance.lua with scale 1 is plain greedy decoding", function()
    local fp8llm = require "fp8llm"
    local model = assert(fp8llm.load(dir))
    local engine = assert(model:engine {})
    local greedy = engine:submit {messages = {{role = "user", content = "hi"}}, temperature = 0, max_tokens = 40}
    local plain = succeed("guidance.lua", dir, "hi", "1")
    assert.equal(greedy:result().choices[1].d .. "\n", plain)
    engine:close()
    assert.is_true(plain ~= succeed("guidance.lua", dir, "hi", "3"))
  end)
  it("contrastive.lua", function() assert.is_true(#succeed("contrastive.lua", dir, dir, "hi") > 1) end)

  it("alpaca_eval.lua writes what AlpacaEval reads", function()
    local fp8llm, json = require "fp8llm", require "fp8llm.json"
    local input, output = "build/spec/alpaca.json", "build/spec/alpaca-out.json"
    local said = {"Name a colour.", "Say \"hi\".", "Why?"}
    local items = json.array {}
    for i, text in ipairs(said) do items[i] = {instruction = text, dataset = "test", output = "of another model"} end
    files.write(input, json.encode(items))
    succeed("alpaca_eval.lua", dir, input, output, "tiny", "12")
    local answers = assert(json.decode(files.read(output)))
    assert.equal(3, #answers)
    local model = assert(fp8llm.load(dir))
    local engine = assert(model:engine {})
    for i, answer in ipairs(answers) do
      local alone = engine:submit {messages = {{role = "user", content = said[i]}}, temperature = 0, max_tokens = 12}
      assert.same({instruction = said[i], output = alone:result().choices[1].d, generator = "tiny", dataset = "test"},
        answer)
    end
    engine:close()
  end)

  it("client.lua says so when no server answers (spec/nginx has one that does)", function()
    local _, err, status = run("examples/" .. "client.lua")("http://127.0.0.1:1")
    assert.is_true(status ~= 0 and err:find("connection refused", 1, true) ~= nil)
  end)

  it("are all named here", function()
    local me = files.read "spec/lua/examples_spec.lua"
    for path in io.popen "ls examples/*.lua":lines() do
      assert.is_true(me:find('"' .. path:match "[^/]+$" .. '"', 1, true) ~= nil)
    end
  end)
end)

if jit then -- luacheck: ignore
  describe("examples on the real model", function()
    it("hello.lua knows the capital of France", function()
      assert.is_true(succeed("hello.lua", real):find("Paris", 1, true) ~= nil)
    end)
    it("chat.lua answers two questions", function()
      local out = succeed("chat.lua", {input = "What is the capital of France?\nAnd of Italy?\n"}, real)
      local first, second = out:match "^> (.-)\n> (.-)\n> \n$"
      assert.is_true(first:find("Paris", 1, true) ~= nil)
      assert.is_true(#second > 0)
    end)
    it("score.lua knows the opposite of hot", function()
      assert.is_true(succeed("score.lua", real):find("best: cold", 1, true) ~= nil)
    end)
    it("custom_sampler.lua tells a story", function() assert.is_true(#succeed("custom_sampler.lua", real) > 100) end)
    it("tensors.lua", function()
      assert.is_true(succeed("tensors.lua", bf16):find("error of the product", 1, true) ~= nil)
    end)
  end)
end
