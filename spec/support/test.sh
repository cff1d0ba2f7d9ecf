#!/bin/sh
# test.sh MAKE - every test that needs no GPU; run by `make test`, which installs what it needs.
# One line a suite, failing tests in full, everything in build/log/; the last line is
# "N passed, N failed" and the exit status says whether any failed or did not finish.
make=$1
log=build/log
passed=0
failed=0
began=$(date +%s)
mkdir -p $log

# tally NAME STATUS SECONDS: count the TAP lines of a suite's log and report it.
tally() {
    file=$log/$1.log
    ok=$(grep -ac '^ok ' "$file")
    bad=$(grep -ac '^not ok ' "$file")
    skipped=$(grep -aicE '^ok [0-9]+ .*# *skip' "$file")
    planned=$(sed -n 's/^1\.\.\([0-9][0-9]*\)$/\1/p' "$file" | awk '{ n += $1 } END { print n + 0 }')
    note=
    [ "$skipped" = 0 ] || note=", $skipped skipped"
    ok=$((ok - skipped))
    if [ $((ok + bad + skipped)) != "$planned" ] || [ "$planned" = 0 ] || { [ "$2" != 0 ] && [ "$bad" = 0 ]; }; then
        note="$note, DID NOT FINISH (status $2)"
        unfinished=yes
        bad=$((bad + 1))
    else
        unfinished=no
    fi
    printf ' %6d passed %3d failed %4ds%s\n' "$ok" "$bad" "$3" "$note"
    passed=$((passed + ok))
    failed=$((failed + bad))
    [ "$bad" = 0 ] || awk '/^not ok / { on = 1; print; next } /^(ok |1\.\.)/ { on = 0 } on' "$file" | head -n 200
    [ $unfinished = no ] || { echo "--- the end of $file"; tail -n 40 "$file"; }
}

# suite NAME COMMAND...: a command that prints TAP.
suite() {
    name=$1
    shift
    start=$(date +%s)
    printf '%-34s' "$name"
    sh spec/support/limited.sh 3000 "$@" >"$log/$name.log" 2>&1 </dev/null
    tally "$name" $? $(($(date +%s) - start))
}

# step SENTENCE COMMAND...: a command that passes as one test when it succeeds.
step() {
    name=$1
    shift
    start=$(date +%s)
    printf '%-34s' "$name"
    if sh spec/support/limited.sh 6000 "$@" >"$log/$name.log" 2>&1 </dev/null; then
        printf ' %6d passed %3d failed %4ds\n' 1 0 $(($(date +%s) - start))
        passed=$((passed + 1))
    else
        printf ' %6d passed %3d failed %4ds\n' 0 1 $(($(date +%s) - start))
        failed=$((failed + 1))
        tail -n 60 "$log/$name.log"
        return 1
    fi
}

# c_tests BUILD: run every test binary. One that crashes, leaks or stops early is a failed test.
c_tests() {
    out=$log/c-test.out
    for t in spec/c/test_*.c; do
        t=$1/spec/c/$(basename "$t" .c)
        echo "# $t"
        sh spec/support/limited.sh 600 "$t" >"$out" 2>&1
        status=$?
        lines=$(grep -acE '^(not )?ok ' "$out")
        bad=$(grep -ac '^not ok ' "$out")
        plan=$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' "$out") # what follows says why none ran
        grep -av '^1\.\.' "$out"
        if [ "$lines" != "$plan" ] || { [ $status != 0 ] && [ "$bad" = 0 ]; }; then
            echo "not ok - $t ended with status $status after $lines of ${plan:-?} tests"
            tail -n 40 "$out" | sed 's/^/# /'
            lines=$((lines + 1))
        fi
        echo "1..$lines"
    done
    rm -f "$out"
}

# runs TREE: the command installed there works from elsewhere, with nothing of the checkout.
runs() {
    command=$(readlink -f "$1")/bin/fp8llm
    cd / && env -u LUA_PATH -u LUA_CPATH "$command" --version && env -u LUA_PATH -u LUA_CPATH "$command" chat --help
}
rock() {
    tree=build/rock-$1
    rm -rf "$tree"
    luarocks --lua-version="$1" make --tree "$tree" && runs "$tree"
}
installed() {
    rm -rf build/prefix
    $1 --no-print-directory install PREFIX=build/prefix && (runs build/prefix) || return 1
    for file in man/man1/fp8llm-serve.1 man/man3/fp8llm.3lua doc/fp8llm/examples/chat.lua doc/fp8llm/reference.html; do
        [ -f build/prefix/share/$file ] || { echo "no $file"; return 1; }
    done
    grep "^ExecStart=build/prefix/bin/fp8llm" build/prefix/lib/systemd/system/fp8llm@.service || return 1
    $1 --no-print-directory uninstall PREFIX=build/prefix
    left=$(find build/prefix -type f)
    [ -z "$left" ] || { echo "uninstall left: $left"; return 1; }
}

case $make in
--c-tests) c_tests "$2"; exit ;;
--rock) rock "$2"; exit ;;
--install) installed "$2"; exit ;;
esac

main() {
    jobs=-j$(nproc)
    # Inlined checks make the vector kernels take clang minutes: there, calls, and no UBSan.
    kernels="-O1 -fno-sanitize=undefined -mllvm -asan-instrumentation-with-call-threshold=0"
    sanitize="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
    step build-gcc $make $jobs WERROR=-Werror all tests
    step build-clang-asan $make $jobs CC=clang BUILD=build/asan CUDA=0 CFLAGS="$sanitize" ISA_OPT="$kernels" WERROR=-Werror \
        all tests
    suite limits sh spec/support/limited_test.sh
    suite c sh "$0" --c-tests build
    ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 suite c-asan-ubsan sh "$0" --c-tests build/asan
    step build-clang-tsan $make $jobs CC=clang BUILD=build/tsan CFLAGS="-O1 -g -fsanitize=thread" \
        ISA_OPT="-O1 -fno-sanitize=thread" WERROR=-Werror build/tsan/spec/storm/storm \
        build/tsan/spec/c/test_serve
    luajit spec/support/tiny_model.lua build/spec/storm quant=fp8-dynamic kv_heads=1
    ASAN_OPTIONS=detect_leaks=1 suite storm-asan build/asan/spec/storm/storm build/spec/storm 500 0
    suite storm-tsan build/tsan/spec/storm/storm build/spec/storm 500 0
    suite serve-tsan build/tsan/spec/c/test_serve
    step model $make fp8-model
    for lua in luajit lua5.1 lua5.2 lua5.3 lua5.4; do
        suite "spec-$lua" $lua spec/support/busted.lua -o TAP
    done
    suite spec-nginx luajit spec/support/busted.lua -o TAP spec/nginx
    suite serve-fuzz luajit spec/nginx/fuzz.lua 500
    suite serve-request-fuzz luajit spec/nginx/request_fuzz.lua 8
    suite submit-fuzz luajit spec/nginx/request_fuzz.lua submit 4
    suite serve-soak luajit spec/nginx/soak.lua 60
    suite serve-load luajit spec/nginx/load.lua 3
    suite serve-flood luajit spec/nginx/flood.lua 12 15 2
    suite full-disk luajit spec/support/full_disk.lua 1
    luajit spec/support/tiny_model.lua build/spec/alloc layers=1 hidden=32 ffn=32 heads=2 kv_heads=1 \
        quant=fp8-dynamic context=64
    for v in 5.1 5.2 5.3 5.4; do
        suite "alloc-$v" build/spec/alloc_test-$v spec/alloc/script.lua build/spec/alloc
    done
    for v in 5.1 5.4; do
        step "luarocks-$v" sh "$0" --rock $v
    done
    step install sh "$0" --install "$make"
    # Lua keeps what it has until the process ends, and a tensor too large must be refused by us.
    suite spec-asan env ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
        LD_PRELOAD="$(clang -print-file-name=libclang_rt.asan-x86_64.so)" \
        lua5.4 spec/support/busted.lua --build=build/asan -o TAP spec/lua/malformed_spec.lua \
        spec/lua/formats_spec.lua spec/lua/tokenizer_spec.lua spec/lua/tensor_spec.lua spec/lua/sampler_spec.lua \
        spec/lua/closing_spec.lua
    suite cuda $make --no-print-directory -s test-cuda
    suite lint $make --no-print-directory lint

    echo "$(($(date +%s) - began)) s, logs in $log"
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
}
main; exit # one command, so that this file may be changed while it runs
