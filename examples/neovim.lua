-- An answer that comes into a Neovim buffer while one goes on typing: libuv calls when there is something to read.
--     nvim --headless -u NONE --cmd "let g:model = 'MODEL'" -c "luafile examples/neovim.lua" -c qa!
-- luacheck: globals vim
local fp8llm = require "fp8llm"
local uv = vim.uv or vim.loop
local model = assert(fp8llm.load(vim.g.model or "build/models/SmolLM2-135M-Instruct-FP8"))

local function ask(question, buffer, on_end)
  local answer = assert(model:submit {text = question, temperature = 0, max_tokens = 100})
  local poll, text = uv.new_poll(assert(answer:fd())), ""
  local function show() vim.api.nvim_buf_set_lines(buffer, 0, -1, false, vim.split(text, "\n")) end
  poll:start("r", function()
    local event = answer:poll()
    while event do
      text, event = text .. event.d, answer:poll()
    end
    vim.schedule(show)
    if event == nil then -- false would be: more will come
      poll:close()
      vim.schedule(on_end)
    end
  end)
end

local done = false
ask(vim.g.question or "What is the capital of France?", 0, function() done = true end)
vim.wait(60000, function() return done end, 10)
io.write(table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, false), "\n"), "\n")
