--- What answers for people are made with, where neither the request nor the model's generation_config.json says.
-- Requests of programs, over HTTP and of engine:submit, have OpenAI's: temperature 1, top_p 1.
local json = require "fp8llm.json"

local defaults = {
  temperature = 0.7, top_p = 0.95,
  chat_tokens = 1024, -- of an answer: small models talk for ever
  text_tokens = 256, -- of a text that is continued
}

local function given(v) return v ~= nil and v ~= json.null end

--- What the request leaves open and the model, too, into the request. config: of model:generation_config();
-- tokens: how long the completion may be.
function defaults.fill(request, config, tokens)
  for _, name in ipairs {"temperature", "top_p"} do
    local greedy = name == "temperature" and config.do_sample == false
    if not given(request[name]) and not config[name] and not greedy then request[name] = defaults[name] end
  end
  if not given(request.max_tokens) and not given(request.max_completion_tokens) then
    request.max_tokens = config.max_new_tokens or tokens
  end
  return request
end

return defaults
