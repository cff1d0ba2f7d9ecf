#!/bin/sh
# test.sh MAKE BUILD - the server as its clients see it: PyPI's openai, anthropic, litellm and lm-eval, and the page in Debian's
# Chromium; run by `make test-clients`.  The Python packages (800 MB, no torch) go to BUILD/clients/venv.
# Logs and screenshots are in BUILD/log and BUILD/clients; the last line is "N passed, N failed".
make=$1
build=$2
venv=$build/clients/venv
packages="lm_eval[api]==0.4.13 openai==3.54.0 anthropic==2.15.0 litellm==1.110.2 playwright==1.65.2"
log=$build/log/clients-packages.log
mkdir -p "$build/log" "$build/clients"

if [ "$(cat "$venv/packages" 2>/dev/null)" != "$packages" ]; then
    echo "installing $packages in $venv"
    { python3 -m venv "$venv" && "$venv/bin/python" -m pip -q install $packages; } >"$log" 2>&1 || {
        tail -n 20 "$log"
        echo "0 passed, 1 failed"
        exit 1
    }
    echo "$packages" >"$venv/packages"
fi
$make -s all fp8-model || { echo "0 passed, 1 failed"; exit 1; }
exec "$venv/bin/python" spec/clients/run.py
