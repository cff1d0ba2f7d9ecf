--- Where a model is: a directory, or org/name of the local Hugging Face cache, where `org/name@revision` is another
-- branch, tag or commit than main. Layout: models--ORG--NAME/refs/REVISION holds a commit, snapshots/COMMIT its files.
local hub = {}

local function exists(path)
  local f = io.open(path)
  if f then f:close() end
  return f ~= nil
end

-- An environment variable that says something.
local function variable(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

-- A leading ~/ is the user's directory, as huggingface_hub has it.
local function expand(path) return path:find "^~/" and (variable "HOME" or "") .. path:sub(2) or path end

--- Where huggingface_hub keeps what it has: the token, and the cache unless it is told otherwise.
function hub.home()
  local home = variable "HF_HOME"
  if home then return expand(home) end
  return expand(variable "XDG_CACHE_HOME" or "~/.cache") .. "/huggingface"
end

--- The directory with the models of the cache, which need not be there.
function hub.cache_dir()
  local cache = variable "HF_HUB_CACHE" or variable "HUGGINGFACE_HUB_CACHE"
  return cache and expand(cache) or hub.home() .. "/hub"
end

--- "org/name@revision" -> "org/name", "revision" or nil | nothing: no name that the hub could have.
function hub.split(name)
  local repo, at, revision = name:match "^([%w][%w._-]*/[%w][%w._-]*)(@?)(.*)$"
  if not repo or (at == "") ~= (revision == "") then return nil end
  if at == "" then return repo, nil end
  if not revision:match "^[%w][%w._/-]*$" or revision:find("..", 1, true) then return nil end
  return repo, revision
end

--- The directory of a repository in the cache, which need not be there.
function hub.repo_dir(repo) return hub.cache_dir() .. "/models--" .. repo:gsub("/", "--") end

--- How a message tells the way to a model that is not here.
function hub.advice(name) return "get it with: fp8llm pull " .. name end

-- The commit that a branch or tag is at; a commit is its own.
local function commit_of(dir, revision)
  local ref = io.open(dir .. "/refs/" .. revision)
  local commit = ref and ref:read "*l"
  if ref then ref:close() end
  commit = commit and commit:match "^%s*(%x+)%s*$"
  return commit or (exists(dir .. "/snapshots/" .. revision .. "/.") and revision or nil)
end

local function is_model(dir) return exists(dir .. "/config.json") or exists(dir .. "/tokenizer.json") end

--- The directory of a model | nil, message, code
function hub.find(name)
  if is_model(name) then return name end
  if exists(name .. "/.") then return nil, name .. ": a directory without config.json", "FORMAT" end
  local repo, revision = hub.split(name)
  if not repo then
    local message = "%s: no such directory; a model of the Hugging Face hub has a name like org/name: %s"
    return nil, message:format(name, hub.advice "org/name"), "IO"
  end
  local dir = hub.repo_dir(repo)
  local commit = commit_of(dir, revision or "main")
  if not commit then
    local message = "%s: neither a directory nor in the Hugging Face cache (%s); %s"
    return nil, message:format(name, dir, hub.advice(name)), "IO"
  end
  local snapshot = dir .. "/snapshots/" .. commit
  if is_model(snapshot) then return snapshot end
  return nil, ("%s: %s has no config.json; %s"):format(name, snapshot, hub.advice(name)), "IO"
end

return hub
