rockspec_format = "3.0"
package = "fp8llm"
version = "scm-1"
-- `luarocks make` builds the checkout it is run in and fetches nothing.
source = { url = "git+file://." }
description = {
  summary = "FP8 Llama inference as a Lua library",
  detailed = "Loads FP8 (E4M3) and BF16 Llama checkpoints of the Hugging Face layout and runs them from LuaJIT or Lua 5.1 to 5.4.",
  license = "Apache-2.0",
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.1, < 5.5" }
build = {
  type = "make",
  build_target = "all",
  install_target = "install-lua",
  build_variables = { LUA_INCDIR = "$(LUA_INCDIR)" },
  install_variables = {
    LUA_INCDIR = "$(LUA_INCDIR)",
    LIBDIR = "$(LIBDIR)",
    LUADIR = "$(LUADIR)",
    BINDIR = "$(BINDIR)",
  },
}
test = { type = "command", command = "make test" }
