-- Runs busted on the Lua this script is started with, on the module built for it:
--     luajit spec/support/busted.lua [--build=DIR] [busted's options] [FILE...]
-- DIR is another build than build/; without a FILE all of spec/lua runs.
local build = arg[1] and arg[1]:match "^%-%-build=(.+)" or "build"
if build ~= "build" then table.remove(arg, 1) end
dofile "spec/support/paths.lua" (build)
-- In place of busted's own, which are relative.
table.insert(arg, 1, "--lpath=" .. package.path:match "^[^;]+")
table.insert(arg, 2, "--cpath=" .. package.cpath:match "^[^;]+")

local named = false
for _, a in ipairs(arg) do named = named or a:match "^spec/" end
if not named then table.insert(arg, "spec/lua") end
require "busted.runner" {standalone = false}
