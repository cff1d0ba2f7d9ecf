#!/bin/sh
# need.sh PURPOSE... - install the Debian packages that PURPOSE (build, model, test, clients) needs and
# that are missing: as root, else with sudo where it asks nothing; else print the line to run
# and stop.  Silent when all are there.  "a|b": either will do, a is installed.
build="make gcc libc6-dev liblua5.1-0-dev luajit2|luajit"
model="python3 python3-venv ca-certificates"
test="clang libclang-rt-dev clang-format binutils lua-busted lua-check luarocks
      lua5.1 lua5.2 lua5.3 lua5.4 liblua5.2-dev liblua5.3-dev liblua5.4-dev
      nginx libnginx-mod-http-lua lua-socket curl libedit2"
clients="curl chromium-headless-shell|chromium"

wanted=
for purpose in "$@"; do
    case $purpose in
    build) wanted="$wanted $build" ;;
    model) wanted="$wanted $model" ;;
    test) wanted="$wanted $test" ;;
    clients) wanted="$wanted $clients" ;;
    *) echo "need.sh: unknown purpose '$purpose' (build, model, test, clients)" >&2; exit 2 ;;
    esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "need.sh: not a Debian system, nothing installed; needed:" $wanted >&2
    exit 0
fi

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=
for choice in $wanted; do
    found=no
    for package in $(echo "$choice" | tr '|' ' '); do
        if installed "$package"; then found=yes; fi
    done
    [ $found = yes ] || missing="$missing ${choice%%|*}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    echo "These packages are missing. Run this, then the same make again:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi

log=build/log/apt.log
mkdir -p "${log%/*}"
echo "installing$missing"
apt() {
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}
if ! { apt update && apt install --no-install-recommends $missing; } </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "apt-get could not install$missing (all of it: $log)" >&2
    exit 1
fi
