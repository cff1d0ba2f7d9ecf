std = "max"
max_line_length = 120
files["spec/lua"] = { std = "max+busted" }
files["spec/nginx"] = { std = "max+busted" }
files["lua/fp8llm/meta.lua"] = { ignore = { "211", "212", "241" } } -- signatures only
files["rockspec/*.rockspec"] = { std = "rockspec" }
files["examples/nginx"] = { std = "ngx_lua" }
files["lua/resty"] = { std = "ngx_lua" }
