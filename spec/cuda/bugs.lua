-- Plants the bugs of bugs.txt in the CUDA backend, one at a time, and runs the tests on the emulated
-- GPU: each must be noticed.  One TAP line a bug, many minutes.  A bug names the test that must notice
-- it: one of spec/c/test_backend_*, or X of spec/cuda/X_spec.lua.
--     luajit spec/cuda/bugs.lua CUDA_HOME [TEST or words of a title]      after make, make emu-tests and make tests
local files = dofile "spec/support/files.lua"
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

local flags = "-std=c++17 -O3 -lineinfo -no-compress -Xcompiler -fPIC,-fvisibility=hidden "
  .. "-gencode arch=compute_89,code=compute_89 -I" .. build .. " -Isrc"

local function compile(name, out)
  return (run("%s/bin/nvcc %s -c -o %s %s/cuda/%s.cu", home, flags, out, build, name))
end

-- A C file of the backend or, with src/ before its name, of the library.
local function compile_host(path, out)
  return (run("gcc -std=c11 -D_GNU_SOURCE -O2 -fPIC -fvisibility=hidden -I%s -I. -Isrc -isystem %s/include -c -o %s %s",
    build, home, out, path))
end

-- `instead` is linked for the host file of that name.
local function link(objects, name, instead)
  local util = "build/src/backend/check.o"
  for _, own in ipairs {"err", "mem", "fp8", "dtype"} do util = util .. " build/src/util/" .. own .. ".o" end
  local libs = ("-L%s/lib64 -lcudart -lcublasLt -lstdc++ -lm"):format(home)
  local host = ("$(ls build/cuda/*.o | grep -v -e cu.o -e /%s.o) %s"):format(name or "-", instead or "")
  return (run("gcc -shared -Wl,-z,defs -o %s/fp8llm_cuda.so %s %s %s %s", build, objects, host, util, libs))
end

-- The test with `instead` for a file of the library.
local function link_test(test, path, instead)
  local library = ("$(ls build/src/*/*.o | grep -v %s) %s"):format(path:gsub("%.c$", ".o"), instead)
  local libs = "-lm -ldl -pthread"
  if test.spec then
    return (run("gcc -shared -Wl,-z,nodelete -o %s/fp8llm.so %s build/lua5.1-obj/src/*/*.o %s", build, library, libs))
  end
  local helpers = "$(ls build/spec/c/*.o | grep -v /test_)"
  return (run("gcc -o %s/test_backend_%s build/spec/c/test_backend_%s.o %s %s %s", build, test.name, test.name,
    helpers, library, libs))
end

-- The kernels that a test looks at: what is compiled again when a header has changed.
local kernels = {
  ops = "rows select",
  linear = "linear_rows linear_tiles",
  attend = "attend attend_tiles rope_store",
  layer = "rows rope_store linear_rows block_rows",
  copy = "",
  sample = "sample",
  record = "rows select linear_rows linear_tiles attend attend_tiles rope_store",
}

assert(run("rm -rf %s; mkdir -p %s/cuda; cp cuda/*.* %s/cuda", build, build, build))

-- The program of a test, without a bug in the library.
local function take_test(test)
  local program = test.spec and "fp8llm.so" or "spec/c/test_backend_" .. test.name
  assert(run("cp -f build/%s %s", program, build))
end

local sources = {}
for path in io.popen("ls cuda/*.cu"):lines() do sources[#sources + 1] = path:match "([%w_]+)%.cu$" end
for _, name in ipairs(sources) do assert(compile(name, build .. "/" .. name .. ".o"), name) end

-- The text of a file with the bug in it.
local function spoil(bug, path)
  local text = files.read(path)
  local first, last = text:find(bug.from, 1, true)
  return first and text:sub(1, first - 1) .. bug.to .. text:sub(last + 1), text
end

local function all_objects(changed)
  local objects = {}
  for i, name in ipairs(sources) do objects[i] = build .. "/" .. (changed[name] or name) .. ".o" end
  return table.concat(objects, " ")
end

-- A bug in a kernel or a header: what of the kernels must be compiled again.
local function build_kernels(bug)
  local changed, ok = {}, true
  for _, name in ipairs(sources) do
    local seen = " " .. (kernels[bug.test] or "") .. " "
    local header = not bug.file:match "%.cu$" and seen:find(" " .. name .. " ", 1, true)
    if bug.file == name .. ".cu" or header then
      changed[name] = "changed-" .. name
      ok = ok and compile(name, build .. "/changed-" .. name .. ".o")
    end
  end
  return ok and link(all_objects(changed))
end

-- A bug in a file of the host.
local function build_host(bug, path, test)
  local object = build .. "/changed-host.o"
  if not compile_host(path, object) then return false end
  if not bug.file:match "^src/" then return link(all_objects {}, bug.file:match "([%w_]+)%.c$", object) end
  return link(all_objects {}) and link_test(test, "build/" .. bug.file, object)
end

-- The first complaint of a test; "" when it has none.
local function complaint(test)
  local command = ("%s/test_backend_%s cuda"):format(build, test.name)
  if test.spec then command = ("luajit spec/support/busted.lua --build=%s -o TAP %s"):format(build, test.spec) end
  -- Memory of the host that nobody wrote is full of 0x7f, NaN in E4M3, as in run.sh.
  local settings = "MALLOC_PERTURB_=128 EMU_ARCH=89 EMU_QUIET=1 LD_LIBRARY_PATH=build/emu"
  settings = settings .. " sh spec/support/limited.sh 300"
  if test.name == "record" then settings = "EMU_LEAKS=1 " .. settings end
  -- Specs plant faults of their own, about which the emulator speaks: only their results count.
  local marks = test.spec and "^(not ok|EMU ended)" or "^(not ok|EMU)"
  local _, said = run("{ %s %s 2>&1 || echo EMU ended; } | grep -am1 -E '%s'", settings, command, marks)
  return said
end

-- What the tests say of a bug; nothing when they notice nothing.
local function plant(bug, test)
  local library = bug.file:match "^src/"
  local path = build .. (library and "/changed.c" or "/cuda/" .. bug.file)
  local spoilt, text = spoil(bug, library and bug.file or path)
  if not spoilt then return nil, "its text is not in " .. bug.file end
  files.write(path, spoilt)
  local ok
  if bug.file:match "%.c$" then ok = build_host(bug, path, test) else ok = build_kernels(bug) end
  if not library then files.write(path, text) end
  local said = ok and complaint(test)
  if library then take_test(test) end
  if not ok then return nil, "it does not compile" end
  return said ~= "" and said:gsub("\n.*", ""):sub(1, 150), "nobody noticed"
end

local tests = {}

-- The test of that name; without a bug there is nothing it may notice.
local function find_test(name)
  if tests[name] then return tests[name] end
  local path = ("spec/cuda/%s_spec.lua"):format(name)
  local file = io.open(path)
  local test = {name = name, spec = file and path}
  if file then file:close() end
  take_test(test)
  assert(link(all_objects {}))
  local said = complaint(test)
  assert(said == "", ("%s fails without a bug: %s"):format(name, said))
  tests[name] = test
  return test
end

local count, failed = 0, 0
for _, bug in ipairs(read_bugs "spec/cuda/bugs.txt") do
  if not only or bug.title:find(only, 1, true) or bug.test == only then
    local said, why = plant(bug, find_test(bug.test))
    count = count + 1
    if not said then failed = failed + 1 end
    print(("%s %d - %s: %s"):format(said and "ok" or "not ok", count, bug.title, said or why))
    io.stdout:flush()
  end
end
print("1.." .. count)
os.exit(failed <= count * 0.05 and 0 or 1)
