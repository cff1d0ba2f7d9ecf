# env.sh - read by go.sh in the kit's folder: where the kit's own programs and CUDA's libraries are.
# What LD_LIBRARY_PATH named before comes first: so an emulated GPU takes the place of a real one.

# The folder of a library, where CUDA or a Python package has it; nothing where the loader knows it.
folder_of() {
    for place in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib /usr/local/cuda-*/lib64 /opt/cuda/lib64 \
        /usr/lib/x86_64-linux-gnu $(python3 -c 'import site, sys
for p in site.getsitepackages() + sys.path: print(p + "/nvidia/*/lib")' 2>/dev/null) \
        /opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib /usr/lib/python3*/site-packages/nvidia/*/lib; do
        for file in $place/$1; do
            if [ -e "$file" ]; then
                dirname "$file"
                return
            fi
        done
    done
}

found=
for library in libcudart.so.13 libcublasLt.so.13; do
    place=$(folder_of $library)
    case ":$found:" in *":$place:"*) ;; *) found=${found:+$found:}$place ;; esac
done
LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}${found:+$found:}$PWD/lib
PATH=$PWD/bin:$PATH:/usr/local/cuda/bin
LUA_PATH="$PWD/lua/?.lua;$PWD/share/lua/?.lua;$PWD/share/lua/?/init.lua"
LUA_CPATH="$PWD/build/?.so;$PWD/lib/lua/?.so"
CUT_MODEL=$PWD/model
unset LUA_INIT
export LD_LIBRARY_PATH PATH LUA_PATH LUA_CPATH CUT_MODEL
