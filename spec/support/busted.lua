-- Runs busted on the Lua this script is started with, on the module built for it:
--     luajit spec/support/busted.lua [busted's options] [FILE...]      (default: spec/lua)
local version = _VERSION:match "%d%.%d"
package.cpath = (version == "5.1" and "build/?.so;" or "build/lua" .. version .. "/?.so;") .. package.cpath
package.path = "lua/?.lua;" .. package.path

local named = false
for _, a in ipairs(arg) do named = named or a:match "^spec/" end
if not named then table.insert(arg, "spec/lua") end
require "busted.runner" {standalone = false}
