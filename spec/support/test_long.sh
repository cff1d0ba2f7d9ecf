#!/bin/sh
# test_long.sh MAKE BUILD - tokenizer and templates against the reference packages, which it
# fetches from PyPI into BUILD/venv, storm and trials of invariance in full, bugs planted in the
# CUDA backend, the server's fuzz, soak and load.  More than an hour; run by `make test-long`.
# The last line is "N passed, N failed"; what a part printed is in BUILD/log/.
make=$1
build=$2
log=$build/log
python=$build/venv/bin/python3
variants=$build/variants
passed=0
failed=0
mkdir -p "$log"

# part NAME COMMAND...: passes when the command succeeds; its last lines are printed.
part() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$log/$name.log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        word=passed
    else
        failed=$((failed + 1))
        word=FAILED
    fi
    printf '%-40s %s %5ds  %s\n' "$name" $word $(($(date +%s) - start)) "$(tail -n 1 "$log/$name.log")"
    [ $word = passed ] || tail -n 40 "$log/$name.log"
}

packages() {
    "$python" -c 'import tokenizers, jinja2' 2>/dev/null ||
        { python3 -m venv "$build/venv" && "$python" -m pip -q install tokenizers==0.23.3 jinja2==3.1.6; }
    "$python" -c 'import tokenizers, jinja2; print("tokenizers", tokenizers.__version__, "jinja2", jinja2.__version__)'
}

export LUA_CPATH="$PWD/$build/?.so" LUA_PATH="$PWD/lua/?.lua"
part build $make -s "$build/fp8llm.so" "$build/spec/support/run_template_cases" "$build/spec/c/test_tokenizer"
part packages packages
part variants "$python" spec/support/gen_tokenizer_goldens.py "$variants"
[ -d "$build/models/SmolLM2-135M-Instruct-FP8" ] || part model $make fp8-model
for dir in "$build/models/SmolLM2-135M-Instruct" "$variants"/*/; do
    part "tokenizer-$(basename "$dir")" "$python" spec/support/compare_tokenizer.py --quick --ids 5000 "${dir%/}"
done
part templates "$python" spec/support/fuzz_templates.py 5000 1 "$build/spec/support/run_template_cases"
sanitized() { # NAME FLAGS ISA_OPT: the storm under a sanitizer
    $make -s CC=clang BUILD="$build/$1" CFLAGS="-O1 -g $2" ISA_OPT="$3" "$build/$1/spec/storm/storm" &&
        "$build/$1/spec/storm/storm" "$build/spec/storm" 2000 0
}
storm() {
    $make -s "$build/spec/storm/storm" && "$build/spec/storm/storm" "$build/spec/storm" 2000 300
}
luajit spec/support/tiny_model.lua "$build/spec/storm" quant=fp8-dynamic kv_heads=1
part storm-300s storm
part invariance-tiny luajit spec/support/invariance.lua "$build/spec/storm" 10000 1
part invariance luajit spec/support/invariance.lua "$build/models/SmolLM2-135M-Instruct-FP8" 200 1
part storm-asan sanitized asan "-fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
    "-O1 -fno-sanitize=undefined -mllvm -asan-instrumentation-with-call-threshold=0"
part storm-tsan sanitized tsan -fsanitize=thread "-O1 -fno-sanitize=thread"
$make -s "$build/fp8llm" "$build/spec/paced/fp8llm.so" "$build/spec/nginx/meter"
part cuda-bugs $make -s test-cuda-bugs
part serve-fuzz luajit spec/nginx/fuzz.lua 10000
for lua in luajit lua5.1 lua5.4; do
    part "full-disk-$lua" luajit spec/support/full_disk.lua 20 $lua
done
part serve-request-fuzz luajit spec/nginx/request_fuzz.lua 1800
part submit-fuzz luajit spec/nginx/request_fuzz.lua submit 300
part serve-soak luajit spec/nginx/soak.lua 1800
part serve-load luajit spec/nginx/load.lua 60
part serve-flood luajit spec/nginx/flood.lua
echo "$passed passed, $failed failed"
[ $failed = 0 ]
