#!/bin/sh
# sanitizers.sh SECONDS - compute-sanitizer's four tools on every op test, several at a time: the last
# part of the GPU kit.  A driver that refuses the tools is said, and is no failure.
seconds=$1
tool=$2
test=$3
if [ -z "$tool" ]; then
    if ! command -v compute-sanitizer >/dev/null 2>&1; then
        printf 'ok 1 - compute-sanitizer # SKIP not available here\n1..1\n'
        exit
    fi
    for tool in memcheck racecheck initcheck synccheck; do
        for test in copy ops linear attend layer record sample; do echo "$tool $test"; done
    done | xargs -P 8 -L 1 sh "$0" "$seconds"
    echo 1..28
    exit
fi
log=build/sanitizer-$tool-$test.log
timeout -k 2 "$seconds" compute-sanitizer --tool "$tool" --error-exitcode 9 "build/test_backend_$test" cuda >"$log" 2>&1
status=$?
if grep -qiE 'not supported|unable to (attach|initialize|find)|error 999|LibraryNotLoaded' "$log" && ! grep -q '^ok ' "$log"; then
    echo "ok - $tool of $test # SKIP not available: $(grep -iE -m 1 'not supported|unable|error 999' "$log" | cut -c 1-160)"
elif [ $status = 124 ] || [ $status = 137 ]; then
    echo "not ok - $tool of $test did not finish in $seconds s"
    tail -n 5 "$log" | sed 's/^/# /'
elif [ $status = 0 ]; then
    echo "ok - $tool of $test"
else
    echo "not ok - $tool of $test: status $status"
    grep -E '^=====|^not ok' "$log" | head -n 60 | sed 's/^/# /'
fi
rm -f "$log"
