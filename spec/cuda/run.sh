#!/bin/sh
# run.sh BUILD LOG - one test of the CUDA backend on an emulated GPU: LOG is named ARCH-TEST or
# ARCH-TEST-SEED, where TEST is a test_backend_*, or X of spec/cuda/X_spec.lua.  A test that dies is a failed test.
build=$1
log=$2
arch=$(basename "$log" | cut -d- -f1)
test=$(basename "$log" | cut -d- -f2)
seed=$(basename "$log" | cut -d- -f3)
# Memory of the host that nobody wrote is full of 0x7f: NaN in E4M3.
export MALLOC_PERTURB_=128 EMU_QUIET=1 EMU_ARCH="$arch" EMU_SEED="${seed:-$arch}" LD_LIBRARY_PATH="$build/emu"
echo "# $test on $arch, seed $EMU_SEED" >"$log"
spec=spec/cuda/${test}_spec.lua
if [ -f "$spec" ]; then
    [ "$build" = build ] || other="--build=$build"
    luajit spec/support/busted.lua ${other:+"$other"} -o TAP "$spec"
else
    "$build/spec/c/test_backend_$test" cuda
fi >>"$log" 2>&1
status=$?
lines=$(grep -acE '^(not )?ok ' "$log")
grep -q '^1\.\.' "$log" || printf 'not ok - %s on %s ended with status %s\n1..%s\n' \
    "$test" "$arch" "$status" "$((lines + 1))" >>"$log"
exit 0
