--- The engine process of `fp8llm serve`: one model behind a unix socket, until SIGTERM or SIGINT.
local common = require "fp8llm.cmd.common"
local printable = require "fp8llm.printable"
local must = common.must

local function log(...) io.stderr:write("fp8llm: ", printable(string.format(...)), "\n") end

-- The operator's module, a file X.lua or what require finds: function(step, model), which answers the step, or
-- {step = function(step, model), logits = true} when it works on whole rows.
local function load_policy(module)
  local policy = module:match "%.lua$" and assert(loadfile(module))() or require(module)
  return type(policy) == "function" and {step = policy} or policy
end

-- Of NAME=MODULE each -> {name = function}, names, names of those for whole rows.
local function load_policies(list)
  local policies, names, rows = {}, {}, {}
  for _, text in ipairs(list or {}) do
    local name, module = text:match "^([%w_.-]+)=(.+)$"
    if not name then common.usage("--policy: NAME=MODULE expected, got '%s'", text) end
    local ok, policy = pcall(load_policy, module)
    if not ok then common.fail("--policy %s: %s", name, policy) end
    if type(policy) ~= "table" or type(policy.step) ~= "function" then
      common.fail("--policy %s: %s returns no function", name, module)
    end
    policies[name] = policy.step
    names[#names + 1] = name
    if policy.logits then rows[#rows + 1] = name end
  end
  return policies, names, rows
end

-- A policy that fails ends its own request, nobody else's.
local function answer(policies, step, model)
  local name = step:policy()
  local ok, trouble = pcall(policies[name], step, model)
  if not ok then log("policy %s: %s", name, tostring(trouble)) end
  step:fail()
end

--- options: those of the command, see fp8llm.cmd.serve; names: what clients may call the model.
return function(dir, socket, names, opt)
  local policies, policy_names, row_policies = load_policies(opt.policy)
  local gpu = (opt.device or ""):match "^cuda"
  opt.kv_tokens = opt.kv_tokens or not gpu and 4 * (opt.context or 8192) or nil
  local model = common.load(dir, opt)
  local engine = must(model:engine {
    max_running = opt.max_running, max_queued = opt.max_queued, policy_timeout_ms = opt.policy_timeout_ms,
    priority_between_keys = opt.priority_between_keys,
  })
  must(engine:listen(socket, {
    names = names, policies = policy_names, row_policies = row_policies, signals = true,
    notify = os.getenv "NOTIFY_SOCKET", drain_ms = opt.drain and opt.drain * 1000,
    temperature_default = opt.temperature_default,
  }))
  log("%s listens on %s", names[1], socket)
  if opt.announce then common.write(string.format("ready: %s, model %s\n", opt.announce, printable(names[1]))) end
  for step in engine:steps() do answer(policies, step, model) end
  engine:close()
  log("%s has ended", names[1])
end
