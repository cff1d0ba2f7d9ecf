-- Every command on a tiny random model: what it prints, not what the model says.
describe("the command on a model", function()
  local cli = dofile "spec/support/run.lua" "lua/fp8llm/cli.lua"
  local files = dofile "spec/support/files.lua"
  local tiny = dofile "spec/support/tiny_model.lua"
  local json = require "fp8llm.json"
  local dir = "build/spec/cli"
  tiny.write(dir, {seed = 3, quant = "fp8-static", vocab = 266})
  local bf16 = "build/spec/cli-bf16"
  tiny.write(bf16, {seed = 3, vocab = 266})

  local function succeed(...)
    local out, err, status = cli(...)
    if status ~= 0 then error("status " .. tostring(status) .. ": " .. err, 2) end
    return out, err
  end

  it("chat --message prints the answer, and the speeds on stderr", function()
    local out, err = succeed("chat", dir, "--message", "hello", "--temperature", "0", "--max-tokens", "5")
    assert.is_true(#out >= 1 and out:sub(-1) == "\n")
    assert.is_true(err:find "^prompt %d+ tokens, [%d.]+ tokens/s; decode %d+ tokens, [%d.]+ tokens/s\n$" ~= nil)
  end)

  it("chat --json prints one object, the same for the same seed", function()
    local words = {"chat", dir, "--message", "hello", "--seed=7", "--temperature=1", "--max-tokens=6", "--json"}
    local function run() return json.decode((succeed((table.unpack or unpack)(words)))) end -- luacheck: ignore
    local a, b = run(), run()
    assert.same(a.ids, b.ids)
    assert.equal(a.usage.completion_tokens, #a.ids)
    assert.equal("string", type(a.text))
    assert.is_true(a.finish_reason == "length" or a.finish_reason == "stop")
  end)

  it("chat keeps a conversation, and /reset forgets it", function()
    local input = {input = "one\ntwo\n/reset\n\none\n/exit\nnot read\n"}
    local out, err = succeed(input, "chat", dir, "--temperature", "0", "--max-tokens", "3", "--system", "be brief")
    local turns = {}
    for prompt in err:gmatch "prompt (%d+) tokens" do turns[#turns + 1] = tonumber(prompt) end
    assert.equal(3, #turns)
    assert.is_true(turns[2] > turns[1])
    assert.equal(turns[1], turns[3])
    assert.is_true(err:find("(%d+ known)", 1, false) ~= nil)
    assert.is_nil(out:find "> ")
  end)

  it("generate continues --prompt or stdin", function()
    local from_option = succeed("generate", dir, "--prompt", "abc", "--temperature", "0", "--max-tokens", "4")
    local from_stdin = succeed({input = "abc"}, "generate", dir, "--temperature", "0", "--max-tokens", "4")
    assert.equal(from_option, from_stdin)
    local echoed = succeed("generate", dir, "--prompt", "abc", "--temperature", "0", "--max-tokens", "4", "--echo")
    assert.equal("abc" .. from_option, echoed)
  end)

  it("generate refuses an empty prompt", function()
    local _, err, status = cli("generate", dir, "--prompt", "")
    assert.equal(1, status)
    assert.equal("fp8llm: the prompt is empty\n", err)
  end)

  it("names what is wrong with a setting", function()
    local _, err, status = cli("generate", dir, "--prompt", "a", "--top-p", "2")
    assert.equal(1, status)
    assert.is_true(err:find "^fp8llm: top_p: need a number in [^\n]+, got 2\n$" ~= nil)
  end)

  it("tokenize and back", function()
    local text = "Hello, wörld\n"
    local ids = succeed("tokenize", dir, text, "--ids")
    assert.equal(text .. "\n", (succeed("tokenize", dir, ids, "--decode")))
    local object = json.decode((succeed({input = text}, "tokenize", dir, "--json")))
    assert.equal(ids, table.concat(object.ids, " ") .. "\n")
    assert.equal(object.count .. "\n", (succeed("tokenize", dir, text, "--count")))
    local _, lines = succeed("tokenize", dir, text):gsub("\n", "")
    assert.equal(object.count, lines)
  end)

  it("tokenize --chat goes through the template", function()
    local file = "build/spec/cli-chat.json"
    local f = assert(io.open(file, "w"))
    f:write '[{"role": "user", "content": "hi"}]'
    f:close()
    local plain = succeed("tokenize", dir, "--chat", file, "--count")
    local open = succeed("tokenize", dir, "--chat", file, "--generation-prompt", "--count")
    assert.is_true(tonumber(open) > tonumber(plain))
    f = assert(io.open(file, "w"))
    f:write '[{'
    f:close()
    local _, err, status = cli("tokenize", dir, "--chat", file)
    assert.equal("fp8llm: " .. file .. ": messages: line 1, column 3: object key expected\n", err)
    assert.equal(1, status)
  end)

  it("tokenize --tools gives them to the template, in their order", function()
    local chat = files.write("build/spec/cli-chat.json", '[{"role": "user", "content": "hi"}]')
    local tools = files.write("build/spec/cli-tools.json", '\n[{"z": 1, "a": {"y": 1.0, "b": null}}]')
    local with_tools = "build/spec/cli-template"
    tiny.write(with_tools, {seed = 3, quant = "fp8-static", vocab = 266})
    files.write(with_tools .. "/chat_template.jinja", "{{ tools|tojson }}")
    local ids = succeed("tokenize", with_tools, "--chat", chat, "--tools", tools, "--ids")
    assert.equal('[{"z": 1, "a": {"y": 1.0, "b": null}}]\n', (succeed("tokenize", with_tools, ids, "--decode")))
    ids = succeed("tokenize", with_tools, "--chat", chat, "--ids")
    assert.equal("null\n", (succeed("tokenize", with_tools, ids, "--decode")))
    local _, err, status = cli("tokenize", with_tools, "--chat", chat, "--tools", files.write(tools, "{}"))
    assert.equal("fp8llm: " .. tools .. ": a JSON list of tools expected\n", err)
    assert.equal(1, status)
    _, err = cli("tokenize", with_tools, "--chat", chat, "--tools", files.write(tools, "[{"))
    assert.equal("fp8llm: " .. tools .. ": tools: line 1, column 3: object key expected\n", err)
  end)

  it("inspect tells shape, types and tensors", function()
    local out = succeed("inspect", dir, "--tensors")
    assert.is_true(out:find("LlamaForCausalLM", 1, true) ~= nil)
    assert.is_true(out:find "quantization +autofp8, activations static" ~= nil)
    assert.is_true(out:find "model%.norm%.weight +BF16 +%[64%]" ~= nil)
    assert.is_true(out:find "  2 x up_proj +F8_E4M3 " ~= nil)
    assert.is_true(succeed("inspect", dir, "--layers", "--context", "64"):find "  1 up_proj +F8_E4M3 " ~= nil)
    local object = json.decode((succeed("inspect", dir, "--json")))
    assert.is_nil(object.tensors)
    assert.equal(64, object.config.hidden_size)
    assert.equal(14, object.types.F8_E4M3.tensors)
  end)

  it("quantize writes a checkpoint that chat takes, and refuses to overwrite it", function()
    local dst = "build/spec/cli-quantized"
    os.execute("rm -rf " .. dst)
    local jsonl = "build/spec/cli.jsonl"
    local f = assert(io.open(jsonl, "w"))
    f:write('{"messages": [{"role": "user", "content": "hello"}]}\n', '{"text": "a b c"}\n')
    f:close()
    local out = succeed("quantize", bf16, dst, "--scheme", "fp8-static", "--calibrate", jsonl)
    assert.is_true(out:find("14 linears fp8-static, calibrated with 2 conversations", 1, true) ~= nil)
    succeed("chat", dst, "--message", "hello", "--max-tokens", "2")
    local _, err, status = cli("quantize", bf16, dst, "--scheme", "fp8-static", "--calibrate", jsonl)
    assert.equal(1, status)
    assert.is_true(err:find(dst, 1, true) ~= nil)
  end)

  it("eval perplexity counts every token but the first, whatever the window", function()
    local text = files.write("build/spec/cli.txt", ("The quick brown fox jumps over the lazy dog. "):rep(8))
    local tokens = tonumber((succeed("tokenize", dir, files.read(text), "--count", "--no-add")))
    local function run(...) return json.decode((succeed("eval", "perplexity", dir, "--text", text, "--json", ...))) end
    local function measured(report) return report.results[1].metrics.perplexity, report.results[1].n end
    local whole, counted = measured(run "--window=500")
    assert.equal(tokens - 1, counted)
    local strided
    strided, counted = measured(run("--window", "100", "--stride", "10"))
    assert.equal(tokens - 1, counted)
    assert.is_true(math.abs(strided / whole - 1) < 0.2)
    local compared = run("--baseline", bf16, "--max-tokens", "50")
    local base
    base, counted = measured(compared.baseline)
    assert.equal(49, counted)
    assert.is_true(math.abs(compared.recovery[1].recovery_percent - 100 * base / measured(compared)) < 1e-6)
  end)

  it("eval perplexity with stride 1 is the mean over tokens with window - 1 before each", function()
    local fp8llm = require "fp8llm"
    local model = assert(fp8llm.load(dir, {context = 64}))
    local text = "build/spec/cli.txt"
    local ids = assert(model:tokenizer():encode(files.read(text)))
    local sum = 0
    for i = 2, 12 do
      local before = {}
      for k = math.max(1, i - 4), i do before[#before + 1] = ids[k] end
      local seq = assert(model:sequence())
      sum = sum + assert(seq:score(before)):get(#before)
      seq:close()
    end
    model:close()
    local out = succeed("eval", "perplexity", dir, "--text", text, "--json", "--window=5", "--stride=1",
      "--max-tokens=12")
    assert.is_true(math.abs(json.decode(out).results[1].metrics.perplexity / math.exp(-sum / 11) - 1) < 1e-6)
  end)

  it("bench decode relates speed to the bandwidth of the same run", function()
    local r = json.decode((succeed("bench", "decode", dir, "--runs", "2", "--tokens", "4", "--prompt", "4", "--json")))
    assert.equal(2, #r.runs)
    assert.is_true(r.tokens_per_second > 0 and r.read_bandwidth > 0)
    assert.is_true(math.abs(r.fraction - r.bytes_per_second / r.read_bandwidth) < 1e-6)
  end)

  it("bench decode compares number formats of dummy weights", function()
    local r = json.decode((succeed("bench", "decode", dir, "--load-format", "dummy", "--dtype", "bf16,fp8",
      "--runs", "1", "--tokens", "2", "--prompt", "2", "--context", "64", "--json")))
    assert.equal(2, #r.measured)
    assert.equal("autofp8 static", r.measured[2].quantization)
    assert.is_true(r.measured[2].bytes_per_token < r.measured[1].bytes_per_token)
    local out = succeed("bench", "decode", "--shape", "smollm2-135m", "--dtype", "fp8,bf16", "--runs", "1",
      "--tokens", "1", "--prompt", "1", "--context", "16")
    assert.is_true(out:find("ratio      bf16 runs at [%d.]+ times the speed of fp8") ~= nil, out)
    for _, wrong in ipairs {{dir, "--dtype", "fp8"}, {"--shape", "llama-9"},
      {"--shape", "smollm2-135m", "--dtype", "q4"}} do
      local _, err, status = cli("bench", "decode", wrong[1], wrong[2], wrong[3], wrong[4])
      assert.is_true(status ~= 0 and #err > 0)
    end
  end)

  it("bench throughput relates many requests to one", function()
    local r = json.decode((succeed("bench", "throughput", dir, "--requests", "6", "--isl", "20", "--osl", "8", "--runs",
      "1", "--json")))
    assert.equal(1, #r.runs)
    assert.is_true(math.abs(r.ratio * r.one_tokens_per_second / r.tokens_per_second - 1) < 1e-6)
    assert.is_true(r.finish_ratio >= 1 and r.flop_peak > r.flops and r.flops > 0)
    assert.is_true(r.schedule_fraction > 0 and r.calculated_tokens_per_second > 0)
    assert.is_true(math.abs(r.processed_tokens_per_second / r.tokens_per_second - 27 / 8) < 1e-6)
  end)

  it("bench ops lists every op of a token and of a prompt", function()
    local r = json.decode((succeed("bench", "ops", dir, "--tokens", "4", "--json")))
    local sum, calls = r.decode.outside, {}
    for _, t in ipairs(r.decode.ops) do sum, calls[t.op] = sum + t.part, t.calls end
    assert.is_true(math.abs(sum - 1) < 1e-6)
    assert.equal(2, calls.attend)
    assert.equal(5, calls.norm)
    assert.equal(#r.decode.ops, #r.prefill.ops)
  end)

  it("bench startup runs a process of its own", function()
    local r = json.decode((succeed("bench", "startup", dir, "--runs", "1", "--json")))
    assert.is_true(r.first_token_seconds > r.load_seconds and r.process_seconds > 0)
    assert.is_true(math.abs(r.bytes_per_second * r.load_seconds / r.weight_bytes - 1) < 1e-6)
  end)

  it("bench prefix finds the shared pages", function()
    local r = json.decode((succeed("bench", "prefix", dir, "--isl", "200", "--runs", "2", "--json")))
    assert.equal(192, r.cached_tokens)
    assert.is_true(r.ratio > 0)
  end)

  it("bench policy tells what a policy adds and what the others keep", function()
    local r = json.decode((succeed("bench", "policy", dir, "--tokens", "20", "--osl", "3", "--runs", "1", "--json")))
    assert.equal(266, r.vocab_size)
    assert.is_true(r.plain_s > 0 and r.plain_s < 1 and r.candidates_s < 1 and r.rows_s < 1)
    assert.is_true(r.handover_s > 0 and r.handover_s < 1)
    assert.is_true(r.kept > 0 and r.slow_tokens_per_second > 0)
  end)

  it("bench prefill measures lengths that fit", function()
    local r = json.decode((succeed("bench", "prefill", dir, "--runs", "1", "--context", "100", "--json")))
    assert.equal(2, #r.prefill)
    assert.equal(64, r.prefill[2].prompt_tokens)
    local _, err, status = cli("bench", "prefill", dir, "--length", "600")
    assert.equal("fp8llm: --length 600: the context holds 512 tokens\n", err)
    assert.equal(1, status)
  end)

  it("bench tokenizer measures each kind of text", function()
    local r = json.decode((succeed("bench", "tokenizer", dir, "--runs", "1", "--json")))
    assert.equal(5, #r.tokenizer)
    for _, one in ipairs(r.tokenizer) do assert.is_true(one.encode_bytes_per_second > 0) end
    local _, err, status = cli("bench", "tokenizer", dir, "--runs", "1", "--python", "no-such-python")
    assert.equal("fp8llm: no-such-python: no Python with the package tokenizers\n", err)
    assert.equal(1, status)
  end)
end)
