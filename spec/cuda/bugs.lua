-- Plants the bugs of bugs.txt in the CUDA backend, one at a time, and runs the tests on the emulated
-- GPU: each must be noticed.  One TAP line a bug, many minutes.
--     luajit spec/cuda/bugs.lua CUDA_HOME ["TITLE"]      after make, make emu-tests and make tests
local home, only = arg[1], arg[2]
local build = "build/bugs"

-- A list of {title, file, test, from, to}.
local function read_bugs(path)
  local bugs, bug = {}, nil
  for line in io.lines(path) do
    local mark, rest = line:sub(1, 1), line:sub(2)
    if mark == "=" and (not bug or bug.file) then
      bug = {title = rest:sub(2), to = ""}
      bugs[#bugs + 1] = bug
    elseif mark == "=" then
      bug.file, bug.test = rest:match "(%S+) (%S+)"
    elseif mark == "-" then
      bug.from = (bug.from and bug.from .. "\n" or "") .. rest
    elseif mark == "+" then
      bug.to = (bug.to ~= "" and bug.to .. "\n" or "") .. rest
    end
  end
  return bugs
end

local function run(command, ...)
  local p = assert(io.popen(command:format(...) .. " 2>&1; echo status=$?"))
  local out = p:read "*a"
  p:close()
  return out:match "status=(%d+)%s*$" == "0", (out:gsub("status=%d+%s*$", ""))
end

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "*a"
  f:close()
  return text
end

local function write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
end

local flags = "-std=c++17 -O3 -lineinfo -no-compress -Xcompiler -fPIC,-fvisibility=hidden "
  .. "-gencode arch=compute_89,code=compute_89 -I" .. build .. " -Isrc"

local function compile(name, out)
  return (run("%s/bin/nvcc %s -c -o %s %s/cuda/%s.cu", home, flags, out, build, name))
end

local function link(objects)
  local util = "build/src/util/err.o build/src/util/mem.o build/src/util/fp8.o build/src/util/dtype.o"
  local libs = ("-L%s/lib64 -lcudart -lcublasLt -lstdc++ -lm"):format(home)
  local host = "$(ls build/cuda/*.o | grep -v cu.o)"
  return (run("gcc -shared -o %s/fp8llm_cuda.so %s %s %s %s", build, objects, host, util, libs))
end

-- The kernels that a test looks at: what is compiled again when a header has changed.
local kernels = {ops = "rows select", linear = "linear_rows linear_tiles", attend = "attend rope_store"}

assert(run("rm -rf %s; mkdir -p %s/cuda; cp cuda/*.h cuda/*.cuh cuda/*.cu %s/cuda", build, build, build))
for test in pairs(kernels) do assert(run("cp build/spec/c/test_backend_%s %s", test, build)) end
local sources = {}
for path in io.popen("ls cuda/*.cu"):lines() do sources[#sources + 1] = path:match "([%w_]+)%.cu$" end
for _, name in ipairs(sources) do assert(compile(name, build .. "/" .. name .. ".o"), name) end

-- What the tests say of a bug; nothing when they notice nothing.
local function plant(bug)
  local path = build .. "/cuda/" .. bug.file
  local text = read(path)
  local first, last = text:find(bug.from, 1, true)
  if not first then return nil, "its text is not in " .. bug.file end
  write(path, text:sub(1, first - 1) .. bug.to .. text:sub(last + 1))
  local objects, ok = {}, true
  for _, name in ipairs(sources) do
    local header = not bug.file:match "%.cu$" and (" " .. kernels[bug.test] .. " "):find(" " .. name .. " ", 1, true)
    local object = build .. "/" .. name .. ".o"
    if bug.file == name .. ".cu" or header then
      object = build .. "/changed-" .. name .. ".o"
      ok = ok and compile(name, object)
    end
    objects[#objects + 1] = object
  end
  ok = ok and link(table.concat(objects, " "))
  write(path, text)
  if not ok then return nil, "it does not compile" end
  local test = ("EMU_QUIET=1 LD_LIBRARY_PATH=build/emu timeout 300 %s/test_backend_%s cuda"):format(build, bug.test)
  local _, said = run("%s 2>&1 | grep -am1 -E '^(not ok|EMU)'", test) -- ends at the first that is noticed
  return said ~= "" and said:gsub("\n.*", ""):sub(1, 150), "nobody noticed"
end

local count, failed = 0, 0
for _, bug in ipairs(read_bugs "spec/cuda/bugs.txt") do
  if not only or only == bug.title then
    local said, why = plant(bug)
    count = count + 1
    if not said then failed = failed + 1 end
    print(("%s %d - %s: %s"):format(said and "ok" or "not ok", count, bug.title, said or why))
    io.stdout:flush()
  end
end
print("1.." .. count)
os.exit(failed <= count * 0.05 and 0 or 1)
