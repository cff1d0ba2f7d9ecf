#!/usr/bin/env python3
"""Write spec/golden/f16.txt: where arithmetic in F16 rounds, by numpy.

    /usr/bin/python3 spec/support/gen_f16_goldens.py > spec/golden/f16.txt

Needs numpy only (made with 1.24.2).  The operations are those of PyTorch on float16 tensors: each
is computed in float32 and rounded once, to nearest even, where it stores; too large becomes
infinite.  RMSNorm rounds the normalized value, then its product with the weight, as
LlamaRMSNorm does; silu(gate) * up is one operation here.

Arrays are chosen so that the order of a sum cannot show: sums of squares and of products are
exact in float32.  A result of silu that float64 puts within 1/64 of a step from a tie is left
out, since exp may differ in the last bit.

Lines: name rows columns, then the numbers as hexadecimal F16.
"""
import sys

import numpy as np

F16, F32 = np.float16, np.float32
rng = np.random.default_rng(24)


def put(name, a):
    a = np.atleast_2d(a)
    assert a.dtype == F16
    words = " ".join("%04x" % v for v in a.view(np.uint16).ravel())
    print(f"{name} {a.shape[0]} {a.shape[1]} {words}")


def special(a, values):
    a.ravel()[: len(values)] = np.array(values, F16)
    return a


def add():
    """Sums that need rounding, ties, subnormals, overflow."""
    a = rng.normal(0, 3, (3, 64)).astype(F16)
    b = (rng.normal(0, 1, (3, 64)) * 2.0 ** rng.integers(-12, 6, (3, 64))).astype(F16)
    special(a, [65504, 65504, -65504, 2048, 2049, 2050, 6e-8, -0.0, np.inf, 1, 1])
    special(b, [16, 15.99, -65504, 1, 1, 1, 6e-8, -0.0, 1, 2.0**-11, 3 * 2.0**-11])
    put("add_a", a)
    put("add_b", b)
    with np.errstate(over="ignore"):
        put("add_out", (a.astype(F32) + b.astype(F32)).astype(F16))


def norm():
    n, eps = 64, F32(1e-5)
    x = (rng.integers(-127, 128, (4, n)) / 16).astype(F16)
    x[3] /= F16(4096)  # the rounded product is then subnormal for small weights
    d = (rng.integers(-8, 9, (4, n)) / 16).astype(F16)
    d[3] = 0
    w = (rng.normal(0, 1, n) * 2.0 ** rng.integers(-16, 3, n)).astype(F16)
    special(w, [65504, -65504, 0, -0.0, 6e-8])
    r = (x.astype(F32) + d.astype(F32)).astype(F16)
    square = r.astype(F32) ** 2
    total = square.sum(axis=1, dtype=np.float64)
    assert (total == total.astype(F32)).all() and (r.astype(np.float64) ** 2 == square).all()
    inv = F32(1) / np.sqrt(total.astype(F32) / F32(n) + eps)
    unit = (r.astype(F32) * inv[:, None]).astype(F16)
    with np.errstate(over="ignore"):
        out = (unit.astype(F32) * w.astype(F32)).astype(F16)
    for name, a in (("x", x), ("delta", d), ("weight", w), ("residual", r), ("out", out)):
        put("norm_" + name, a)


def silu():
    gate = rng.normal(0, 4, 2000).astype(F16)
    up = (rng.normal(0, 1, 2000) * 2.0 ** rng.integers(-14, 12, 2000)).astype(F16)
    special(gate, [0, -0.0, np.inf, 20, -20, -100, 65504, 1e-4, -1e-4, 60000])
    special(up, [1, 1, 1, 1, 60000, 1, 2, 1, 1e-4, 2])
    with np.errstate(over="ignore", invalid="ignore"):
        exact = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64))) * up.astype(np.float64)
        got = exact.astype(F16)
        step = np.spacing(np.abs(got)).astype(np.float64)
        off = np.abs(exact - got.astype(np.float64)) / step
    keep = ~((np.abs(off - 0.5) < 1 / 64) & np.isfinite(off))
    gate, up, got = gate[keep][:512], up[keep][:512], got[keep][:512]
    put("silu_gate_up", np.concatenate([gate.reshape(2, 256), up.reshape(2, 256)], axis=1))
    put("silu_out", got.reshape(2, 256))


def linear():
    """Whole multiples of a power of two: the sums are exact, their rounding is what shows."""
    k = 90
    x = rng.integers(-60, 61, (5, k)).astype(F16)
    w = rng.integers(-60, 61, (21, k)).astype(F16)
    x[1] *= F16(16)  # beyond 65504 here and there
    x[2] *= F16(2.0**-12)
    w[5:8] *= F16(2.0**-12)  # subnormal results with x[2]
    x[3], w[9] = 0, 0
    x[3, :2], w[9, :2] = (2048, 1), (1, 1)  # 2049, a tie
    x[3, 0], w[10] = F16(2048), 0
    w[10, :2] = 1, 3
    x[4] = 60
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    assert (np.abs(x.astype(np.float64)) @ np.abs(w.astype(np.float64)).T < 2.0**24).all()
    with np.errstate(over="ignore"):
        out = exact.astype(F32).astype(F16)
    assert np.isinf(out).any() and (out.astype(np.float64) != exact).any()
    put("linear_x", x)
    put("linear_w", w)
    put("linear_out", out)


print(f"# spec/support/gen_f16_goldens.py, numpy {np.__version__}, Python {sys.version.split()[0]}")
add()
norm()
silu()
linear()
