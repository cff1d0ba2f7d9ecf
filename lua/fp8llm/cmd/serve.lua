local common = require "fp8llm.cmd.common"
local serve_engine = require "fp8llm.serve_engine"

local M = {
  summary = "serve models to other programs",
  usage = "serve MODEL --listen unix:PATH",
  text = [[
With --listen: one engine on a unix socket, for nginx (examples/nginx) and lua/resty/fp8llm.lua.
The socket appears when the model is loaded. Ends with status 0 on SIGTERM and SIGINT, when
generations have finished or --drain is over.]],
  options = common.join(common.model_options, {
    {"listen", "string", "unix:PATH", "be the engine on this socket"},
    {"served-model-name", "list", "NAME", "what clients call the model (default: its directory's name)"},
    {"kv-tokens", "integer", "N", "tokens of all sequences together (default: four times --context)"},
    {"max-running", "integer", "N", "completions computed at a time (default 256)"},
    {"max-queued", "integer", "N", "requests that may wait; further ones are told to come again (default 1024)"},
    {"policy", "list", "NAME=MODULE", "a sampling policy in Lua that clients may choose by name"},
    {"policy-timeout-ms", "integer", "MS", "silence of a policy that ends its request (default 30000)"},
    {"drain", "integer", "S", "seconds a stop waits for generations (default 30)"},
  }),
}

local function base_name(path) return path:gsub("/+$", ""):match "[^/]+$" or path end

function M.run(opt, words)
  local name = common.argument(words, 1, "MODEL")
  common.no_more(words, 1)
  local socket = opt.listen and opt.listen:match "^unix:(.+)$"
  if not socket then common.usage("--listen: unix:PATH expected, got '%s'", tostring(opt.listen)) end
  serve_engine(name, socket, opt.served_model_name or {base_name(name)}, opt)
end

return M
