#!/bin/sh
# fuzz.sh BUILD SECONDS TARGET... - run each libFuzzer target for that long, from its seeds; new
# inputs are kept in BUILD/corpus.  Ends with "N passed, N failed"; a finding is in BUILD/crash.
build=$1
seconds=$2
shift 2
passed=0
failed=0
mkdir -p "$build/crash" "$build/log"
for target; do
    corpus=$build/corpus/$target
    log=$build/log/$target.log
    mkdir -p "$corpus"
    case $target in
    fuzz_tokenizer_json) dict=spec/fuzz/tokenizer_json.dict ;;
    fuzz_safetensors | fuzz_config | fuzz_bitmask) dict=spec/fuzz/formats.dict ;;
    *) dict=spec/fuzz/template.dict ;;
    esac
    if ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
        "$build/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=60000 \
        -dict=$dict -artifact_prefix="$build/crash/$target-" \
        "$corpus" "spec/fuzz/seeds/$target" >"$log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        sed -n "s/^Done \(.*\)/$target: \1/p" "$log"
    else
        failed=$((failed + 1))
        echo "$target: FOUND A FAULT, see $log"
        grep -aE '^==.*ERROR|SUMMARY|runtime error|not true' "$log" | head -n 5
    fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
