describe("fp8llm.progress", function()
  local progress = require "fp8llm.progress"

  local function bar_on(columns)
    local env = {now = 0, said = {}}
    env.clock = function() return env.now end
    env.terminal = function() return columns end
    env.status = function(s) env.said[#env.said + 1] = s or "wiped" end
    return progress(env), env
  end

  it("says nothing in the first second", function()
    local bar, env = bar_on(80)
    env.now = 0.9
    bar("loading", 0.5)
    bar()
    assert.same({"wiped"}, env.said)
  end)

  it("shows part and time left, at most ten times a second, and wipes itself", function()
    local bar, env = bar_on(80)
    env.now = 60
    bar("loading", 0.25)
    env.now = 60.05
    bar("loading", 0.3)
    bar()
    assert.equal(2, #env.said)
    assert.equal("loading [" .. ("="):rep(7) .. (" "):rep(23) .. "]  25% 3:00 left", env.said[1])
    assert.equal("wiped", env.said[2])
  end)

  it("keeps its estimate while the note changes", function()
    local bar, env = bar_on(80)
    bar("lines", 0, "0 tokens/s")
    env.now = 20
    bar("lines", 0.5, "7 tokens/s")
    assert.is_true(env.said[#env.said]:find("50%% 7 tokens/s, 0:20 left") ~= nil)
    env.now = 30
    bar("lines", 0, "8 tokens/s")
    assert.is_true(env.said[#env.said]:find("0%% 8 tokens/s$") ~= nil)
  end)

  it("estimates each phase from its own beginning", function()
    local bar, env = bar_on(80)
    env.now = 10
    bar("one", 0.9)
    env.now = 100
    bar("two", 0)
    env.now = 102
    bar("two", 0.5)
    assert.is_true(env.said[#env.said]:find("two .* 50%% 0:02 left") ~= nil)
  end)

  it("says nothing where nobody looks", function()
    local bar, env = bar_on(nil)
    env.now = 60
    bar("loading", 0.5)
    bar()
    assert.same({"wiped"}, env.said)
  end)

  it("is never wider than the terminal, and shows no control characters of a file", function()
    for columns = 1, 90 do
      local bar, env = bar_on(columns)
      env.now = 60
      bar("load\27[2Jing \195\164", 0.5, "1234 tokens/s")
      local _, characters = env.said[1]:gsub("[^\128-\191]", "")
      assert.is_true(characters < columns, columns .. ": " .. env.said[1])
      assert.is_nil(env.said[1]:find "\27")
    end
  end)

  it("shows what is done where nobody knows how much there is", function()
    local bar, env = bar_on(80)
    env.now = 60
    bar("requests", nil, "7, 12 tokens/s")
    assert.equal("requests 7, 12 tokens/s", env.said[1])
  end)
end)
