-- What users see when a GPU is missing, too old, full or failing: an error with the code DEVICE or
-- NOMEM, never a hang, never a crash.  Every case is a process of its own, since what the emulated
-- GPU is told to do (EMU_*) holds for a process.  Run by `make test-cuda`.
local emulated = dofile "spec/support/emulated.lua"
local tiny = dofile "spec/support/tiny_model.lua"

local dir = "build/spec/cuda-failure-" .. (os.getenv "EMU_ARCH" or "gpu") .. "/"
os.execute("mkdir -p " .. dir)
tiny.write(dir .. "model", { quant = "fp8-static" })

local function run(settings, script) return emulated.run(settings, dir .. "model", script) end

local function count(text, what) return select(2, text:gsub(what, "")) end

describe("a kernel that fails", function()
  local engine = [[
    local model = assert(load())
    local eng = assert(model:engine { max_running = 2 })
    local requests = {}
    for i = 1, 6 do
      requests[i] = assert(eng:submit {ids = {1, i, 3}, max_tokens = 20, ignore_eos = true, temperature = 0})
    end
    for i = 1, 6 do
      local last = requests[i]:result().choices[1]
      say("result", last.fin, last.message, last.code)
    end
    say("submit", eng:submit {ids = {1, 2}})
    say("feed", model:sequence():feed {1, 2})
    say("score", model:score({1, 2, 3}, {{4}}))
    say("engine", model:engine {})
    eng:close()
    model:close()
    say("closed", load())
  ]]
  for _, n in ipairs { 1, 30, 200 } do
    it("ends every request with DEVICE, the " .. n .. "th launch", function()
      local said = run("EMU_FAIL_LAUNCH=" .. n, engine)
      assert.equal(6, count(said, "result\terror\t[^\n]*illegal memory access[^\n]*\tDEVICE"), said)
      assert.equal(1, count(said, "submit\tnil\t[^\n]*illegal memory access[^\n]*\tDEVICE"), said)
      assert.equal(1, count(said, "feed\tnil\t[^\n]*\tDEVICE"), said)
      assert.equal(1, count(said, "engine\tnil\t[^\n]*\tDEVICE"), said)
      assert.equal(1, count(said, "closed\tnil\t[^\n]*\tDEVICE"), said)
      assert.matches("only a new process", said)
    end)
  end

  it("ends a sequence's feed with DEVICE, again and again", function()
    local said = run("EMU_FAIL_LAUNCH=40", [[
      local model = assert(load())
      local seq, n = model:sequence(), 0
      while n < 9 do
        local ok, message, code = seq:feed {1}
        if not ok then n = n + 1 say(message, code, seq:length()) end
      end
      seq:close()
      model:close()
    ]])
    assert.equal(9, count(said, "illegal memory access[^\n]*\tDEVICE"), said)
  end)

  it("is what the methods of tensors return", function()
    for _, n in ipairs { 1, 4, 7 } do
      local said = run("EMU_FAIL_LAUNCH=" .. n, [[
        local t = fp8llm.tensor("f32", {2, 3}, {1, 2, 3, 4, 5, 6})
        local d = assert(t:to "cuda")
        local e = assert(t:to "cuda")
        local methods = {
          set = function() return d:set(1, 1, 5) end, add = function() return d:add(e) end,
          mask = function() return d:mask_fill({1}, 0) end, softmax = function() return d:softmax() end,
          to = function() return d:to "bf16" end, quantize = function() return d:quantize() end,
          linear = function() return d:linear(e) end, get = function() return d:get(1, 1) end,
          table = function() return d:totable() end, up = function() return t:to "cuda" end,
        }
        for _, f in pairs(methods) do f() end -- one of them is the first to fail
        d:totable() -- a launch does not wait for its kernel: only who reads is sure to be told
        for name, f in pairs(methods) do say(name, pcall(f)) end
      ]])
      assert.equal(10, count(said, "%a+\ttrue\tnil\t[^\n]*\tDEVICE"), n .. ": " .. said)
    end
  end)

  it("ends a request that waits for its policy", function()
    local said = run("EMU_FAIL_LAUNCH=300", [[
      local model = assert(load())
      local eng = assert(model:engine {})
      local parked = assert(eng:submit {ids = {1, 2, 3}, max_tokens = 9, policy = true})
      local step
      for s in parked:steps() do step = s break end
      local other = assert(eng:submit {ids = {5, 6}, max_tokens = 60, ignore_eos = true})
      for _, request in ipairs { parked, other } do
        local last = request:result().choices[1]
        say("ended", last.fin, last.message, last.code)
      end
      say("answer", pcall(step.accept, step, 5))
      eng:close()
      model:close()
    ]])
    assert.equal(2, count(said, "ended\terror\t[^\n]*illegal[^\n]*\tDEVICE"), said)
    assert.matches("answer\ttrue\tnil\t[^\n]*ended[^\n]*\tCANCELLED", said)
  end)

  it("makes its server unhealthy", function()
    local said = run("EMU_FAIL_LAUNCH=100", [[
      local model = assert(load())
      local eng = assert(model:engine {})
      local socket = dir .. ".sock"
      assert(eng:listen(socket, {names = {"tiny"}}))
      local ffi = require "ffi"
      ffi.cdef [=[ struct address { uint16_t family; char path[108]; };
        int socket(int, int, int); int connect(int, const struct address *, unsigned);
        long read(int, void *, size_t); long write(int, const char *, size_t); ]=]
      local fd, address, answer = ffi.C.socket(1, 1, 0), ffi.new("struct address", 1, socket), ffi.new "char[4096]"
      assert(ffi.C.connect(fd, address, ffi.sizeof(address)) == 0)
      local function ask(line)
        ffi.C.write(fd, line .. "\n", #line + 1)
        say(ffi.string(answer, ffi.C.read(fd, answer, 4096)))
      end
      ask '{"op":"health"}'
      eng:submit({ids = {1, 2}, max_tokens = 60, ignore_eos = true}):result()
      ask '{"op":"health"}'
      eng:close()
    ]])
    assert.matches('"status":"ok".*"DEVICE"', said)
  end)
end)

describe("a device that cannot be used", function()
  local load_only = [[
    say("load", load())
    say("quantize", fp8llm.quantize {src = dir, dst = dir .. "-out", scheme = "fp8-dynamic", device = "cuda"})
  ]]
  local function refused(settings, what)
    local said = run(settings, load_only)
    for _, call in ipairs { "load", "quantize" } do
      local message = said:match(call .. "\tnil\t([^\n]*)\tDEVICE")
      assert.is_truthy(message, said)
      assert.matches(what, message)
    end
  end

  it("is refused with DEVICE: a driver that is too old", function()
    refused("EMU_DRIVER=35", "cuda:0: the driver is made for CUDA 12.0, this build for CUDA %d+")
  end)
  it("is refused with DEVICE: no device", function() refused("EMU_DRIVER=100", "no CUDA%-capable device") end)
  it("is refused with DEVICE: an older architecture", function()
    refused("EMU_ARCH=80", "cuda:0: emulated: compute capability 8%.0, this build runs on others")
  end)
  if not io.open "/dev/nvidiactl" then
    it("is refused with DEVICE: the real libraries where there is no driver", function()
      refused("LD_LIBRARY_PATH=", "cuda:0: no NVIDIA driver")
    end)
  end

  it("is refused with DEVICE in a child after a fork, and the parent goes on", function()
    local said = run("", [[
      local ffi = require "ffi"
      ffi.cdef "int fork(void); int waitpid(int, int *, int); void _exit(int);"
      local model = assert(load())
      local seq = assert(model:sequence())
      assert(seq:feed {1, 2})
      local child = ffi.C.fork()
      if child == 0 then
        say("feed", seq:feed {3})
        say("load", load())
        model:close()
        seq:close()
        seq = nil
        collectgarbage()
        say "child ends"
        ffi.C._exit(0)
      end
      ffi.C.waitpid(child, nil, 0)
      assert(seq:feed {3})
      say("parent", seq:length())
    ]])
    assert.matches("feed\tnil\tcuda:0: [^\n]*after a fork\tDEVICE", said)
    assert.matches("load\tnil\tcuda:0: [^\n]*fork[^\n]*\tDEVICE", said)
    assert.matches("child ends", said)
    assert.matches("parent\t3", said)
  end)
end)
