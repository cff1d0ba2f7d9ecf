--- Commands that write to a disk which is or becomes full: none may end with 0 when a line is missing, whatever it
-- leaves is named, and quantize leaves nothing that a loader would take.
--
--   luajit spec/support/full_disk.lua [RUNS [LUA]]       RUNS of each command (1), with that Lua (luajit)
--
-- The disk is a tmpfs of 1 MB. Where none can be mounted (no root), the files of a directory may have 64 KB each.
dofile "spec/support/paths.lua" "build"
local files = dofile "spec/support/files.lua"
local json = require "fp8llm.json"

local runs, lua = tonumber(arg[1]) or 1, arg[2] or "luajit"
local work = "build/spec/full-disk"
local disk, model = work .. "/disk", work .. "/model"
local version = lua:match "5%.[2-4]"
local cli = ("LUA_CPATH='%s/?.so' LUA_PATH='lua/?.lua' %s lua/fp8llm/cli.lua "):format(
  version and "build/lua" .. version or "build", lua)

local function shell(line)
  local p = io.popen("{ " .. line .. " ; } 2>&1; echo status=$?")
  local said = p:read "*a"
  p:close()
  return said, tonumber(said:match "status=(%d+)%s*$")
end

shell(("umount %s; rm -rf %s; mkdir -p %s"):format(disk, work, disk))
local mounted = select(2, shell(("mount -t tmpfs -o size=1m tmpfs %s"):format(disk))) == 0
local limit = mounted and "" or "trap '' XFSZ; ulimit -f 64; "
shell(("luajit spec/support/tiny_model.lua %s context=256 hidden=128"):format(model))

-- Inputs whose answers take more than what is free.
local requests, prompts, rows = {}, {}, {}
for i = 1, 400 do
  requests[i] = json.encode {custom_id = "n" .. i, method = "POST", url = "/v1/completions",
    body = {prompt = "x", max_tokens = 4, ignore_eos = true, temperature = 0}}
  prompts[i] = json.encode {prompt = "x" .. i, max_tokens = 8, ignore_eos = true, temperature = 0}
  rows[i] = json.encode {id = "q" .. i, question = ("why? "):rep(20), answerKey = "A",
    choices = {text = {"a", "b", "c"}, label = {"A", "B", "C"}}}
end
files.write(work .. "/requests.jsonl", table.concat(requests, "\n") .. "\n")
files.write(work .. "/prompts.jsonl", table.concat(prompts, "\n") .. "\n")
files.write(work .. "/arc.jsonl", table.concat(rows, "\n") .. "\n")
files.write(work .. "/text.txt", ("Some words of a text to predict. "):rep(400))

local function lines_of(path) return select(2, (files.read(path) or ""):gsub("\n", "")) end
local function exists(path) return select(2, shell("test -e " .. path)) == 0 end

-- Leaves `free` bytes of the disk, or none of what a file may have.
local function fill(free)
  shell("rm -rf " .. disk .. "/*")
  if mounted then
    shell(("head -c %d /dev/zero >%s/filler; head -c 1048576 /dev/zero >>%s/filler; truncate -s -%d %s/filler"):format(
      1048576, disk, disk, free, disk))
  end
end

local out = disk .. "/out"
-- name, command, lines of a whole output file or nil, bytes that are free (0)
local cases = {
  {"batch", ("batch %s/requests.jsonl %s --model %s"):format(work, out, model), 400, 32768},
  {"generate --output", ("generate %s --input %s/prompts.jsonl --output %s"):format(model, work, out), 400, 32768},
  {"generate >", ("generate %s --input %s/prompts.jsonl >%s"):format(model, work, out), 400, 32768},
  {"eval --output", ("eval multiple-choice %s --task arc --data %s/arc.jsonl --output %s"):format(model, work, out),
    400, 32768},
  {"eval perplexity >", ("eval perplexity %s --text %s/text.txt >%s"):format(model, work, out)},
  {"tokenize >", ("tokenize %s 'a text of several words' >%s"):format(model, out)},
  {"inspect >", ("inspect %s >%s"):format(model, out)},
  {"inspect --json >", ("inspect %s --json >%s"):format(model, out)},
  {"chat >", ("chat %s --message hello --max-tokens 8 >%s"):format(model, out)},
  {"bench >", ("bench tokenizer %s >%s"):format(model, out)},
  {"--help >", ("serve --help >%s"):format(out)},
  {"quantize", ("quantize %s %s --scheme fp8-dynamic"):format(model, out), nil, 65536},
}

-- What is wrong | nil
local function try(case)
  local name, command, whole, free = case[1], case[2], case[3], case[4] or 0
  fill(free)
  -- Without a disk of its own there is no full one to begin with; /dev/full is.
  if not mounted and not case[4] then command = command:gsub(">.*$", ">/dev/full") end
  local said, status = shell(limit .. cli .. command)
  if status == 0 and whole and lines_of(out) == whole then return "all was written: the disk is too large" end
  if status == 0 then return ("status 0, %d lines of %s: %s"):format(lines_of(out), tostring(whole), said) end
  if status ~= 1 then return ("status %d: %s"):format(status, said) end
  if not (said:find "No space left on device" or said:find "File too large") then return "no reason: " .. said end
  if said:find "%.lua:%d" then return "a source line: " .. said end
  if name == "quantize" then
    if exists(out) then return "residue: " .. shell("ls -R " .. disk) end
    if shell("ls " .. disk):gsub("filler\n", ""):gsub("status=0%s*", "") ~= "" then
      return "residue: " .. shell("ls -R " .. disk)
    end
  end
end

local failed = 0
for i, case in ipairs(cases) do
  local trouble
  for _ = 1, runs do trouble = trouble or try(case) end
  if trouble then failed = failed + 1 end
  print(("%s %d - %s on a full disk, %d runs"):format(trouble and "not ok" or "ok", i, case[1], runs))
  if trouble then print("# " .. trouble:gsub("\n", "\n# ")) end
end
print("1.." .. #cases)
if mounted then shell("umount " .. disk) end
os.exit(failed == 0 and 0 or 1)
