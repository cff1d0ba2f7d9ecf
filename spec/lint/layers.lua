-- layers.lua - fails when a C file includes a layer it must not know, uses a system header of
-- another folder, or is too long; run by `make lint`.
-- A file may include its own folder and the folders listed for it; FOO_priv.h stays at home.
local may = {
  util    = {},
  formats = {"util"},
  text    = {"util", "formats"},
  backend = {"util"},
  cpu     = {"util", "backend"},
  cuda    = {"util", "backend"},
  model   = {"util", "formats", "backend"},
  engine  = {"util", "text", "backend", "model"},
  quant   = {"util", "formats", "text", "backend", "model", "engine"},
  serve   = {"util", "formats", "text", "backend", "model", "engine"},
  binding = {"util", "formats", "text", "backend", "model", "engine", "quant", "serve"},
}

-- System headers beyond libc that belong to one folder.
local belongs = {
  {"^cuda", "cuda"}, {"^cublas", "cuda"}, {"^nccl", "cuda"}, {"^cub/", "cuda"},
  {"^lua", "binding"}, {"^lauxlib", "binding"}, {"intrin%.h$", "cpu"}, {"^cpuid", "cpu"},
  {"^dlfcn", "backend", "util"}, {"^sys/mman", "util"},
}

local file_lines = {h = 300, c = 700, cu = 600, cuh = 400}
local columns = 120 -- of tables and comments; code is kept at 100 by clang-format
local function_lines = 80
local long_function = {["src/model/forward.c"] = 120} -- the layer loop
local parameters = 8
local generated = "^src/text/unicode"

local bad = 0
local function fail(...)
  bad = bad + 1
  io.stderr:write(string.format(...), "\n")
end

local function check_include(path, n, folder, line)
  local own = line:match '^%s*#%s*include%s+"([^"]+)"'
  local system = line:match '^%s*#%s*include%s+<([^>]+)>'
  if own then
    local target = own:match "^([^/]+)/"
    local ok = target == folder
    for _, name in ipairs(may[folder]) do ok = ok or name == target end
    if not ok then fail('%s:%d: %s may not include "%s"', path, n, folder, own) end
    if own:match "_priv%.h$" and target ~= folder then fail('%s:%d: "%s" is private to %s', path, n, own, target) end
  end
  for _, rule in ipairs(belongs) do
    if system and system:match(rule[1]) and rule[2] ~= folder and rule[3] ~= folder then
      fail("%s:%d: <%s> belongs to %s", path, n, system, rule[2])
    end
  end
end

-- Functions as clang-format lays them out: the head starts in column 1 and ends in "{", the
-- body ends with "}" in column 1.
local function check_functions(path, lines)
  local head, start
  for n, line in ipairs(lines) do
    if start then
      if line:match "^}" then
        local length, limit = n - start + 1, long_function[path] or function_lines
        if length > limit then fail("%s:%d: function of %d lines, limit %d", path, start, length, limit) end
        start, head = nil, nil
      end
    else
      if line:match "^[%a_]" and not line:match "^typedef" then head = "" end
      if head then
        head = head .. line
        if line:match "[;}]%s*$" or line:match "= {$" then head = nil
        elseif line:match "{%s*$" then
          local list = head:match "%b()%s*{%s*$"
          if list then
            local _, commas = list:gsub(",", "")
            if commas + 1 > parameters then
              fail("%s:%d: function of %d parameters, limit %d", path, n, commas + 1, parameters)
            end
          end
          start = n
        end
      end
    end
  end
end

local function check(path)
  local folder = path:match "^src/([^/]+)/" or path:match "^(cuda)/"
  if not may[folder] then return fail("%s: folder '%s' has no layer", path, tostring(folder)) end
  local lines = {}
  for line in io.lines(path) do
    lines[#lines + 1] = line
    check_include(path, #lines, folder, line)
    local _, characters = line:gsub("[^\128-\191]", "")
    if characters > columns then fail("%s:%d: %d columns, limit %d", path, #lines, characters, columns) end
  end
  if path:match(generated) then return end
  local max = file_lines[path:match "%.(%w+)$"]
  if #lines > max then fail("%s: %d lines, limit %d", path, #lines, max) end
  check_functions(path, lines)
end

local find = assert(io.popen "find src cuda -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | sort")
local files = 0
for path in find:lines() do
  files = files + 1
  check(path)
end
if files == 0 then fail "no source files found: run this from the root of the tree" end
os.exit(bad == 0 and 0 or 1)
