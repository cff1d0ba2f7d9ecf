#!/bin/sh
# gpu.sh BUILD MODEL - the tests of the CUDA backend on the GPU of this machine, and a report in
# BUILD/gpu-report.txt: run by `make test-gpu`.  The binaries are those of `make test-cuda`.
build=$1
model=$2
report=$build/gpu-report.txt
failed=0

# part SENTENCE COMMAND...: its output into the report, its failing tests on the terminal.
part() {
    name=$1
    shift
    printf '\n## %s\n\n$ %s\n' "$name" "$*" >>"$report"
    if "$@" >"$build/gpu-part.log" 2>&1 && ! grep -q '^not ok' "$build/gpu-part.log"; then
        echo "ok - $name"
    else
        failed=$((failed + 1))
        echo "not ok - $name"
        grep '^not ok' "$build/gpu-part.log" | head -n 20
    fi
    cat "$build/gpu-part.log" >>"$report"
}

{
    echo "# fp8llm on a GPU, $(date -u +%Y-%m-%d)"
    sed -n 's/.*FL_VERSION "\(.*\)"/version \1/p' src/util/version.h
    git rev-parse HEAD 2>/dev/null
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv
} >"$report" 2>&1
cat "$report"
part "host and GPU compute the same bits" "$build/emu/test_both"
for test in copy ops linear attend layer record sample; do
    part "ops: $test" "$build/spec/c/test_backend_$test" cuda
done
part "models against the CPU" luajit spec/support/busted.lua -o TAP spec/cuda/model_spec.lua
part "bench: its relations" luajit spec/support/busted.lua -o TAP spec/cuda/bench_spec.lua
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        part "$tool" compute-sanitizer --tool $tool --error-exitcode 9 "$build/spec/c/test_backend_ops" cuda
    done
fi
if [ -d "$model" ]; then
    part "a chat" "$build/fp8llm" generate "$model" --device cuda --prompt "The capital of France is" --max-tokens 16
    for what in decode prefill throughput ops; do
        part "bench $what" "$build/fp8llm" bench $what "$model" --device cuda
    done
fi
for what in decode prefill throughput ops; do
    part "bench $what, the shape of Llama 3 8B in FP8" \
        "$build/fp8llm" bench $what --shape llama-3-8b --dtype fp8 --device cuda
done
rm -f "$build/gpu-part.log"
echo "report: $report"
[ $failed = 0 ]
