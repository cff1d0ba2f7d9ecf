#!/bin/sh
# machine.sh - what this machine is: the first part of the GPU kit.
echo "# kit of commit $(cat commit), compute capability $(cat arch)"
if command -v nvidia-smi >/dev/null 2>&1; then
    nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit \
        --format=csv
    nvidia-smi topo -m 2>/dev/null
else
    echo "# nvidia-smi is not here"
fi
uname -srm
grep -m 1 'model name' /proc/cpuinfo
echo "# $(nproc) processors, $(grep MemTotal /proc/meminfo | tr -s ' ')"
grep PRETTY_NAME /etc/os-release 2>/dev/null
command -v nvcc >/dev/null 2>&1 && nvcc --version | tail -n 2
for file in build/fp8llm.so build/fp8llm_cuda.so build/lt_probe bin/luajit; do
    echo "# ldd $file"
    ldd $file 2>&1
done
missing=$(ldd build/fp8llm.so build/lt_probe bin/luajit 2>&1 | grep 'not found')
if [ -z "$missing" ]; then echo "ok 1 - every library is found"; else
    echo "not ok 1 - every library is found"
    echo "$missing" | sed 's/^/# /'
fi
echo 1..1
