describe("fp8llm.progress", function()
  local progress = require "fp8llm.progress"

  local function bar_on(terminal)
    local env = {now = 0, said = {}}
    env.clock = function() return env.now end
    env.is_terminal = function() return terminal end
    env.write = function(s) env.said[#env.said + 1] = s end
    return progress(env), env
  end

  it("says nothing in the first second", function()
    local bar, env = bar_on(true)
    env.now = 0.9
    bar("loading", 0.5)
    bar()
    assert.same({}, env.said)
  end)

  it("shows part and time left, at most ten times a second, and wipes itself", function()
    local bar, env = bar_on(true)
    env.now = 60
    bar("loading", 0.25)
    env.now = 60.05
    bar("loading", 0.3)
    bar()
    assert.equal(2, #env.said)
    assert.equal("\rloading [" .. ("="):rep(7) .. (" "):rep(23) .. "]  25% 3:00 left\27[K", env.said[1])
    assert.equal("\r\27[K", env.said[2])
  end)

  it("keeps its estimate while the note changes", function()
    local bar, env = bar_on(true)
    bar("lines", 0, "0 tokens/s")
    env.now = 20
    bar("lines", 0.5, "7 tokens/s")
    assert.is_true(env.said[#env.said]:find("50%% 7 tokens/s, 0:20 left") ~= nil)
    env.now = 30
    bar("lines", 0, "8 tokens/s")
    assert.is_true(env.said[#env.said]:find("0%% 8 tokens/s\27") ~= nil)
  end)

  it("estimates each phase from its own beginning", function()
    local bar, env = bar_on(true)
    env.now = 10
    bar("one", 0.9)
    env.now = 100
    bar("two", 0)
    env.now = 102
    bar("two", 0.5)
    assert.is_true(env.said[#env.said]:find("two .* 50%% 0:02 left") ~= nil)
  end)

  it("says nothing where nobody looks", function()
    local bar, env = bar_on(false)
    env.now = 60
    bar("loading", 0.5)
    bar()
    assert.same({}, env.said)
  end)
end)
