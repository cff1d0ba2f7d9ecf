--- The engines' figures as Prometheus text. Plain Lua, no HTTP in here.
local metrics = {}

-- name, type, help, member of the stats
local families = {
  {"requests_running", "gauge", "completions that hold KV pages", "running"},
  {"requests_waiting", "gauge", "requests not begun", "queued"},
  {"requests_parked", "gauge", "completions that wait for a policy", "parked"},
  {"generations", "gauge", "requests of clients not answered yet", "generations"},
  {"connections", "gauge", "connections of clients to the engine", "connections"},
  {"kv_pages", "gauge", "pages of the KV pool", "kv_pages"},
  {"kv_pages_used", "gauge", "pages of the KV pool that a sequence holds", "kv_pages_used"},
  {"requests_total", "counter", "requests the engine took", "requests"},
  {"requests_finished_total", "counter", "requests that ended", "finished"},
  {"requests_refused_total", "counter", "requests refused for what they said", "refused"},
  {"requests_busy_total", "counter", "requests told to come again", "busy"},
  {"steps_total", "counter", "steps of the model", "steps"},
  {"preemptions_total", "counter", "completions that gave their pages back", "preemptions"},
  {"prompt_tokens_total", "counter", "prompt tokens computed", "prompt_tokens"},
  {"cached_tokens_total", "counter", "prompt tokens found in the prefix cache", "cached_tokens"},
  {"generation_tokens_total", "counter", "tokens generated", "output_tokens"},
  {"prefix_cache_queries_total", "counter", "pages looked for in the prefix cache", "prefix_queries"},
  {"prefix_cache_hits_total", "counter", "pages found in the prefix cache", "prefix_hits"},
  {"spec_decode_draft_tokens_total", "counter", "guessed tokens that were checked", "draft_tokens"},
  {"spec_decode_accepted_tokens_total", "counter", "guessed tokens that were right", "accepted_tokens"},
  {"schedule_seconds_total", "counter", "seconds before and after the model in steps", "schedule_s"},
  {"sample_seconds_total", "counter", "seconds choosing tokens", "sample_s"},
  {"step_seconds", "histogram", "a step", "step_s"},
  {"request_queue_time_seconds", "histogram", "submission to first row", "queue_s"},
  {"time_to_first_token_seconds", "histogram", "submission to first token", "first_token_s"},
  {"inter_token_latency_seconds", "histogram", "a token of a completion to its next", "inter_token_s"},
  {"e2e_request_latency_seconds", "histogram", "submission to end", "total_s"},
  {"policy_seconds", "histogram", "waiting for a policy, each token", "policy_s"},
}

local function label(name) return 'model="' .. name:gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"' end

local function add_value(out, name, label_text, value)
  out[#out + 1] = string.format("fp8llm_%s{%s} %.14g\n", name, label_text, value)
end

local function add_histogram(out, name, label_text, h, bounds)
  for i, bound in ipairs(bounds) do
    add_value(out, name .. "_bucket", string.format('%s,le="%.9g"', label_text, bound), h.n[i])
  end
  add_value(out, name .. "_bucket", label_text .. ',le="+Inf"', h.count)
  add_value(out, name .. "_sum", label_text, h.sum)
  add_value(out, name .. "_count", label_text, h.count)
end

--- list: {name = model, stats = the answer to {"op": "stats"}, nil when the engine is down}, ...
function metrics.text(list)
  local out = {"# HELP fp8llm_up whether the engine answers\n# TYPE fp8llm_up gauge\n"}
  for _, m in ipairs(list) do add_value(out, "up", label(m.name), m.stats and 1 or 0) end
  for _, family in ipairs(families) do
    local name, kind, help, member = family[1], family[2], family[3], family[4]
    out[#out + 1] = string.format("# HELP fp8llm_%s %s\n# TYPE fp8llm_%s %s\n", name, help, name, kind)
    for _, m in ipairs(list) do
      local value = m.stats and m.stats[member]
      if type(value) == "table" then add_histogram(out, name, label(m.name), value, m.stats.le)
      elseif value then add_value(out, name, label(m.name), value)
      end
    end
  end
  return table.concat(out)
end

return metrics
