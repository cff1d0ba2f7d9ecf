#!/bin/sh
# run_ops.sh BUILD LOG - one test of the ops of the CUDA backend, on an emulated GPU: LOG is named
# ARCH-TEST.  A test that dies is a failed test.
build=$1
log=$2
arch=$(basename "$log" | cut -d- -f1)
test=$(basename "$log" | cut -d- -f2)
echo "# test_backend_$test on $arch" >"$log"
EMU_QUIET=1 EMU_ARCH=$arch EMU_SEED=$arch LD_LIBRARY_PATH=$build/emu "$build/spec/c/test_backend_$test" cuda >>"$log" 2>&1
status=$?
lines=$(grep -acE '^(not )?ok ' "$log")
grep -q '^1\.\.' "$log" || printf 'not ok - test_backend_%s on %s ended with status %s\n1..%s\n' \
    "$test" "$arch" "$status" "$((lines + 1))" >>"$log"
exit 0
