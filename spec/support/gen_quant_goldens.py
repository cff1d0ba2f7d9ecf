#!/usr/bin/env python3
"""The BF16 arithmetic of two quantizers, by PyTorch itself, for `quantize --compat`.

    gen_quant_goldens.py                          write spec/golden/quant.safetensors
    gen_quant_goldens.py check BF16_DIR FP8_DIR   compare a whole checkpoint that --compat made: the bytes of
                                                  every weight and every weight scale

AutoFP8 (per_tensor_quantize):   scale = 448 / amax (BF16), q = e4m3(w * scale), weight_scale = 1 / scale in F32
compressed-tensors (symmetric):  scale = amax / 448 (BF16, at least 2^-23), q = e4m3(w / scale)

Every product and quotient is PyTorch's own on BF16 tensors; only the last step to E4M3 is computed here, because
old PyTorch versions lack that type.  Needs: python3 with torch (Debian's python3-torch 1.13 is enough) and numpy.
"""
import json
import os
import struct
import sys

import numpy as np
import torch

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "quant.safetensors")
BLOCK = 128


def e4m3(x):
    """Codes of a BF16 tensor: clamped to +-448, then to nearest even."""
    x = x.clamp(-448.0, 448.0).to(torch.float64).numpy()
    a = np.abs(x)
    exponent = np.where(a > 0, np.maximum(np.frexp(a)[1] - 1, -6), -6)  # of the leading bit; subnormals share -6
    steps = np.rint(a / 2.0 ** (exponent - 3)).astype(np.int64)  # 8..16 of a normal number
    code = steps + 8 * (exponent + 6)  # 16 carries into the exponent by itself
    return (code | np.signbit(x) * 0x80).astype(np.uint8)


def amax_of(w):
    low, high = w.aminmax()
    return torch.maximum(low.abs(), high.abs())


def autofp8(w):
    scale = 448.0 / amax_of(w).clamp(min=1e-12)
    return e4m3(w * scale), scale.float().reciprocal().reshape(())


def compressed(w, amax):
    scale = (amax / 448.0).clamp(min=torch.finfo(torch.float32).eps)
    return e4m3(w / scale), scale


def by_block(w):
    rows = []
    for r in range(0, w.shape[0], BLOCK):
        rows.append(torch.stack([amax_of(w[r:r + BLOCK, c:c + BLOCK]) for c in range(0, w.shape[1], BLOCK)]))
    amax = torch.stack(rows)
    codes, scale = np.zeros(w.shape, np.uint8), amax.clone()
    for i in range(amax.shape[0]):
        for j in range(amax.shape[1]):
            at = np.s_[i * BLOCK:(i + 1) * BLOCK, j * BLOCK:(j + 1) * BLOCK]
            codes[at], scale[i, j] = compressed(w[at], amax[i, j])
    return codes, scale


def raw(x):
    if isinstance(x, np.ndarray):
        return "F8_E4M3", x.tobytes()
    if x.dtype == torch.bfloat16:
        return "BF16", x.view(torch.int16).numpy().tobytes()
    return "F32", x.numpy().tobytes()


def write(path, tensors):
    header, data = {"__metadata__": {"made_by": "gen_quant_goldens.py, torch " + torch.__version__}}, b""
    for name, x in tensors.items():
        dtype, body = raw(x)
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def read(directory):
    """Name -> (dtype, shape, bytes) of model.safetensors."""
    with open(os.path.join(directory, "model.safetensors"), "rb") as f:
        blob = f.read()
    n = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], blob[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in header.items()}


def bf16(entry):
    _, shape, body = entry
    return torch.from_numpy(np.frombuffer(body, np.int16).copy()).view(torch.bfloat16).reshape(shape)


def goldens():
    torch.manual_seed(4)
    w = (torch.randn(136, 40) * torch.rand(136, 1) * 0.1).bfloat16()
    w[3] = 0
    w[5, 7], w[6, 1], w[7, 0] = 0.69921875, -0.0, 2.0 ** -30
    out = {"weight": w}
    out["autofp8.codes"], out["autofp8.scale"] = autofp8(w)
    out["tensor.codes"], out["tensor.scale"] = compressed(w, amax_of(w))
    out["channel.codes"], out["channel.scale"] = compressed(w, w.abs().amax(1, keepdim=True))
    out["block.codes"], out["block.scale"] = by_block(w)
    write(GOLDEN, out)
    print(GOLDEN)


def check(source, made):
    old, new = read(source), read(made)
    with open(os.path.join(made, "config.json"), encoding="utf-8") as f:
        method = json.load(f)["quantization_config"]["quant_method"]
    linears = bad = 0
    for name, entry in new.items():
        if entry[0] != "F8_E4M3" or not name.endswith(".weight"):
            continue
        w, scale = bf16(old[name]), new[name[:-len("weight")] + "weight_scale"]
        if method == "fp8":
            codes, want = autofp8(w)
        elif scale[1] == [w.shape[0], 1]:
            codes, want = compressed(w, w.abs().amax(1, keepdim=True))
        elif scale[1] == [1]:
            codes, want = compressed(w, amax_of(w))
        else:
            codes, want = by_block(w)
        linears += 1
        if codes.tobytes() != entry[2] or raw(want)[1] != scale[2] or raw(want)[0] != scale[0]:
            bad += 1
            print("differs:", name)
    print(f"{made}: {linears} linears, {bad} differ")
    return 1 if bad or not linears else 0


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "check":
        sys.exit(check(sys.argv[2], sys.argv[3]))
    goldens()
