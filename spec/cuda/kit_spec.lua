-- The runner of the GPU kit (spec/cuda/kit/go.sh) with parts of its own: what hangs, crashes or floods costs its limit
-- and is named, and the tables come.
local dir = "build/spec/gpu-kit-" .. (os.getenv "EMU_ARCH" or "x")
local parts = [[
# name limit command
good 9 printf 'ok 1 - a\nok 2 - b\n1..2\n'; printf 'kernel\tnorm\t1\t2.5\t0.1\t40\t0.5\n'
hangs 1 echo 'ok 1 - begins'; sleep 60
crashes 9 echo 'ok 1 - begins'; kill -SEGV $$
floods 9 head -c 100000000 /dev/zero | tr '\0' x; echo; echo 'not ok 1 - last'
bad 9 echo 'not ok 1 - wrong'; exit 1
after 9 echo 'ok 1 - still runs'
]]

local function write(path, text)
  local f = assert(io.open(path, "wb"))
  f:write(text)
  f:close()
end

local function read(path)
  local f = io.open(path, "rb")
  if not f then return nil end
  local text = f:read "*a"
  f:close()
  return text
end

local function go(arguments)
  local p = io.popen(("KIT_PARTS=own sh %s/go.sh --out %s/report %s 2>&1; echo status=$?"):format(dir, dir, arguments))
  local said = p:read "*a"
  p:close()
  return said
end

describe("the runner of the GPU kit", function()
  os.execute("rm -rf " .. dir .. " && mkdir -p " .. dir .. " && cp spec/cuda/kit/go.sh spec/cuda/kit/env.sh " .. dir)
  write(dir .. "/arch", "90\n")
  write(dir .. "/commit", "none\n")
  write(dir .. "/own", parts)
  local t0 = os.time()
  local said = go ""
  local took = os.time() - t0
  local report, log = read(dir .. "/report/report.md"), read(dir .. "/report/log.txt")

  it("keeps the limits and runs every part", function()
    assert.is_true(took < 30, took .. " s")
    assert.matches("status=1", said)
    for _, row in ipairs {
      "| good | 2 | 0 | %d+ |  |", "| hangs | 1 | 1 | %d+ | did not finish in 1 s |",
      "| crashes | 1 | 1 | %d+ | ended with status %d+ |", "| floods | 0 | 1 | %d+ |  |", "| bad | 0 | 1 | %d+ |  |",
      "| after | 1 | 0 | %d+ |  |", "| norm | 1 | 2.5 | 0.1 | 40 | 50 %% |",
    } do
      assert.matches(row, report)
      assert.matches(row, said)
    end
  end)

  it("has parts of its own that take nine minutes at most", function()
    local sum, n = 0, 0
    for line in io.lines "spec/cuda/kit/parts" do
      local limit = line:match "^[%w-]+ (%d+) %S"
      if limit then sum, n = sum + limit, n + 1 end
    end
    assert.is_true(n >= 10 and sum <= 530, sum .. " s")
  end)

  it("keeps the report small, and the failures of a flood in it", function()
    assert.is_true(#log < 1000000, #log .. " bytes")
    assert.matches("not ok 1 %- last", log)
    assert.matches("%[%d+ bytes are left out", log)
    assert.equal("kernel\tnorm\t1\t2.5\t0.1\t40\t0.5\n", read(dir .. "/report/kernels.tsv"))
    local files = io.popen("ls " .. dir .. "/report")
    assert.equal("kernels.tsv log.txt report.md", (files:read "*a"):gsub("%s+$", ""):gsub("%s+", " "))
    files:close()
  end)

  it("runs the parts that are named", function()
    said = go "after good"
    assert.matches("status=0", said)
    assert.matches("| after | 1 | 0 |", said)
    assert.not_matches("| bad |", said)
  end)
end)
