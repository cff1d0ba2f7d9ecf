-- Says "gpu: NAME", or why nothing can run on one.
local fp8llm = require "fp8llm"
local t = fp8llm.tensor("f32", {1, 1})
local d, message = t:to "cuda"
if not d then
  print(message)
  return
end
print("gpu: " .. tostring(d:device()))
