-- Memory of a device: planned before anything large is allocated, filled with KV pages as far as
-- gpu_memory_utilization says, and told in bytes when it is not enough; devices by number.  Run by
-- `make test-cuda` on the emulated GPU, which has as much memory as EMU_MEMORY_MB says.
local emulated = dofile "spec/support/emulated.lua"
local inspect = require("fp8llm.inspect").inspect
local tiny = dofile "spec/support/tiny_model.lua"

local base = "build/spec/cuda-memory-" .. (os.getenv "EMU_ARCH" or "gpu")
local small, large = base .. "-small", base .. "-large"
tiny.write(small, { quant = "fp8-static", context = 4096 })
tiny.write(large, { hidden = 1024, ffn = 4096, heads = 8, kv_heads = 8, head_dim = 128 })

local MB = 2 ^ 20

-- Members of info that load(options) ends with.
local function info_of(megabytes, options)
  local said = emulated.run("EMU_LEAKS=1 EMU_MEMORY_MB=" .. megabytes, small, ([[
    local model = assert(load(%s))
    for k, v in pairs(model:info()) do say("info", k, v) end
    local seq = assert(model:sequence())
    assert(seq:feed { 1, 2, 3 })
    seq:close()
    model:close()
    collectgarbage()
  ]]):format(options))
  assert.is_nil(said:match "leak", said)
  local info = {}
  for k, v in said:gmatch "info\t(%S+)\t([^\n]*)" do info[k] = tonumber(v) or v end
  return info
end

local function refused(settings, dir, options)
  local said = emulated.run("EMU_LEAKS=1 " .. settings, dir, ("say(load(%s))"):format(options))
  assert.is_nil(said:match "leak", said)
  return assert(said:match "nil\t([^\n]*)\tNOMEM", said)
end

describe("a device's memory", function()
  for _, part in ipairs { false, 0.5, 1 } do
    it("is filled with KV pages to " .. (part or 0.9) .. " of it", function()
      local info = info_of(192, ("{ context = 4096, kv_tokens = false, gpu_memory_utilization = %s }"):format(part))
      local open = 64 * MB -- of cuBLASLt and of attention, before the model
      local free, page = 192 * MB - open, info.kv_bytes / info.kv_tokens * 32
      assert.is_true(math.abs(info.memory_budget - math.min(free, (part or 0.9) * 192 * MB)) < MB)
      local taken = info.kv_bytes + info.weight_bytes + info.scratch_bytes
      assert.is_true(taken <= info.memory_budget and taken > info.memory_budget - 4 * MB - page,
        ("%d of %d"):format(taken, info.memory_budget))
    end)
  end

  it("holds as many tokens as were asked for", function()
    local info = info_of(1024, "{ kv_tokens = 96 }")
    assert.equal(96, info.kv_tokens)
  end)

  it("is not filled with more than 256 contexts", function()
    local info = info_of(1024, "{ kv_tokens = false }")
    assert.equal(256 * 64, info.kv_tokens)
  end)

  it("is planned as fp8llm inspect plans it", function()
    local info = info_of(1024, "{ kv_tokens = 64 }")
    local plan = assert(inspect(small, { context = 64, device = "cuda" })).plan
    assert.equal(plan.kv_bytes, info.kv_bytes)
    for _, two in ipairs {
      { info.memory_planned, plan.total_bytes }, { info.scratch_bytes, plan.activation_bytes },
      { info.weight_bytes, plan.weight_bytes },
    } do
      assert.is_true(math.abs(two[1] - two[2]) <= 0.03 * two[2], ("%d and %d"):format(two[1], two[2]))
    end
  end)

  it("is asked for all that loading takes before the first weight is there", function()
    local plan = assert(inspect(large, { context = 64, device = "cuda" })).plan
    local message = refused("EMU_MEMORY_MB=100 EMU_STATS=" .. base .. ".stats", large, "{ kv_tokens = false }")
    local need, weights = message:match "needs (%d+) bytes %(weights (%d+),"
    local budget, free, total = message:match "has (%d+) for it: (%d+) of (%d+) are free"
    assert.equal(100 * MB, tonumber(total))
    assert.is_true(tonumber(need) > tonumber(budget) and tonumber(budget) <= tonumber(free))
    assert.is_true(math.abs(weights - plan.weight_bytes) <= 0.01 * plan.weight_bytes)
    assert.is_true(math.abs(need - plan.total_bytes) <= 0.03 * plan.total_bytes)
    assert.matches("sm_%d+", message)
  end)

  it("takes weights through the ring, and gives the pages of the file back behind them", function()
    local said = emulated.run("EMU_MEMORY_MB=1024", large, [[
      local model = assert(load())
      local resident, inside = 0, false
      for line in io.lines "/proc/self/smaps" do
        if line:match "^%x+%-%x+ " then inside = line:match "%.safetensors$" ~= nil end
        local kib = inside and line:match "^Rss:%s+(%d+)"
        if kib then resident = resident + 1024 * kib end
      end
      say(resident, model:info().weight_bytes)
    ]])
    local resident, weights = said:match "(%d+)\t(%d+)"
    assert.is_true(tonumber(weights) > 60 * MB and tonumber(resident) < 0.05 * weights, said)
  end)

  it("says how much is missing for the KV cache", function()
    local message = refused("EMU_MEMORY_MB=200", small, "{ kv_tokens = 2 ^ 20 }")
    assert.matches("KV cache of 1048576 tokens %d+%)", message)
  end)

  it("says how much is missing for the backend itself", function()
    assert.matches("cuda:0: 33554432 bytes needed, %d+ free", refused("EMU_MEMORY_MB=40", small, "{}"))
  end)

  it("refuses parts that are none", function()
    local said = emulated.run("", small, [[
      for _, part in ipairs { 0, -1, 1.5, 0 / 0 } do say(pcall(load, { gpu_memory_utilization = part })) end
      say(fp8llm.load(dir, { device = "cpu", gpu_memory_utilization = 0.1 }) ~= nil)
    ]])
    assert.equal(4, select(2, said:gsub("true\tnil\tgpu_memory_utilization: need [^\n]*\tARG", "")))
    assert.matches("true", said)
  end)
end)

describe("devices by number", function()
  it("are listed, loaded and named", function()
    local said = emulated.run("EMU_DEVICES=3", small, [[
      for _, d in ipairs(fp8llm.devices()) do say("device", d.device, d.name, d.mem_total) end
      for _, name in ipairs { "cuda", "cuda:0", "cuda:2", "cpu", "auto" } do
        local model = assert(load { device = name })
        assert(assert(model:sequence()):feed { 1, 2 })
        say("on", name, model:info().device)
        model:close()
      end
      say("not", load { device = "cuda:3" })
    ]])
    for _, name in ipairs { "cpu", "cuda:0", "cuda:1", "cuda:2" } do
      assert.matches("device\t" .. name .. "\t", said)
    end
    assert.is_nil(said:match "device\tcuda:3")
    assert.matches("on\tcuda:2\temulated, sm_%d+", said)
    assert.matches("on\tauto\tCPU", said)
    assert.matches("not\tnil\tcuda:3: this machine has 3 devices\tDEVICE", said)
  end)

  it("are given to commands", function()
    local function command(words)
      local p = io.popen("EMU_DEVICES=2 build/fp8llm " .. words .. " 2>&1; echo status=$?")
      local said = p:read "*a"
      p:close()
      return said
    end
    local requests, out = base .. ".jsonl", base .. ".out"
    os.remove(out)
    local f = assert(io.open(requests, "w"))
    f:write('{"custom_id":"a","method":"POST","url":"/v1/completions",',
      '"body":{"prompt":"one","max_tokens":2,"temperature":0}}\n')
    f:close()
    local option = " --device cuda:1 --gpu-memory-utilization 0.2 --context 64 "
    assert.matches("status=0", command("generate " .. small .. option .. "--prompt one --max-tokens 2 --temperature 0"))
    assert.matches("status=0", command("chat " .. small .. option .. "--message one --max-tokens 2 --temperature 0"))
    assert.matches("status=0", command("batch " .. requests .. " " .. out .. " --model " .. small .. option))
    local commands = {
      "generate %s --prompt one", "chat %s --message one", "eval perplexity %s --text " .. requests,
      "batch " .. requests .. " " .. out .. "x --model %s", "bench decode %s",
      "serve %s --listen unix:" .. base .. ".sock",
    }
    for _, words in ipairs(commands) do
      local said = command(words:format(small) .. " --device cuda:9")
      assert.matches("cuda:9: this machine has 2 devices", said, words)
      assert.matches("status=1", said, words)
      assert.matches("status=2", command(words:format(small) .. " --gpu-memory-utilization 2"), words)
    end
  end)
end)
