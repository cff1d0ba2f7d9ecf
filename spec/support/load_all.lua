-- Loads each directory and says how that went; warnings go to stderr.
local fp8llm = require "fp8llm"
for _, dir in ipairs(arg) do
  local model, message = fp8llm.load(dir, {context = 64})
  print(dir .. " " .. (model and "ok" or message))
  if model then model:close() end
end
