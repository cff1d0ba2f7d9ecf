-- Models by the names of the Hugging Face hub, in a cache of its layout.
local files = dofile "spec/support/files.lua"
local fp8llm = require "fp8llm"
local tiny = dofile "spec/support/tiny_model.lua"

local root, commit, older = "build/spec/hub-cache", ("a1"):rep(20), ("b2"):rep(20)
local repo = root .. "/hub/models--some-org--tiny.model_1"

local function make_cache()
  os.execute("rm -rf " .. root .. " && mkdir -p " .. repo .. "/refs/pr " .. repo .. "/snapshots/" .. older)
  tiny.write(repo .. "/snapshots/" .. commit, {layers = 1, context = 64})
  files.write(repo .. "/refs/main", commit .. "\n")
  files.write(repo .. "/refs/pr/7", commit)
  files.write(repo .. "/refs/old", older)
end

local function with(names, fn)
  local getenv = os.getenv
  os.getenv = function(name) -- luacheck: ignore
    if names[name] ~= nil then return names[name] or nil end
    if name:find "^H[FU]" or name:find "^XDG_CACHE" then return nil end
    return getenv(name)
  end
  local fine, message = pcall(fn)
  os.getenv = getenv -- luacheck: ignore
  if not fine then error(message, 0) end
end

describe("a model by the hub's name", function()
  setup(make_cache)

  local function loads(name)
    local model = assert(fp8llm.load(name, {threads = 1}))
    assert.equal("fp8llm.model: some-org/tiny.model_1, ", tostring(model):sub(1, 37))
    model:close()
  end
  local function refused(name, code, ...)
    local model, message, got = fp8llm.load(name)
    assert.same({nil, code}, {model, got})
    for _, part in ipairs {name, ...} do assert.is_true(message:find(part, 1, true) ~= nil, message) end
  end

  it("is found where the environment says", function()
    for _, names in ipairs {
      {HF_HOME = root}, {HF_HUB_CACHE = root .. "/hub"}, {HUGGINGFACE_HUB_CACHE = root .. "/hub"},
      {HF_HOME = "/nowhere", HF_HUB_CACHE = root .. "/hub"}, {HF_HOME = root, HF_HUB_CACHE = ""},
    } do
      with(names, function() loads "some-org/tiny.model_1" end)
    end
    os.execute(("mkdir -p %s/huggingface && ln -sfn ../hub %s/huggingface/hub"):format(root, root))
    with({XDG_CACHE_HOME = root}, function() loads "some-org/tiny.model_1" end)
    os.execute(("mkdir -p %s/home/.cache && ln -sfn ../../huggingface %s/home/.cache/huggingface"):format(root, root))
    with({HOME = root .. "/home"}, function() loads "some-org/tiny.model_1" end)
  end)

  it("has revisions", function()
    with({HF_HOME = root}, function()
      for _, revision in ipairs {"main", "pr/7", commit} do loads("some-org/tiny.model_1@" .. revision) end
      refused("some-org/tiny.model_1@old", "IO", "config.json", "fp8llm pull some-org/tiny.model_1@old")
      refused("some-org/tiny.model_1@none", "IO", "fp8llm pull some-org/tiny.model_1@none")
      for _, revision in ipairs {"", "../main", "/main"} do refused("some-org/tiny.model_1@" .. revision, "IO") end
    end)
  end)

  it("that is missing says how it is got", function()
    with({HF_HOME = root}, function()
      refused("other/model", "IO", "fp8llm pull other/model", root)
      refused("no-such-directory", "IO", "fp8llm pull org/name")
      refused("./no/such/directory", "IO", "no such directory")
      refused(root, "IO")
    end)
  end)

  it("is taken wherever a model is named", function()
    with({HF_HOME = root}, function()
      local name = "some-org/tiny.model_1"
      assert.equal(266, #assert(fp8llm.tokenizer(name)))
      assert.equal("LlamaForCausalLM", assert(fp8llm.describe(name)).architecture)
      os.execute "rm -rf build/spec/hub-fp8"
      assert(fp8llm.quantize {src = name, dst = "build/spec/hub-fp8", scheme = "fp8-dynamic"})
      for _, fn in ipairs {fp8llm.tokenizer, fp8llm.describe} do
        local none, message, code = fn "other/model"
        assert.same({nil, "IO"}, {none, code})
        assert.is_true(message:find("fp8llm pull other/model", 1, true) ~= nil)
      end
    end)
  end)
end)
