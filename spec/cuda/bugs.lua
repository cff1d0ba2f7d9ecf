-- Plants the bugs of bugs.txt in the CUDA backend, one at a time, and runs the tests on the emulated
-- GPU: each must be noticed.  One TAP line a bug, many minutes.
--     luajit spec/cuda/bugs.lua CUDA_HOME [TEST or words of a title]      after make, make emu-tests and make tests
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

-- A C file of the backend or, with src/ before its name, of the library.
local function compile_host(path, out)
  return (run("gcc -std=c11 -D_GNU_SOURCE -O2 -fPIC -fvisibility=hidden -I%s -I. -Isrc -isystem %s/include -c -o %s %s",
    build, home, out, path))
end

-- `instead` is linked for the host file of that name.
local function link(objects, name, instead)
  local util = "build/src/backend/check.o"
  for _, name in ipairs {"err", "mem", "fp8", "dtype"} do util = util .. " build/src/util/" .. name .. ".o" end
  local libs = ("-L%s/lib64 -lcudart -lcublasLt -lstdc++ -lm"):format(home)
  local host = ("$(ls build/cuda/*.o | grep -v -e cu.o -e /%s.o) %s"):format(name or "-", instead or "")
  return (run("gcc -shared -Wl,-z,defs -o %s/fp8llm_cuda.so %s %s %s %s", build, objects, host, util, libs))
end

-- The test with `instead` for a file of the library.
local function link_test(test, path, instead)
  local helpers = "$(ls build/spec/c/*.o | grep -v /test_)"
  local library = ("$(ls build/src/*/*.o | grep -v %s) %s"):format(path:gsub("%.c$", ".o"), instead)
  return (run("gcc -o %s/test_changed build/spec/c/test_backend_%s.o %s %s -lcjson -lm -ldl -pthread", build, test,
    helpers, library))
end

-- The kernels that a test looks at: what is compiled again when a header has changed.
local kernels = {ops = "rows select", linear = "linear_rows linear_tiles", attend = "attend rope_store",
  record = "rows select linear_rows linear_tiles attend rope_store"}

assert(run("rm -rf %s; mkdir -p %s/cuda; cp cuda/*.* %s/cuda", build, build, build))
for test in pairs(kernels) do assert(run("cp build/spec/c/test_backend_%s %s", test, build)) end
local sources = {}
for path in io.popen("ls cuda/*.cu"):lines() do sources[#sources + 1] = path:match "([%w_]+)%.cu$" end
for _, name in ipairs(sources) do assert(compile(name, build .. "/" .. name .. ".o"), name) end

-- The text of a file with the bug in it.
local function spoil(bug, path)
  local text = read(path)
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
    local header = not bug.file:match "%.cu$" and (" " .. kernels[bug.test] .. " "):find(" " .. name .. " ", 1, true)
    if bug.file == name .. ".cu" or header then
      changed[name] = "changed-" .. name
      ok = ok and compile(name, build .. "/changed-" .. name .. ".o")
    end
  end
  return ok and link(all_objects(changed))
end

-- A bug in a file of the host.
local function build_host(bug, path)
  local object = build .. "/changed-host.o"
  if not compile_host(path, object) then return false end
  if not bug.file:match "^src/" then return link(all_objects {}, bug.file:match "([%w_]+)%.c$", object) end
  return link(all_objects {}) and link_test(bug.test, "build/" .. bug.file, object)
end

-- The first complaint of a test; "" when it has none.
local function complaint(program, leaks)
  local test = ("EMU_QUIET=1 EMU_LEAKS=%d LD_LIBRARY_PATH=build/emu timeout 300 %s/test_%s cuda"):format(
    leaks and 1 or 0, build, program)
  local _, said = run("{ %s 2>&1 || echo EMU ended; } | grep -am1 -E '^(not ok|EMU)'", test)
  return said
end

-- What the tests say of a bug; nothing when they notice nothing.
local function plant(bug)
  local library = bug.file:match "^src/"
  local path = build .. (library and "/changed.c" or "/cuda/" .. bug.file)
  local spoilt, text = spoil(bug, library and bug.file or path)
  if not spoilt then return nil, "its text is not in " .. bug.file end
  write(path, spoilt)
  local ok
  if bug.file:match "%.c$" then ok = build_host(bug, path) else ok = build_kernels(bug) end
  if not library then write(path, text) end
  if not ok then return nil, "it does not compile" end
  local said = complaint(library and "changed" or "backend_" .. bug.test, bug.test == "record")
  return said ~= "" and said:gsub("\n.*", ""):sub(1, 150), "nobody noticed"
end

local count, failed, silent = 0, 0, {}
for _, bug in ipairs(read_bugs "spec/cuda/bugs.txt") do
  if not only or bug.title:find(only, 1, true) or bug.test == only then
    if silent[bug.test] == nil then -- without a bug there is nothing to notice
      assert(link(all_objects {}))
      silent[bug.test] = complaint("backend_" .. bug.test, bug.test == "record") == ""
      assert(silent[bug.test], bug.test .. " fails without a bug")
    end
    local said, why = plant(bug)
    count = count + 1
    if not said then failed = failed + 1 end
    print(("%s %d - %s: %s"):format(said and "ok" or "not ok", count, bug.title, said or why))
    io.stdout:flush()
  end
end
print("1.." .. count)
os.exit(failed <= count * 0.05 and 0 or 1)
