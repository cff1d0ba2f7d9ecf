--- Gets a model from the Hugging Face hub into its cache, in the layout that huggingface_hub has: blobs/ETAG holds the
-- bytes, refs/REVISION a commit, snapshots/COMMIT links to the blobs. Only what fp8llm reads is fetched.
local curl = require "fp8llm.curl"
local fp8llm = require "fp8llm"
local hub = require "fp8llm.hub"
local json = require "fp8llm.json"

local tries = 6 -- in a row that bring nothing
local longest_pause = 300 -- seconds that a server may ask for

local function quote(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

-- What a shell command prints, without its last line end, or nil: it failed.
local function ask_shell(line)
  local pipe = assert(io.popen("{ " .. line .. "; } 2>/dev/null && echo done", "r"))
  local said = pipe:read "*a"
  pipe:close()
  return (said:match "^(.-)\n?done\n$")
end

local function fail(format, ...) return nil, format:format(...), "IO" end

local function size_of(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local size = file:seek "end"
  file:close()
  return size
end

local function make_dir(path)
  if ask_shell("mkdir -p " .. quote(path)) then return true end
  return fail("%s: cannot be made", path)
end

local function percent(text)
  return (text:gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local function percent_path(path) return (path:gsub("[^/]+", percent)) end

local function parent(path) return path:match "^(.*)/" end

-- ---- what is asked of the hub ------------------------------------------------------------------

local gated = [[
%s: its authors want their terms accepted: sign in at %s/%s and accept them, then set HF_TOKEN to a token of that
account (%s/settings/tokens)]]

-- Why an answer is none -> message
local function explain(job, response, what)
  local headers, status = response.headers, response.status
  local code, said = headers["x-error-code"], headers["x-error-message"]
  if code == "GatedRepo" then
    local message = gated:gsub("\n", " "):format(job.repo, job.endpoint, job.repo, job.endpoint)
    return message .. (job.token and "; the present token's account has not been let in" or "")
  end
  if code == "RevisionNotFound" then return ("%s: no revision '%s'"):format(job.repo, job.revision) end
  if code == "RepoNotFound" or (what == job.repo and (status == 404 or status == 401 and not code and not job.token))
  then
    return ("%s: %s has no such model, or it is private and %s"):format(job.repo, job.endpoint,
      job.token and "the token's account may not read it" or "HF_TOKEN is not set")
  end
  if status == 401 and job.token then
    return ("%s: %s refuses the token (%s)"):format(what, job.endpoint, job.token_from)
  end
  return ("%s: %s answers %d%s"):format(what, job.endpoint, status, said and ": " .. said or "")
end

-- curl's exit statuses that another try may mend: names, connections, cuts, timeouts.
local passing = {[5] = true, [6] = true, [7] = true, [16] = true, [18] = true, [28] = true, [35] = true, [52] = true,
  [55] = true, [56] = true, [92] = true}
local busy = {[408] = true, [429] = true, [500] = true, [502] = true, [503] = true, [504] = true}

-- Waits before another try -> true | nil, message
local function pause(job, what, trouble, failures, asked)
  if failures >= tries then return fail("%s: %s, %d times; the same command goes on", what, trouble, failures) end
  local seconds = asked or 2 ^ (failures - 2)
  if seconds > longest_pause then
    return fail("%s: %s; it asks to wait for %d seconds", what, trouble, seconds)
  end
  job.say("%s: %s; again in %g s", what, trouble, seconds)
  ask_shell(("sleep %g"):format(seconds))
  return true
end

-- curl.request until it succeeds or there is no hope. options.progress() -> something that changes when bytes came.
-- -> response of a status below 400, or 416 | nil, message, code
local function request(job, what, url, options)
  local failures = 0
  options.token = job.token
  while true do
    local before = options.progress and options.progress()
    if options.prepare then options.prepare() end
    local response, message, code, exit = curl.request(url, options)
    if options.progress and options.progress() ~= before then failures = 0 end
    local trouble, asked
    if not response then
      if code ~= "NET" or not passing[exit] then return nil, what .. ": " .. message, "IO" end
      trouble = message
    elseif busy[response.status] then
      trouble = ("%s answers %d"):format(job.endpoint, response.status)
      asked = tonumber(response.headers["retry-after"])
    elseif response.status >= 400 and response.status ~= 416 then
      return nil, explain(job, response, what), "IO"
    elseif response.exit ~= 0 then
      if not passing[response.exit] then return nil, what .. ": " .. response.said, "IO" end
      trouble = response.said
    else
      return response
    end
    failures = failures + 1
    local ok
    ok, message, code = pause(job, what, trouble, failures, asked)
    if not ok then return nil, message, code end
  end
end

-- ---- which files -------------------------------------------------------------------------------

-- A name that leads nowhere else than below the snapshot.
local function is_safe(name)
  if type(name) ~= "string" or name == "" or name:find "[%c\\\127]" then return false end
  for part in (name .. "/"):gmatch "([^/]*)/" do
    if part == "" or part == "." or part == ".." then return false end
  end
  return true
end

local wanted = {
  "^config%.json$", "^generation_config%.json$", "^hf_quant_config%.json$", "^special_tokens_map%.json$",
  "^added_tokens%.json$", "^tokenizer[^/]*$", "^chat_template[^/]*$", "^additional_chat_templates/[^/]+%.jinja$",
  "^[^/]+%.safetensors$", "^[^/]+%.safetensors%.index%.json$", "^LICENSE[^/]*$", "^NOTICE[^/]*$", "^USE_POLICY[^/]*$",
  "^README%.md$",
}

local function is_wanted(name)
  for _, pattern in ipairs(wanted) do
    if name:find(pattern) then return true end
  end
  return false
end

-- Without copies of the weights in another form: consolidated.safetensors beside model-00001-of-00002.safetensors.
local function without_copies(files)
  local named, whole = false, false
  for _, file in ipairs(files) do
    named = named or file.name:find "^model.*%.safetensors$" ~= nil
    whole = whole or file.name == "model.safetensors"
  end
  local kept = {}
  for _, file in ipairs(files) do
    local is_weights = file.name:find "%.safetensors$"
    if not is_weights or not named or (whole and file.name == "model.safetensors")
      or (not whole and file.name:find "^model") then
      kept[#kept + 1] = file
    end
  end
  return kept
end

-- What an entity tag or a listing says -> a name that a blob can have | nil
local function clean_etag(text)
  if type(text) ~= "string" then return nil end
  text = text:gsub("^W/", ""):gsub('"', "")
  return text:find "^%w[%w_-]*$" and text or nil
end

-- A hub that lists no sizes or tags tells them for each file.
local function ask_head(job, file)
  local response, message, code = request(job, file.name, job.file_url(file.name), {head = true})
  if not response then return nil, message, code end
  local first, last = response.first, response.headers
  file.etag = clean_etag(first["x-linked-etag"] or first.etag or last.etag)
  file.size = tonumber(first["x-linked-size"] or last["content-length"])
  if file.etag and file.size then return true end
  return fail("%s: %s tells no size or entity tag of it", file.name, job.endpoint)
end

-- The files of a revision, small ones first -> {{name, size, etag}, ...}; sets job.commit
local function list_files(job)
  local url = ("%s/api/models/%s/revision/%s?blobs=true"):format(job.endpoint, job.repo, percent(job.revision))
  local response, message, code = request(job, job.repo, url, {})
  if not response then return nil, message, code end
  local object = json.decode(response.body)
  if type(object) ~= "table" or type(object.sha) ~= "string" or not object.sha:find "^%x+$" or #object.sha ~= 40
    or type(object.siblings) ~= "table" then
    return fail("%s: what answers is no Hugging Face hub", url)
  end
  job.commit = object.sha
  local files, weights = {}, 0
  for _, sibling in ipairs(object.siblings) do
    local name = type(sibling) == "table" and sibling.rfilename
    if not is_safe(name) then return fail("%s: a file name that is not safe: '%s'", job.repo, tostring(name)) end
    if is_wanted(name) then
      local lfs = type(sibling.lfs) == "table" and sibling.lfs or {}
      files[#files + 1] = {
        name = name, size = tonumber(lfs.size or sibling.size),
        etag = clean_etag(lfs.sha256) or clean_etag(sibling.blobId),
      }
      weights = weights + (name:find "%.safetensors$" and 1 or 0)
    end
  end
  if weights == 0 then
    return fail("%s: has no *.safetensors: fp8llm reads neither pytorch_model.bin nor GGUF", job.repo)
  end
  files = without_copies(files)
  for _, file in ipairs(files) do
    if not file.size or not file.etag then
      local ok
      ok, message, code = ask_head(job, file)
      if not ok then return nil, message, code end
    end
  end
  table.sort(files, function(a, b)
    if a.size ~= b.size then return a.size < b.size end
    return a.name < b.name
  end)
  return files
end

-- ---- one file ----------------------------------------------------------------------------------

-- The digest that a blob is named by: SHA-256 of its bytes, or git's SHA-1 of it. -> true | nil, message
local function check_digest(path, file)
  local line
  if #file.etag == 64 then
    line = ("sha256sum <%s"):format(quote(path))
  elseif #file.etag == 40 then
    line = ("{ printf 'blob %d\\0'; cat %s; } | sha1sum"):format(file.size, quote(path))
  else
    return true -- a hub of another kind: its size is what is known
  end
  local digest = (ask_shell(line) or ""):match "^%x+"
  if digest == file.etag then return true end
  return fail("%s: %s is to have the digest %s and has %s", file.name, path, file.etag, digest or "none")
end

-- Who takes the body of a file from byte `from` on; nil: it is no file's.
local function writer(file, part, sink, response, from)
  if response.status == 200 then
    from = 0
    local ok = sink:cut(0)
    if not ok then return nil end
  elseif response.status == 206 then
    local start = (response.headers["content-range"] or ""):match "^bytes (%d+)%-"
    if tonumber(start) ~= from then
      return function() return fail("%s: bytes from %d were asked for, not from %s", file.name, from, start or "?") end
    end
  else
    return nil
  end
  part.size = from
  return function(piece)
    if piece == "" then return true end
    part.size = part.size + #piece
    if part.size > file.size then
      part.bad = true
      return fail("%s: more than %.0f bytes, as long as it is to be", file.name, file.size)
    end
    local ok, message, code = sink:write(piece)
    if ok then file.advance(part.size) end
    return ok, message, code
  end
end

-- Fills the file at `path` up to its size -> true | nil, message, code
local function fill(job, file, path)
  local sink, message, code = fp8llm.sink(path)
  if not sink then return nil, message, code end
  local part = {size = size_of(path) or 0}
  if part.size > file.size then
    sink:cut(0)
    part.size = 0
  end
  local response = true
  local options = {progress = function() return part.size end}
  function options.prepare() options.from = part.size > 0 and part.size or nil end
  function options.begin(answer) return writer(file, part, sink, answer, options.from or 0) end
  local ends = {} -- [bytes] = true: the server has said that it ends there
  while response and part.size < file.size do
    response, message, code = request(job, file.name, job.file_url(file.name), options)
    if response and part.size < file.size then
      if ends[part.size] then
        part.bad = true
        response, message, code = fail("%s: ends after %.0f of %.0f bytes", file.name, part.size, file.size)
      end
      ends[part.size] = true
    end
  end
  local ok, trouble, why = sink:close()
  if part.bad then os.remove(path) end
  if not response then return nil, message, code end
  if not ok then return nil, trouble, why end
  return true
end

-- huggingface_hub takes the same lock when it writes this blob.
local function lock(job, path)
  local told
  while true do
    local ok, message, code = fp8llm.lock(path)
    if ok or code ~= "BUSY" then return ok, message, code end
    if not told then job.say("waiting for another download: %s", message) end
    told = true
    ask_shell "sleep 0.2"
  end
end

local function fetch_blob(job, file)
  local blob = job.dir .. "/blobs/" .. file.etag
  local ok, message, code = lock(job, job.locks .. "/" .. file.etag .. ".lock")
  if not ok then return nil, message, code end
  if size_of(blob) == file.size then
    file.advance(file.size)
    return true
  end
  local part = blob .. ".incomplete"
  local resumed = (size_of(part) or 0) > 0
  if file.size == 0 then assert(io.open(part, "wb")):close() end
  ok, message, code = fill(job, file, part)
  if not ok then return nil, message, code end
  job.bar("checking " .. file.name)
  ok, message, code = check_digest(part, file)
  if not ok then
    os.remove(part)
    if not resumed then return nil, message .. "; it has been removed", code end
    job.say("%s: what was there before was not its beginning; again from the start", file.name)
    file.advance(0)
    ok, message, code = fill(job, file, part)
    if ok then ok, message, code = check_digest(part, file) end
    if not ok then
      os.remove(part)
      return nil, message, code
    end
  end
  ok, message = os.rename(part, blob)
  if not ok then return nil, message, "IO" end
  return true
end

-- snapshots/COMMIT/NAME -> ../../blobs/ETAG
local function link(job, file)
  local path = job.snapshot .. "/" .. file.name
  local up = ("../"):rep(2 + select(2, file.name:gsub("/", "")))
  local to = up .. "blobs/" .. file.etag
  local made = ask_shell(("mkdir -p %s && ln -sfn %s %s"):format(quote(parent(path)), quote(to), quote(path)))
  if made then return true end
  return fail("%s: the link cannot be made", path)
end

local function write_ref(job)
  if job.revision == job.commit then return true end
  local path = job.dir .. "/refs/" .. job.revision
  local ok, message, code = make_dir(parent(path))
  if not ok then return nil, message, code end
  local half = path .. ".part"
  local file
  file, message = io.open(half, "wb")
  if file then
    ok, message = file:write(job.commit)
    if ok then ok, message = file:close() else file:close() end
    if ok then ok, message = os.rename(half, path) end
    if ok then return true end
  end
  return nil, message, "IO"
end

-- ---- all of it ---------------------------------------------------------------------------------

local function variable(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

local yes = {["1"] = true, ON = true, YES = true, TRUE = true}

local function is_set(name) return yes[(variable(name) or ""):upper()] end

-- Who we are for the hub -> a shell command that prints the token, where it is from | nothing | false, message
local function find_token()
  for _, name in ipairs {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} do
    local value = variable(name)
    if value then
      if not value:find '^%s*[^%s%c"\\\128-\255]+%s*$' then return false, name .. ": is no token" end
      return ("printf %%s \"$%s\" | tr -d '[:space:]'"):format(name), name
    end
  end
  if is_set "HF_HUB_DISABLE_IMPLICIT_TOKEN" then return nil end
  local path = variable "HF_TOKEN_PATH" or hub.home() .. "/token"
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a" or ""
  file:close()
  if not text:find "%S" then return nil end
  if not text:find '^%s*[^%s%c"\\\128-\255]+%s*$' then return false, path .. ": is no token" end
  return ("tr -d '[:space:]' <%s"):format(quote(path)), path
end

-- Bytes that are still to come, after what lies there; where they have room.
local function check_space(job, files)
  local have, seen = 0, {}
  job.total, job.missing = 0, 0
  for _, file in ipairs(files) do
    if not seen[file.etag] then
      seen[file.etag] = true
      local blob = job.dir .. "/blobs/" .. file.etag
      local there = size_of(blob) == file.size and file.size or math.min(size_of(blob .. ".incomplete") or 0, file.size)
      job.total, have = job.total + file.size, have + there
    end
  end
  job.missing = job.total - have
  local said = ask_shell(("df -Pk %s | tail -n 1"):format(quote(job.dir)))
  local free = said and said:match "^%S+%s+%d+%s+%d+%s+(%d+)"
  if free and tonumber(free) * 1024 < job.missing then
    return fail("%s: %.1f MB are needed in %s, which has %.1f MB free", job.repo, job.missing / 1e6, job.dir,
      tonumber(free) * 1024 / 1e6)
  end
  return true
end

local function prepare(job)
  job.dir = hub.repo_dir(job.repo)
  job.locks = hub.cache_dir() .. "/.locks/models--" .. job.repo:gsub("/", "--")
  local ok, message, code = make_dir(job.dir .. "/blobs")
  if ok then ok, message, code = make_dir(job.locks) end
  if ok then ok, message, code = lock(job, job.locks .. "/fp8llm.lock") end -- blobs are locked in no certain order
  return ok, message, code
end

-- Every file of the list in the cache.
local function fetch_all(job, files)
  local before, done = 0, {}
  job.snapshot = job.dir .. "/snapshots/" .. job.commit
  for _, file in ipairs(files) do
    function file.advance(bytes)
      job.bar("pulling " .. job.repo, job.total > 0 and (before + bytes) / job.total or 1,
        ("%.1f of %.1f MB"):format((before + bytes) / 1e6, job.total / 1e6))
    end
    local ok, message, code = true, nil, nil
    if not done[file.etag] then ok, message, code = fetch_blob(job, file) end
    if ok then ok, message, code = link(job, file) end
    if not ok then return nil, message, code end
    if not done[file.etag] then before = before + file.size end
    done[file.etag] = true
  end
  return write_ref(job)
end

--- options: bar (as of fp8llm.progress), say(format, ...) of what a person should know meanwhile.
-- -> {dir =, commit =, files = how many, bytes = of all, fetched = of those that came now} | nil, message, code
return function(name, options)
  local repo, revision = hub.split(name)
  if not repo then return fail("%s: a name like org/name or org/name@revision is needed", name) end
  if is_set "HF_HUB_OFFLINE" then
    local dir = hub.find(name)
    if dir then return {dir = dir, offline = true} end
    return fail("%s: not in the cache (%s), and HF_HUB_OFFLINE is set", name, hub.repo_dir(repo))
  end
  if not ask_shell "command -v curl" then return fail "curl is missing: apt-get install curl" end
  local job = {
    repo = repo, revision = revision or "main", bar = options.bar, say = options.say,
    endpoint = (variable "HF_ENDPOINT" or "https://huggingface.co"):gsub("/+$", ""),
  }
  if not job.endpoint:find "^https?://[^/]" then return fail("HF_ENDPOINT: %s is no address", job.endpoint) end
  local token, from = find_token()
  if token == false then return fail("%s", from) end
  job.token, job.token_from = token, from
  function job.file_url(file)
    return ("%s/%s/resolve/%s/%s"):format(job.endpoint, repo, job.commit, percent_path(file))
  end
  local files, message, code = list_files(job)
  if not files then return nil, message, code end
  local ok
  ok, message, code = prepare(job)
  if ok then ok, message, code = check_space(job, files) end
  if ok then ok, message, code = fetch_all(job, files) end
  if not ok then return nil, message, code end
  return {dir = job.snapshot, commit = job.commit, files = #files, bytes = job.total, fetched = job.missing}
end
