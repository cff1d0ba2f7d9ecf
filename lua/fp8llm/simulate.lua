--- The engine's own scheduler on a machine that is only calculated: arrivals in, times out.
local fp8llm = require "fp8llm"

local simulate = {}

local PAGE = 32 -- tokens of a KV page

-- Park and Miller's generator: the same arrivals on every Lua.
local function generator(seed)
  local state = seed % 2147483646 + 1
  return function()
    state = (16807 * state) % 2147483647
    return state / 2147483647
  end
end

local function length(n, spread, random)
  return math.max(1, math.floor(n * (1 - spread + 2 * spread * random()) + 0.5))
end

--- A list of {at, isl, osl} by time. o: requests, isl, osl, spread (0 to 1: lengths uniform in n * (1 +-
-- spread)), arrivals ("all": at once; "poisson": `rate` a second; "burst": `burst` together, `rate` a
-- second on average), seed.
function simulate.trace(o)
  local random, list, at = generator(o.seed or 1), {}, 0
  for i = 1, o.requests do
    if o.arrivals == "poisson" then
      at = at - math.log(random()) / o.rate
    elseif o.arrivals == "burst" then
      at = math.floor((i - 1) / o.burst) * o.burst / o.rate
    end
    list[i] = {at = at, isl = length(o.isl, o.spread or 0, random), osl = length(o.osl, o.spread or 0, random)}
  end
  return list
end

local function pages_of(tokens) return math.floor((tokens + PAGE - 1) / PAGE) end

local function percentiles(list)
  table.sort(list)
  local function at(p) return list[math.max(1, math.ceil(p * #list))] or 0 end
  return {p50 = at(0.5), p90 = at(0.9), p99 = at(0.99), max = at(1)}
end

-- What the scheduled rows come to; the sums that the cost of a step needs.
local function work_of(active)
  local work = {tokens = 0, sampled = 0, seen = 0, cached = 0, sequences = 0}
  for _, r in ipairs(active) do
    if r.rows > 0 then
      local after = r.length + r.rows
      work.sequences = work.sequences + 1
      work.tokens = work.tokens + r.rows
      work.sampled = work.sampled + (r.rows == r.pending and 1 or 0)
      work.seen = work.seen + r.rows * (r.length + after + 1) / 2
      work.cached = work.cached + after
    end
  end
  return work
end

local function take_arrivals(s)
  while s.trace[s.next] and s.trace[s.next].at <= s.now do
    local r = s.trace[s.next]
    s.active[#s.active + 1] = {
      arrived = r.at, known = r.isl, osl = r.osl, output = 0, running = false, length = 0, pending = r.isl, pages = 0,
    }
    s.next = s.next + 1
  end
end

-- The step is over: rows are in the cache, sequences that are through their prompt have a token.
local function advance(s, r)
  r.length, r.running = r.length + r.rows, true
  s.used = s.used - r.pages + pages_of(r.length)
  r.pages = pages_of(r.length)
  if r.length == r.known then
    r.output, r.known = r.output + 1, r.known + 1
    if not r.last then
      s.first_token[#s.first_token + 1] = s.now - r.arrived
    else
      s.inter_token[#s.inter_token + 1] = s.now - r.last
    end
    r.last = s.now
  end
  r.pending = r.known - r.length
  if r.output < r.osl then return false end
  s.used = s.used - r.pages
  s.total[#s.total + 1] = s.now - r.arrived
  return true
end

local function give_back(s, r)
  s.used, s.preemptions = s.used - r.pages, s.preemptions + 1
  r.running, r.length, r.pages, r.pending = false, 0, 0, r.known
end

-- Averages over time.
local function observe(s, seconds)
  local running = 0
  for _, r in ipairs(s.active) do running = running + (r.running and 1 or 0) end
  s.running_time = s.running_time + running * seconds
  s.queued_time = s.queued_time + (#s.active - running) * seconds
  s.kv_time = s.kv_time + s.used * seconds
  s.max_running, s.max_used = math.max(s.max_running, running), math.max(s.max_used, s.used)
end

local function step(s)
  fp8llm.schedule(s.active, {
    max_rows = s.limits.max_step_tokens, max_seqs = s.limits.max_running, max_running = s.limits.max_running,
    free_pages = s.pool - s.used, page_tokens = PAGE,
  })
  for _, r in ipairs(s.active) do
    if r.preempt then give_back(s, r) end
  end
  local work = work_of(s.active)
  if work.tokens == 0 then return false end
  local seconds = s.cost(work)
  s.now, s.busy, s.steps = s.now + seconds, s.busy + seconds, s.steps + 1
  s.tokens, s.output = s.tokens + work.tokens, s.output + work.sampled
  local kept = {}
  for _, r in ipairs(s.active) do
    if r.rows == 0 or not advance(s, r) then kept[#kept + 1] = r end
  end
  s.active = kept
  observe(s, seconds)
  return true
end

--- Serve a trace. limits: max_running, max_step_tokens, kv_tokens; cost(work) -> seconds, where work has
-- tokens, sampled, seen, cached, sequences. Returns a report, or nil and a message when a request
-- cannot be served at all.
function simulate.run(trace, limits, cost)
  local s = {
    trace = trace, limits = limits, cost = cost, pool = math.floor(limits.kv_tokens / PAGE), next = 1, active = {},
    now = 0, busy = 0, steps = 0, tokens = 0, output = 0, used = 0, preemptions = 0, first_token = {},
    inter_token = {}, total = {}, running_time = 0, queued_time = 0, kv_time = 0, max_running = 0, max_used = 0,
  }
  while s.next <= #trace or #s.active > 0 do
    take_arrivals(s)
    if not step(s) then
      if not trace[s.next] then
        return nil, string.format("a request needs more than the %d tokens of the KV pool", limits.kv_tokens)
      end
      s.now = math.max(s.now, trace[s.next].at)
    end
  end
  local e2e = percentiles(s.total)
  return {
    requests = #trace, seconds = s.now, busy = s.busy / s.now, steps = s.steps, step_s = s.busy / s.steps,
    output_tokens_per_second = s.output / s.now, tokens_per_second = s.tokens / s.now,
    rows_per_step = s.tokens / s.steps, running = s.running_time / s.busy, max_running = s.max_running,
    queued = s.queued_time / s.busy, kv_used = s.kv_time / s.busy / s.pool, max_kv_used = s.max_used / s.pool,
    preemptions = s.preemptions, first_token_s = percentiles(s.first_token),
    inter_token_s = percentiles(s.inter_token), total_s = e2e, finish_ratio = e2e.max / e2e.p50,
  }
end

return simulate
