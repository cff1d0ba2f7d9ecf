--- Where a model is: a directory, or org/name in the local Hugging Face cache.
local hub = {}

local function exists(path)
  local f = io.open(path)
  if f then f:close() end
  return f ~= nil
end

local function cache_dir()
  local hub_cache, home = os.getenv "HF_HUB_CACHE", os.getenv "HF_HOME"
  if hub_cache then return hub_cache end
  if home then return home .. "/hub" end
  return (os.getenv "XDG_CACHE_HOME" or (os.getenv "HOME" or "") .. "/.cache") .. "/huggingface/hub"
end

--- The directory of a model, or nil and a message.
function hub.find(name)
  if exists(name .. "/config.json") or exists(name .. "/tokenizer.json") then return name end
  if exists(name .. "/.") then return nil, name .. ": a directory without config.json" end
  local org, model = name:match "^([%w._-]+)/([%w._-]+)$"
  if not org then return nil, name .. ": no such directory" end
  local repo = cache_dir() .. "/models--" .. org .. "--" .. model
  local ref = io.open(repo .. "/refs/main")
  local revision = ref and ref:read "*l"
  if ref then ref:close() end
  if not revision then return nil, name .. ": neither a directory nor in the Hugging Face cache (" .. repo .. ")" end
  return repo .. "/snapshots/" .. revision
end

return hub
