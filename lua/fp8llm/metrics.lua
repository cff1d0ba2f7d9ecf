--- The engines' figures as Prometheus text. Plain Lua, no HTTP in here.
local metrics = {}

-- name, type, help, member of the stats
local families = {
  {"requests_running", "gauge", "completions that hold KV pages", "running"},
  {"requests_waiting", "gauge", "requests not begun", "queued"},
  {"requests_parked", "gauge", "completions that wait for a policy", "parked"},
  {"generations", "gauge", "requests of clients not answered yet", "generations"},
  {"connections", "gauge", "connections of clients to the engine", "connections"},
  {"requests_total", "counter", "requests the engine took", "requests"},
  {"requests_finished_total", "counter", "requests that ended", "finished"},
  {"requests_refused_total", "counter", "requests refused for what they said", "refused"},
  {"requests_busy_total", "counter", "requests told to come again", "busy"},
  {"steps_total", "counter", "steps of the model", "steps"},
  {"prompt_tokens_total", "counter", "prompt tokens computed", "prompt_tokens"},
  {"cached_tokens_total", "counter", "prompt tokens found in the prefix cache", "cached_tokens"},
  {"generation_tokens_total", "counter", "tokens generated", "output_tokens"},
  {"preemptions_total", "counter", "completions that gave their pages back", "preemptions"},
  {"step_seconds_total", "counter", "seconds in steps of the model", "step_s"},
  {"schedule_seconds_total", "counter", "seconds in scheduling and bookkeeping", "schedule_s"},
}

local function label(name) return '{model="' .. name:gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"}' end

--- list: {name = model, stats = the answer to {"op": "stats"}, nil when the engine is down}, ...
function metrics.text(list)
  local out = {"# HELP fp8llm_up whether the engine answers\n# TYPE fp8llm_up gauge\n"}
  for _, m in ipairs(list) do
    out[#out + 1] = string.format("fp8llm_up%s %d\n", label(m.name), m.stats and 1 or 0)
  end
  for _, family in ipairs(families) do
    local name, kind, help, member = family[1], family[2], family[3], family[4]
    out[#out + 1] = string.format("# HELP fp8llm_%s %s\n# TYPE fp8llm_%s %s\n", name, help, name, kind)
    for _, m in ipairs(list) do
      local value = m.stats and m.stats[member]
      if value then out[#out + 1] = string.format("fp8llm_%s%s %.14g\n", name, label(m.name), value) end
    end
  end
  return table.concat(out)
end

return metrics
