#!/bin/sh
# kit.sh [ARCH] - everything a GPU can tell, for a machine that has one for minutes, without network,
# Lua or packages: fills build/gpu-kit with the built backend for ARCH (that of the GPU of this
# machine, else 90), its tests and benchmarks, LuaJIT, busted and a model cut from real FP8 weights.
# There, `sh go.sh` runs it all and writes a report: see spec/cuda/kit/go.sh.
set -e
kit=build/gpu-kit
model=build/models/SmolLM2-135M-Instruct-FP8
limit_kb=49152 # of the kit; with the tree it must be carried in 64 MB

found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
arch=${1:-${found:-90}}

sh spec/support/need.sh build model
make --no-print-directory -s -j"$(nproc)" fp8-model
make --no-print-directory -s -j"$(nproc)" KIT_ARCH="$arch" gpu-kit-parts

rm -rf $kit
mkdir -p $kit/build $kit/bin $kit/lib $kit/share $kit/model $kit/spec/support
cp spec/cuda/kit/go.sh spec/cuda/kit/env.sh spec/cuda/kit/parts $kit/
echo "$arch" >$kit/arch
git rev-parse HEAD >$kit/commit 2>/dev/null || echo "no commit" >$kit/commit
strip -o $kit/build/fp8llm.so build/fp8llm.so
strip -o $kit/build/fp8llm_cuda.so "build/kit-$arch/fp8llm_cuda.so"
for test in copy ops linear attend layer record sample; do
    strip -o $kit/build/test_backend_$test build/spec/c/test_backend_$test
done
for program in time_kernels lt_probe; do strip -o $kit/build/$program build/spec/cuda/$program; done
cp -r lua $kit/lua
mkdir -p $kit/spec/cuda
cp -r spec/cuda/kit spec/cuda/*.lua $kit/spec/cuda/
cp spec/support/*.lua $kit/spec/support/

# Programs that the machine may lack, out of Debian's packages; nothing is installed.
packages="luajit2 libluajit2-5.1-2 libluajit2-5.1-common libcjson1 lua-busted lua-cliargs lua-dkjson lua-filesystem
    lua-luassert lua-mediator lua-penlight lua-say lua-system lua-term"
debs=build/kit-debs
mkdir -p $debs
for package in $packages; do
    [ -n "$(ls $debs/"${package}"_*.deb 2>/dev/null)" ] || 
        (cd $debs && apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null)
    dpkg -x "$(ls $debs/"${package}"_*.deb | head -n 1)" $debs/root
done
root=$debs/root/usr
cp -L $root/bin/luajit* $kit/bin/
[ -f $kit/bin/luajit ] || mv "$(ls $kit/bin/luajit* | head -n 1)" $kit/bin/luajit
cp -L $root/lib/*/libluajit*.so.2 $root/lib/*/libcjson.so.1 $kit/lib/
cp -rL $root/lib/*/lua/5.1 $kit/lib/lua
find $kit/lib/lua -name '*.a' -delete
cp -rL $root/share/lua/5.1 $kit/share/lua
cp -rL $root/share/luajit*/jit $kit/share/lua/jit
LUA_CPATH="build/?.so" LUA_PATH="lua/?.lua" luajit spec/cuda/cut_model.lua $model $kit/model

kb=$(du -sk $kit | cut -f 1)
echo "$kit: $kb KB, for compute capability $arch"
[ "$kb" -le $limit_kb ] || { echo "$kit: $kb KB, limit $limit_kb" >&2; exit 1; }
[ -z "$(find $kit -type l)" ] || { echo "$kit: holds links" >&2; exit 1; }
