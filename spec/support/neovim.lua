-- Runs a script as Neovim would, with the little of it that examples/neovim.lua uses: for machines without one.
--     luajit spec/support/neovim.lua SCRIPT MODEL
local socket = require "socket"

local scheduled, watched, lines = {}, {}, {""}

local function once(seconds)
  local sources = {}
  for handle in pairs(watched) do sources[#sources + 1] = handle end
  for _, handle in ipairs((socket.select(sources, nil, seconds))) do
    if watched[handle] then handle.callback(nil, "r") end
  end
  local todo = scheduled
  scheduled = {}
  for _, fn in ipairs(todo) do fn() end
end

local poll = {}
poll.__index = poll
function poll:getfd() return self.fd end
function poll:start(_, callback) self.callback, watched[self] = callback, true end
function poll:close() watched[self] = nil end

vim = { -- luacheck: globals vim
  g = {model = arg[2]},
  loop = {new_poll = function(fd) return setmetatable({fd = fd}, poll) end},
  schedule = function(fn) scheduled[#scheduled + 1] = fn end,
  split = function(text, by)
    local out = {}
    for part in (text .. by):gmatch("(.-)" .. by) do out[#out + 1] = part end
    return out
  end,
  wait = function(_, done) while not done() do once(0.01) end end,
  api = {
    nvim_buf_set_lines = function(_, _, _, _, new) lines = new end,
    nvim_buf_get_lines = function() return lines end,
  },
}

dofile(arg[1])
