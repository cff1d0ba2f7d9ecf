#!/bin/sh
# The command fp8llm.  It looks for module and Lua files relative to itself: in a checkout it
# lies in build/ beside fp8llm.so, installed it lies in PREFIX/bin.  LuaJIT where it fits.
self=$(readlink -f -- "$0")
here=${self%/*}
version=5.1
if [ -f "$here/fp8llm.so" ]; then
    modules=$here
    scripts=${here%/*}/lua
    [ -d "$scripts" ] || scripts=${here%/*/*}/lua # BUILD=build/NAME
else
    for version in 5.1 5.4 5.3 5.2; do
        modules=${here%/*}/lib/lua/$version
        scripts=${here%/*}/share/lua/$version
        [ ! -f "$modules/fp8llm.so" ] || break
    done
fi
[ "$version" = 5.1 ] && candidates="luajit lua5.1" || candidates="lua$version"
for lua in $candidates; do
    if command -v "$lua" >/dev/null 2>&1; then
        # Lua 5.2 and later prefer LUA_PATH_5_N and LUA_INIT_5_N: one of the user's must not hide ours, or run first.
        unset LUA_INIT LUA_INIT_5_2 LUA_INIT_5_3 LUA_INIT_5_4 LUA_PATH_5_2 LUA_PATH_5_3 LUA_PATH_5_4
        unset LUA_CPATH_5_2 LUA_CPATH_5_3 LUA_CPATH_5_4
        # Lua's own directories, but never the current one: it may be a downloaded model's.
        unset LUA_PATH LUA_CPATH
        paths=$("$lua" -e 'for _, path in ipairs {package.path, package.cpath} do
            print((path:gsub("[^;]+;?", function(entry) return entry:find "^/" and entry or "" end)))
        end')
        export LUA_PATH="$scripts/?.lua;${paths%
*}" LUA_CPATH="$modules/?.so;${paths#*
}"
        exec "$lua" "$scripts/fp8llm/cli.lua" "$@"
    fi
done
echo "fp8llm: none of these is installed: $candidates" >&2
exit 1
