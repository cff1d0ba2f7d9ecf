--- Classes in Lua with the manners of those in C: a method raises by its name when it is called on another object, or
-- on one whose member `closed` is true; close may be called again.
local misuse = require "fp8llm.misuse"

--- name: "answer"; methods: a table of functions and metamethods, which becomes the metatable that is returned.
return function(name, methods)
  methods.__index = methods
  methods.__name = "fp8llm." .. name
  for key, method in pairs(methods) do
    local who = name .. ":" .. key
    if type(method) == "function" and not key:find "^__" then
      methods[key] = function(self, ...)
        if getmetatable(self) ~= methods then
          misuse(who, "bad self (fp8llm.%s expected, got %s; is it called with a colon?)", name, type(self))
        end
        if self.closed and key ~= "close" then misuse(who, "the %s is closed", name) end
        return method(self, ...)
      end
    end
  end
  return methods
end
