-- Plants the bugs of bugs.txt in the CUDA backend, one at a time, and runs the tests on the emulated
-- GPU: each must be noticed.  One TAP line a bug, many minutes.  A bug names the test that must notice
-- it: one of spec/c/test_backend_*, or X of spec/cuda/X_spec.lua.
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

local function compile_host(name, out)
  local host_flags = ("-std=c11 -D_GNU_SOURCE -O2 -fPIC -fvisibility=hidden -I%s -Isrc"):format(build)
  return (run("gcc %s -isystem %s/include -c -o %s %s/cuda/%s.c", host_flags, home, out, build, name))
end

local function link(objects)
  local util = "build/src/util/err.o build/src/util/mem.o build/src/util/fp8.o build/src/util/dtype.o"
  local libs = ("-L%s/lib64 -lcudart -lcublasLt -lstdc++ -lm"):format(home)
  return (run("gcc -shared -o %s/fp8llm_cuda.so %s %s %s", build, objects, util, libs))
end

-- The kernels that a test looks at: what is compiled again when a header has changed.
local kernels = {ops = "rows select", linear = "linear_rows linear_tiles", attend = "attend rope_store", memory = ""}

local function names_of(pattern)
  local names = {}
  for path in io.popen("ls cuda/" .. pattern):lines() do names[#names + 1] = path:match "([%w_]+)%.%w+$" end
  return names
end

assert(run("rm -rf %s; mkdir -p %s/cuda; cp cuda/*.h cuda/*.cuh cuda/*.cu cuda/*.c %s/cuda", build, build, build))
assert(run("cp build/fp8llm.so %s", build))
for test in pairs(kernels) do assert(run("cp build/spec/c/test_backend_%s %s", test, build)) end
local sources, hosts = names_of "*.cu", names_of "*.c"
for _, name in ipairs(sources) do assert(compile(name, build .. "/" .. name .. ".cu.o"), name) end
for _, name in ipairs(hosts) do assert(compile_host(name, build .. "/" .. name .. ".c.o"), name) end

-- The objects of the backend where `file` has changed, compiled again if they see it; nil when they do not compile.
local function rebuild(file, test)
  local objects = {}
  local function add(name, kind, changed, how)
    local object = ("%s/%s.%s.o"):format(build, name, kind)
    if changed then
      object = ("%s/changed-%s.%s.o"):format(build, name, kind)
      if not how(name, object) then return false end
    end
    objects[#objects + 1] = object
    return true
  end
  for _, name in ipairs(sources) do
    local header = file:match "%.cuh$" and (" " .. kernels[test] .. " "):find(" " .. name .. " ", 1, true)
    if not add(name, "cu", header or file == name .. ".cu", compile) then return nil end
  end
  for _, name in ipairs(hosts) do
    if not add(name, "c", file == name .. ".c", compile_host) then return nil end
  end
  return table.concat(objects, " ")
end

-- How the test says that it noticed; a crash is one, a test that never ends too.
local function run_test(test)
  local command = ("%s/test_backend_%s cuda"):format(build, test)
  if not kernels[test] then
    command = ("luajit spec/support/busted.lua --build=%s -o TAP spec/cuda/%s_spec.lua"):format(build, test)
  end
  local _, said = run("EMU_ARCH=89 EMU_QUIET=1 LD_LIBRARY_PATH=build/emu timeout 300 %s > %s/log 2>&1; echo ended $?; "
    .. "grep -am1 -E '^(not ok|EMU)' %s/log", command, build, build)
  local status, line = said:match "^ended (%d+)\n([^\n]*)"
  if line ~= "" then return line:sub(1, 150) end
  return status ~= "0" and "ended with status " .. status or nil
end

-- What the tests say of a bug; nothing when they notice nothing.
local function plant(bug)
  local path = build .. "/cuda/" .. bug.file
  local text = read(path)
  local first, last = text:find(bug.from, 1, true)
  if not first then return nil, "its text is not in " .. bug.file end
  write(path, text:sub(1, first - 1) .. bug.to .. text:sub(last + 1))
  local objects = rebuild(bug.file, bug.test)
  write(path, text)
  if not (objects and link(objects)) then return nil, "it does not compile" end
  return run_test(bug.test), "nobody noticed"
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
