#!/bin/sh
# go.sh [PART...] [--out DIR] [--build] - the GPU kit: tests, times and benchmarks of the CUDA backend on
# the GPU of this machine, at most nine minutes.  Nothing is compiled or fetched, unless --build asks
# for the sources beside the kit to be compiled with the nvcc of this machine.
#
# Parts are the lines of the file `parts` (KIT_PARTS names another); without a PART all of them run.  A
# part has a limit of its own: one that hangs, crashes or floods costs that and is named, and the
# others run.  DIR (default build/gpu-report) gets, as it goes:
#     report.md    the tables, which are printed in the end as well
#     log.txt      what each part said, at most 700 KB of each
#     kernels.tsv  lt.tsv  bench.tsv    the lines of time_kernels.c, lt_probe.c, kit_bench.lua
# KIT_SMALL=1 takes tiny shapes and ten times the limits, for an emulated GPU.  Exit: 0 all passed, 1 some failed, 3 no GPU.
out=build/gpu-report
parts=
build=no
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2; shift ;;
    --build) build=yes ;;
    *) parts="$parts $1" ;;
    esac
    shift
done
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")" || exit 2
mkdir -p "$out" || exit 2
rm -f "$out"/report.md "$out"/log.txt "$out"/kernels.tsv "$out"/lt.tsv "$out"/bench.tsv "$out"/current.log
. ./env.sh
small=
slower=1
if [ -n "$KIT_SMALL" ]; then
    small=small
    slower=10
fi
table=${KIT_PARTS:-parts}
keep=350000 # bytes of a part's output, from its beginning and from its end
flood=1000000000 # bytes of output that end a part

rebuild() { # the sources of the checkout that the kit lies in
    tree=$PWD/../..
    arch=$(cat arch)
    objects=build/objects
    mkdir -p $objects
    flags="-std=c++17 -O3 -lineinfo -no-compress -I$tree -I$tree/src -Xcompiler -fPIC,-fvisibility=hidden"
    for file in "$tree"/cuda/*.cu; do
        echo "nvcc -gencode arch=compute_$arch,code=[sm_$arch,compute_$arch] $flags -c $file -o $objects/$(basename "$file").o"
    done | xargs -P "$(nproc)" -I{} sh -c '{}' || return 1
    cuda=$(dirname "$(dirname "$(command -v nvcc)")")
    for file in "$tree"/cuda/*.c "$tree"/src/backend/check.c "$tree"/src/util/err.c "$tree"/src/util/mem.c \
        "$tree"/src/util/fp8.c "$tree"/src/util/dtype.c; do
        cc -std=c11 -D_GNU_SOURCE -O2 -fPIC -fvisibility=hidden -ffp-contract=off -I"$tree" -I"$tree/src" \
            -isystem "$cuda/include" -c "$file" -o "$objects/$(basename "$file").o" || return 1
    done
    nvcc -shared -cudart shared -o build/fp8llm_cuda.so $objects/*.o -lcublasLt
}
if [ $build = yes ]; then
    rebuild || { echo "go.sh: the sources were not compiled" >&2; exit 2; }
fi

# What the machine's GPU is called, or why there is none.
gpu=$(timeout -k 2 20 luajit spec/cuda/kit/probe.lua 2>&1 | tail -n 1)
case $gpu in gpu:*) there=yes ;; *) there=no; gpu="no GPU: ${gpu:-the probe did not end}" ;; esac

rows=$out/current.rows
: >"$rows"
began=$(date +%s)

# One part: its output to log.txt, a row of the table, its failures to the terminal.
run() {
    name=$1
    limit=$(($2 * slower))
    shift 2
    command=$*
    start=$(date +%s)
    if [ $there = no ] && [ "$name" != machine ] && [ -z "$KIT_PARTS" ]; then
        echo "$name: $gpu"
        echo "$name|no GPU|-|0|" >>"$rows"
        return
    fi
    small=$small timeout -k 3 "$limit" sh -c "$command" >"$out/current.log" 2>&1 </dev/null &
    part=$!
    while kill -0 $part 2>/dev/null; do # a flood must not fill the disk
        sleep 0.2
        [ "$(wc -c <"$out/current.log")" -lt $flood ] || kill $part 2>/dev/null
    done
    wait $part
    status=$?
    seconds=$(($(date +%s) - start))
    ok=$(grep -ac '^ok ' "$out/current.log")
    bad=$(grep -ac '^not ok ' "$out/current.log")
    note=
    case $status in
    124 | 137) note="did not finish in $limit s" ;;
    0) ;;
    *) [ "$bad" != 0 ] || note="ended with status $status" ;;
    esac
    [ -z "$note" ] || bad=$((bad + 1))
    {
        printf '\n## %s: %s\n\n' "$name" "$command"
        head -c $keep "$out/current.log"
        size=$(wc -c <"$out/current.log")
        if [ "$size" -gt $((2 * keep)) ]; then
            printf '\n[%s bytes are left out; failures among them:]\n' $((size - 2 * keep))
            grep -a '^not ok ' "$out/current.log" | head -n 50
            tail -c $keep "$out/current.log"
        elif [ "$size" -gt $keep ]; then
            tail -c +$((keep + 1)) "$out/current.log"
        fi
        [ -z "$note" ] || printf '\n[%s %s]\n' "$name" "$note"
    } >>"$out/log.txt"
    for kind in kernel:kernels lt:lt bench:bench; do
        grep -a "^${kind%%:*}	" "$out/current.log" | head -c 8000000 >>"$out/${kind##*:}.tsv"
    done
    printf '%-14s %6d passed %4d failed %4d s%s\n' "$name" "$ok" "$bad" "$seconds" "${note:+, $note}"
    grep -a '^not ok ' "$out/current.log" | head -n 10
    echo "$name|$ok|$bad|$seconds|$note" >>"$rows"
    rm -f "$out/current.log"
}

wanted() { # without a list every part is
    [ -n "$parts" ] || return 0
    case " $parts " in *" $1 "*) return 0 ;; esac
    return 1
}

echo "$gpu"
while read -r name limit command; do
    case $name in '' | '#'*) continue ;; esac
    ! wanted "$name" || run "$name" "$limit" "$command"
done <"$table"

{
    echo "# fp8llm on a GPU, $(date -u +%Y-%m-%d)"
    echo
    echo "$gpu, commit $(cat commit), $(($(date +%s) - began)) s"
    grep -a -A 1 '^name, driver_version' "$out/log.txt" 2>/dev/null | sed 's/^/    /'
    echo
    echo "| part | passed | failed | seconds | |"
    echo "|---|---:|---:|---:|---|"
    sed 's/|/ | /g; s/^/| /; s/$/ |/' "$rows"
    echo
    grep -a '^# .*copies move' "$out/log.txt" 2>/dev/null
    echo
    if [ -s "$out/kernels.tsv" ]; then
        echo "| kernel | rows | us | MB | GB/s | of the bandwidth |"
        echo "|---|---:|---:|---:|---:|---:|"
        awk -F '\t' '{ printf "| %s | %s | %s | %s | %s | %.0f %% |\n", $2, $3, $4, $5, $6, 100 * $7 }' "$out/kernels.tsv"
        echo
    fi
    if [ -s "$out/bench.tsv" ]; then
        echo "| weights | what | rows a step | requests or tokens | tokens/s |"
        echo "|---|---|---:|---:|---:|"
        awk -F '\t' '{ printf "| %s | %s | %s | %s | %s |\n", $2, $3, $4, $5, $6 }' "$out/bench.tsv"
    fi
} >"$out/report.md"
cat "$out/report.md"
failed=$(awk -F '|' '$2 != "no GPU" { n += $3 } END { print n + 0 }' "$rows")
rm -f "$rows"
find "$out" -maxdepth 1 -name '*.tsv' -size 0 -delete
[ $there = yes ] || [ -n "$KIT_PARTS" ] || exit 3
[ "$failed" = 0 ]
