#!/usr/bin/env python3
"""machine_code.py FP8LLM_CUDA_SO - what ptxas made of each kernel: registers, shared memory, bytes of
stack, and tensor core instructions, for each architecture, as a table for cuda/README.md.

Opcodes (low 12 bits of an instruction of 16 bytes) were found by compiling one instruction at a time:
HMMA 0x23c (F16, BF16), QMMA 0x27a (FP8), LDL 0x983 and STL 0x387 (local memory)."""
import re
import struct
import subprocess
import sys

ELF_IMAGE = 2
MAX_THREADS = 0x05  # an attribute of .nv.info.KERNEL: three sizes, from launch bounds
REGISTER_COUNT = 0x2F  # an attribute of .nv.info: index of a symbol, registers
OPCODES = {0x23C: "HMMA", 0x27A: "QMMA", 0x983: "LDL", 0x387: "STL"}


def images(path):
    """(architecture, cubin) of every machine code image in the fat binaries of a shared object."""
    data = open(path, "rb").read()
    for m in re.finditer(re.escape(struct.pack("<IHH", 0xBA55ED50, 1, 16)), data):
        (size,) = struct.unpack_from("<Q", data, m.start() + 8)
        at, end = m.start() + 16, m.start() + 16 + size
        while at < end:
            kind, header, length = struct.unpack_from("<H2xIQ", data, at)
            (arch,) = struct.unpack_from("<I", data, at + 28)
            if kind == ELF_IMAGE:
                yield arch, data[at + header : at + header + length]
            at += header + length


def sections(elf):
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    rows = [struct.unpack_from("<IIQQQQII", elf, table + i * size) for i in range(count)]
    base = rows[names][4]
    for row in rows:
        start = base + row[0]
        yield elf[start : elf.index(b"\0", start)].decode(), row


def registers(elf, rows):
    """Registers of each kernel, from .nv.info: attributes of format, kind, size and payload."""
    symbols, strings, info = rows[".symtab"], rows[".strtab"], rows[".nv.info"]
    out, at, end = {}, info[4], info[4] + info[5]
    while at < end:
        form, kind, size = struct.unpack_from("<BBH", elf, at)
        if kind == REGISTER_COUNT:
            index, count = struct.unpack_from("<II", elf, at + 4)
            (name,) = struct.unpack_from("<I", elf, symbols[4] + 24 * index)
            start = strings[4] + name
            out[elf[start : elf.index(b"\0", start)].decode()] = count
        at += 4 + (size if form == 4 else 0)
    return out


# Of a multiprocessor: threads, blocks, bytes of shared memory (1 KB of each block's is the system's).
PROCESSOR = {89: (1536, 24, 100 << 10), 90: (2048, 32, 228 << 10), 100: (2048, 32, 228 << 10), 120: (1536, 24, 100 << 10)}


def threads_of(elf, info):
    at, end = info[4], info[4] + info[5]
    while at < end:
        form, kind, size = struct.unpack_from("<BBH", elf, at)
        if kind == MAX_THREADS:
            return struct.unpack_from("<I", elf, at + 4)[0]
        at += 4 + (size if form == 4 else 0)
    return 0


def occupancy(arch, threads, registers_each, shared):
    """Resident threads in percent, by registers (given to warps in 256s), static shared memory, threads and blocks."""
    if not threads or arch not in PROCESSOR:
        return "-"
    most, blocks, memory = PROCESSOR[arch]
    warps = (threads + 31) // 32
    by_registers = 65536 // ((registers_each * 32 + 255) // 256 * 256) // warps
    by_memory = memory // (max(shared, 0) + 1024)
    return str(100 * 32 * warps * min(by_registers, by_memory, most // (32 * warps), blocks) // most)


def main():
    kernels = {}
    for arch, elf in images(sys.argv[1]):
        rows = dict(sections(elf))
        shared, count = {}, registers(elf, rows)
        for name, row in sections(elf):
            if name.startswith(".nv.shared."):
                shared[name[11:]] = row[5]
        for name, row in sections(elf):
            if not name.startswith(".text."):
                continue
            code = elf[row[4] : row[4] + row[5]]
            found = {}
            for i in range(0, len(code), 16):
                op = OPCODES.get(struct.unpack_from("<H", code, i)[0] & 0xFFF)
                if op:
                    found[op] = found.get(op, 0) + 1
            threads = threads_of(elf, rows[".nv.info." + name[6:]]) if ".nv.info." + name[6:] in rows else 0
            used = shared.get(name[6:], 0) - (1024 if arch >= 90 and shared.get(name[6:], 0) >= 1024 else 0)
            fill = occupancy(arch, threads, count.get(name[6:], 0), used)
            kernels.setdefault(name[6:], {})[arch] = (count.get(name[6:], 0), shared.get(name[6:], 0), found, fill)
    plain = subprocess.run(["c++filt"], input="\n".join(kernels), capture_output=True, text=True).stdout.split("\n")
    archs = sorted({a for k in kernels.values() for a in k})
    print("| kernel | " + " | ".join(f"registers sm_{a}" for a in archs) + " | shared memory | occupancy, % | tensor cores, local memory |")
    print("|---|" + "---|" * (len(archs) + 3))
    for name, mangled in sorted(zip(plain, kernels)):
        k = kernels[mangled]
        ops = "; ".join(
            f"sm_{a} " + ", ".join(f"{n} {op}" for op, n in sorted(k[a][2].items())) for a in archs if a in k and k[a][2]
        )
        for i, lie in enumerate(("anyhow", "aligned", "padded")):  # rows_lie of linear_rows.cuh
            name = name.replace(f"(rows_lie){i}", lie)
        name = name.split("(")[0].replace("void ", "").replace("__nv_bfloat16", "bf16").replace("__half", "f16")
        smem = min(v[1] for v in k.values())  # from 9.0 on 1 KB more is the system's
        print(f"| `{name}` | " + " | ".join(str(k[a][0]) if a in k else "-" for a in archs) + f" | {smem} | " + " ".join(k[a][3] for a in archs if a in k) + f" | {ops} |")


main()
