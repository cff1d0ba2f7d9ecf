--- Makes what people read beside the program of what the program says itself: man pages and completions of the command
-- of its --help, and the reference of the Lua interface, as a man page and as HTML, of lua/fp8llm/meta.lua.
--
--   luajit rockspec/reference.lua OUT          (with LUA_PATH=lua/?.lua and the module in LUA_CPATH)
--
-- writes OUT/man/fp8llm.1, fp8llm-COMMAND.1 and fp8llm.3lua, OUT/completions/fp8llm (bash), OUT/reference.html.
local common = require "fp8llm.cmd.common"
local fp8llm = require "fp8llm"

local version = fp8llm._VERSION
local out = assert(arg[1], "usage: reference.lua OUT")

local function write(name, text)
  local file = assert(io.open(out .. "/" .. name, "wb"))
  assert(file:write(text))
  assert(file:close())
end

-- Man pages of the command. --------------------------------------------------------------------

-- Text as roff shows it: no backslash, dot or quote of it means anything.
local function roff(text)
  return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("^[.']", "\\&%0"):gsub("\n([.'])", "\n\\&%1"))
end

local function head(name, section, summary)
  return ('.TH %s %s "" "fp8llm %s"\n.SH NAME\n%s \\- %s\n'):format(name:upper(), section, version, roff(name),
    roff(summary))
end

-- Lines as they stand: they have columns and examples.
local function as_it_stands(text) return ".nf\n" .. roff(text) .. "\n.fi\n" end

local function option_text(option)
  local argument = option[3] ~= "" and " \\fI" .. roff(option[3]) .. "\\fR" or ""
  local words = type(option[2]) == "table" and " One of " .. table.concat(option[2], ", ") .. "." or ""
  return ".TP\n\\fB\\-\\-" .. roff(option[1]) .. "\\fR" .. argument .. "\n" .. roff(option[4]) .. roff(words) .. "\n"
end

local function command_page(name, command)
  local parts = {
    head("fp8llm-" .. name, 1, command.summary), ".SH SYNOPSIS\n", as_it_stands("fp8llm " .. command.usage),
    ".SH DESCRIPTION\n", as_it_stands(command.text), ".SH OPTIONS\n",
  }
  for _, option in ipairs(command.options) do parts[#parts + 1] = option_text(option) end
  parts[#parts + 1] = ".SH SEE ALSO\n.BR fp8llm (1)\n"
  return table.concat(parts)
end

local function main_page(commands)
  local parts = {
    head("fp8llm", 1, "FP8 Llama inference on the command line"),
    ".SH SYNOPSIS\n.B fp8llm\n.I COMMAND\n[words and options]\n.br\n.B fp8llm\n.I COMMAND\n.B \\-\\-help\n.br\n",
    ".B fp8llm \\-\\-version\n.SH COMMANDS\n",
  }
  for _, name in ipairs(common.commands) do
    parts[#parts + 1] = ".TP\n.BR fp8llm\\-" .. roff(name) .. " (1)\n" .. roff(commands[name].summary) .. "\n"
  end
  parts[#parts + 1] = ".SH SEE ALSO\n.BR fp8llm (3lua)\n"
  return table.concat(parts)
end

-- Completions. ---------------------------------------------------------------------------------

local function completions(commands)
  local cases = {}
  for _, name in ipairs(common.commands) do
    local words = {"--help"}
    for _, option in ipairs(commands[name].options) do words[#words + 1] = "--" .. option[1] end
    cases[#cases + 1] = ("        %s) words=%q ;;"):format(name, table.concat(words, " "))
  end
  return ([[
# Completions of fp8llm for bash: words and options of the command, else files.
_fp8llm() {
    local word=${COMP_WORDS[COMP_CWORD]} words=
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "%s --help --version" -- "$word"))
        return
    fi
    case $word in
    -*)
        case ${COMP_WORDS[1]} in
%s
        esac
        COMPREPLY=($(compgen -W "$words" -- "$word"))
        ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}
complete -o filenames -F _fp8llm fp8llm
]]):format(table.concat(common.commands, " "), table.concat(cases, "\n"))
end

-- The Lua interface. ---------------------------------------------------------------------------

-- Lines that a comment of several lines adds to its last part.
local function add(list, key, text)
  local last = list[#list]
  if last then last[key] = last[key] .. " " .. text end
end

local readers = {
  class = function(item, text) item.class, item.doc_of = text, nil end,
  field = function(item, text)
    local name, kind = text:match "^(%S+)%s+(.*)$"
    item.fields[#item.fields + 1] = {name = name, text = kind}
  end,
  param = function(item, text)
    local name, kind = text:match "^(%S+)%s+(.*)$"
    item.params[#item.params + 1] = {name = name, text = kind}
  end,
  ["return"] = function(item, text) item.returns[#item.returns + 1] = {name = "", text = text} end,
  alias = function(item, text) item.alias = text end,
}

-- Where the words of a line that continues the one before it go.
local function continue(item, text)
  if item.last == "field" then return add(item.fields, "text", text) end
  if item.last == "param" then return add(item.params, "text", text) end
  if item.last == "return" then return add(item.returns, "text", text) end
  item.doc[#item.doc + 1] = text
end

local function read_comment(item, line)
  local tag, text = line:match "^%-%-%-@(%a+)%s*(.*)$"
  if tag and readers[tag] then
    readers[tag](item, text)
    item.last = tag
  elseif not tag then
    continue(item, (line:gsub("^%-%-%-? ?", "")))
  end
end

-- The file's preface, and its items: classes with their fields, functions, aliases, in order.
local function read_meta(path)
  local preface, items, item = {}, {}, nil
  for line in io.lines(path) do
    if line:find "^%-%-%-" and not line:find "^%-%-%-@meta" then
      item = item or {doc = {}, fields = {}, params = {}, returns = {}}
      read_comment(item, line)
    elseif item then
      item.signature = line:match "^function (.*) end%s*$"
      items[#items + 1], item = item, nil
    elseif line:find "^function .* end%s*$" then
      local signature = line:match "^function (.*) end"
      items[#items + 1] = {doc = {}, fields = {}, params = {}, returns = {}, signature = signature}
    elseif line:find "^%-%- " and not items[1] then
      preface[#preface + 1] = line:sub(4)
    elseif line == "--" and not items[1] then
      preface[#preface + 1] = ""
    end
  end
  if item then items[#items + 1] = item end
  return table.concat(preface, "\n"), items
end

local function title_of(item) return item.signature or item.class or item.alias end

local function library_page(preface, items)
  local parts = {head("fp8llm", "3lua", "FP8 Llama inference as a Lua library"), ".SH DESCRIPTION\n",
    as_it_stands(preface), ".SH INTERFACE\n"}
  for _, item in ipairs(items) do
    parts[#parts + 1] = ".SS " .. roff(title_of(item)) .. "\n" .. roff(table.concat(item.doc, "\n")) .. "\n"
    for _, list in ipairs {item.params, item.fields, item.returns} do
      for _, part in ipairs(list) do
        local name = part.name ~= "" and "\\fB" .. roff(part.name) .. "\\fR " or "returns "
        parts[#parts + 1] = ".TP\n" .. name .. "\n" .. roff(part.text) .. "\n"
      end
    end
  end
  return table.concat(parts)
end

local escapes = {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;"}
local function html(text) return (text:gsub('[&<>"]', escapes):gsub("`([^`\n]+)`", "<code>%1</code>")) end
local function anchor(item) return (title_of(item):gsub("%W+", "-"):gsub("%-$", "")) end

local function html_item(item)
  local parts = {('<section id="%s">\n<h2><code>%s</code></h2>\n'):format(anchor(item), html(title_of(item)))}
  if item.doc[1] then parts[#parts + 1] = "<p>" .. html(table.concat(item.doc, "\n")) .. "</p>\n" end
  for _, group in ipairs {{"Parameters", item.params}, {"Fields", item.fields}, {"Returns", item.returns}} do
    if group[2][1] then parts[#parts + 1] = "<table>\n<caption>" .. group[1] .. "</caption>\n" end
    for _, part in ipairs(group[2]) do
      parts[#parts + 1] = ("<tr><td><code>%s</code></td><td>%s</td></tr>\n"):format(html(part.name), html(part.text))
    end
    if group[2][1] then parts[#parts + 1] = "</table>\n" end
  end
  parts[#parts + 1] = "</section>\n"
  return table.concat(parts)
end

local function html_page(preface, items)
  local list, sections = {}, {}
  for i, item in ipairs(items) do
    list[i] = ('<li><a href="#%s"><code>%s</code></a></li>\n'):format(anchor(item), html(title_of(item)))
    sections[i] = html_item(item)
  end
  return ([[
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>fp8llm %s: the Lua interface</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; }
pre { overflow: auto; background: #8881; padding: .5rem; }
h2 { font-size: 1.1rem; border-top: 1px solid #8886; padding-top: .5rem; overflow-wrap: anywhere; }
caption { text-align: left; font-weight: bold; }
td { vertical-align: top; padding: .1rem .8rem .1rem 0; }
nav ul { columns: 18rem; padding-left: 1rem; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { html { color-scheme: dark; } }
</style>
<h1>fp8llm %s: the Lua interface</h1>
<pre>%s</pre>
<nav aria-label="Contents">
<ul>
%s</ul>
</nav>
%s</html>
]]):format(version, version, html(preface), table.concat(list), table.concat(sections))
end

-- ----------------------------------------------------------------------------------------------

assert(os.execute(("mkdir -p '%s/man' '%s/completions'"):format(out, out)))
local commands = {}
for _, name in ipairs(common.commands) do
  commands[name] = require("fp8llm.cmd." .. name)
  write("man/fp8llm-" .. name .. ".1", command_page(name, commands[name]))
end
write("man/fp8llm.1", main_page(commands))
write("completions/fp8llm", completions(commands))
local preface, items = read_meta "lua/fp8llm/meta.lua"
write("man/fp8llm.3lua", library_page(preface, items))
write("reference.html", html_page(preface, items))
