-- What is made of --help and lua/fp8llm/meta.lua has all of them. The script is LuaJIT's business.
if not rawget(_G, "jit") then return end
local common = require "fp8llm.cmd.common"
local files = dofile "spec/support/files.lua"

local out = "build/spec/reference"

local function shell(line)
  local p = io.popen("{ " .. line .. " ; } 2>&1; echo status=$?")
  local said = p:read "*a"
  p:close()
  return (said:gsub("%s*status=%d+%s*$", "")), tonumber(said:match "status=(%d+)%s*$")
end

describe("the reference", function()
  local html, library
  setup(function()
    local said, status = shell(("LUA_PATH='%s' LUA_CPATH='%s' luajit rockspec/reference.lua %s"):format(package.path,
      package.cpath, out))
    assert.equal(0, status, said)
    html = files.read(out .. "/reference.html"):gsub("&quot;", '"'):gsub("&lt;", "<"):gsub("&gt;", ">")
      :gsub("&amp;", "&")
    library = files.read(out .. "/man/fp8llm.3lua"):gsub("\\%-", "-"):gsub("\\&", ""):gsub("\\e", "\\")
  end)

  it("has every function, class and field of the Lua interface", function()
    local seen = 0
    for line in io.lines "lua/fp8llm/meta.lua" do
      local name = line:match "^function (.-)%s+end%s*$" or line:match "^%-%-%-@class (.+)$"
      local field = line:match "^%-%-%-@field (%S+)"
      if name then
        assert.truthy(html:find("<h2><code>" .. name .. "</code></h2>", 1, true), name)
        assert.truthy(library:find(".SS " .. name .. "\n", 1, true), name)
        seen = seen + 1
      elseif field then
        assert.truthy(html:find("<tr><td><code>" .. field .. "</code></td>", 1, true), field)
        seen = seen + 1
      end
    end
    assert.is_true(seen > 200)
  end)

  it("has a man page for every command, with its options", function()
    local main = files.read(out .. "/man/fp8llm.1"):gsub("\\%-", "-")
    for _, name in ipairs(common.commands) do
      assert.truthy(main:find("fp8llm-" .. name, 1, true))
      local page = files.read(out .. "/man/fp8llm-" .. name .. ".1"):gsub("\\%-", "-")
      for _, option in ipairs(require("fp8llm.cmd." .. name).options) do
        assert.truthy(page:find("\\fB--" .. option[1] .. "\\fR", 1, true), name .. " --" .. option[1])
      end
    end
  end)

  it("is made of valid pages", function()
    if select(2, shell "command -v groff") ~= 0 then return end
    for page in shell("ls " .. out .. "/man/*"):gmatch "%S+" do
      assert.equal("", (shell("groff -man -Tutf8 -ww -z " .. page)))
    end
  end)

  it("completes commands, options and files in bash", function()
    local function complete(words)
      return (shell(([[bash -c '. %s/completions/fp8llm; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1));
        _fp8llm; echo ${COMPREPLY[@]}']]):format(out, words)))
    end
    assert.equal("quantize", complete "fp8llm qua")
    assert.equal("--scheme", complete "fp8llm quantize SRC DST --sch")
    assert.equal("README.md", complete "fp8llm inspect READ")
  end)
end)
