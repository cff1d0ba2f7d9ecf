#!/usr/bin/env python3
"""Write spec/golden/sampler.txt: what the sampler must do, from definitions alone.

    python3 -m venv build/venv && build/venv/bin/pip install numpy
    build/venv/bin/python spec/support/gen_sampler_goldens.py > spec/golden/sampler.txt

Needs numpy only (made with 2.4.6).  Nothing here follows the C code: every stage is
written with full sorts in float64, from the public definitions

  allowed, bias    everything else -inf; bias clamped to [-100, 100], added
  penalties        repetition (prompt + output), frequency and presence (output)
  temperature      logits / T
  min_p            p < min_p * max p is removed
  top_k            logit < k-th largest is removed (ties stay)
  top_p            ascending order, tokens whose inclusive cumulative mass is <= 1 - p
                   are removed, the last one never (equal logits: higher id first)
  draw             argmin of -log1p(-u) / p over philox4x32-10 numbers, see sampler.h

which are vLLM's.  A case whose outcome hangs on rounding (a probability within 1e-6 of min_p, a mass within 2.5e-7 of top_p,
two race keys within 1e-5) stops the generator.  Rows come from a 32-bit LCG, so the file
holds only their seeds.
"""
import numpy as np

MASK = 0xFFFFFFFF


def row(n, seed, spread, peaks):
    """n logits with `spread` steps of 1/64 around 0, `peaks` of them raised."""
    state, x = seed, np.zeros(n, np.float32)

    def rnd(limit):
        nonlocal state
        state = (state * 1664525 + 1013904223) & MASK
        return (state >> 8) % limit

    for i in range(n):
        x[i] = (rnd(2 * spread + 1) - spread) / 64.0
    for _ in range(peaks):
        at = rnd(n)
        x[at] = 6.0 + rnd(384) / 64.0
    return x


def philox(counter, key):
    c, k = list(counter), [key & MASK, key >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def clear(margin, what):
    if margin < 1e-6:
        raise SystemExit(f"{what}: decided by rounding (margin {margin:g}), change the case")


def penalties(x, c):
    out = c.get("output", [])
    for i in set(out) | set(c.get("prompt", [])):
        r, count = c.get("repetition_penalty", 1.0), out.count(i)
        x[i] = x[i] / r if x[i] > 0 else x[i] * r
        x[i] -= c.get("frequency_penalty", 0.0) * count
        x[i] -= c.get("presence_penalty", 0.0) * (count > 0)
    return x


def allowed(x, c):
    keep = np.zeros(len(x), bool)
    keep[c["allowed"]] = True
    return np.where(keep, x, -np.inf)


def bias(x, c):
    for i, b in c["bias"]:
        x[i] += max(-100.0, min(100.0, b))
    return x


def min_p(x, c):
    p = softmax(x)
    gap = np.abs(p / p.max() - f32(c["min_p"]))
    clear(gap[gap > 0].min(), "min_p")  # 0: the best token under min_p = 1
    return np.where(p < f32(c["min_p"]) * p.max(), -np.inf, x)


def top_k(x, c):
    return x if c["top_k"] >= len(x) else np.where(x < np.sort(x)[-c["top_k"]], -np.inf, x)


def top_p(x, c):
    order = np.lexsort((-np.arange(len(x)), x))  # ascending; equal: higher id first
    mass = np.cumsum(softmax(x)[order])
    live = mass > 0
    clear(np.abs(mass[live] - (1 - f32(c["top_p"]))).min() * 4, "top_p")
    drop = mass <= 1 - f32(c["top_p"])
    drop[-1] = False
    x = x.copy()
    x[order[drop]] = -np.inf
    return x


def f32(v):
    return float(np.float32(v))


STAGES = {
    "allowed": (allowed, lambda c: "allowed" in c),
    "bias": (bias, lambda c: "bias" in c),
    "penalties": (penalties, lambda c: any(k.endswith("_penalty") for k in c)),
    "temperature": (lambda x, c: x / f32(c["temperature"]), lambda c: "temperature" in c),
    "min_p": (min_p, lambda c: "min_p" in c),
    "top_k": (top_k, lambda c: c.get("top_k", 0) > 0),
    "top_p": (top_p, lambda c: "top_p" in c),
}
VLLM = ["allowed", "bias", "penalties", "temperature", "min_p", "top_k", "top_p"]
LLAMA = ["bias", "penalties", "top_k", "top_p", "min_p", "temperature"]
PARAMS = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty",
          "presence_penalty"]


def process(x, c):
    greedy = c.get("temperature", 1.0) < 1e-5
    for name in c.get("order", VLLM):
        stage, active = STAGES[name]
        if active(c) and not (greedy and name in ("temperature", "min_p", "top_k", "top_p")):
            x = stage(x.copy(), c)
    return x


def draw(x, seed, number):
    kept = np.flatnonzero(np.isfinite(x))
    p = softmax(x)
    keys = []
    for i in kept:
        word = philox([int(i) >> 2, number & MASK, number >> 32, 0], seed)[i & 3]
        u = (word + 0.5) / 2.0**32
        keys.append(-np.log1p(-u) / max(p[i], 1e-300))
    keys = np.array(keys)
    best = np.sort(keys)
    if len(best) > 1:
        clear((best[1] - best[0]) / best[0] - 9e-6, "race")
    return int(kept[keys.argmin()])


def emit(name, c):
    x = row(c["n"], c["lcg"], c["spread"], c["peaks"]).astype(np.float64)
    lse = x.max() + np.log(np.exp(x - x.max()).sum())
    y = process(x.copy(), {k: f32(v) if k in PARAMS and k != "top_k" else v for k, v in c.items()})
    print(f"case {name}")
    print(f"row {c['n']} {c['lcg']} {c['spread']} {c['peaks']}")
    for k in PARAMS:
        if k in c:
            print(f"{k} {c[k]}")
    for k in ("prompt", "output", "allowed"):
        if k in c:
            print(k, len(c[k]), *c[k])
    if "bias" in c:
        print("bias", len(c["bias"]), *(v for pair in c["bias"] for v in pair))
    if "order" in c:
        print("order", len(c["order"]), *c["order"])
    kept = np.flatnonzero(np.isfinite(y))
    named = {*c.get("prompt", []), *c.get("output", []), *(i for i, _ in c.get("bias", []))}
    shown = kept if len(kept) <= 48 else sorted({*kept[:: len(kept) // 16 + 1],
                                                 *(named & set(kept))})
    print(f"kept {len(kept)} {int(kept.sum())} {len(shown)}",
          *(f"{i} {y[i]:.9g}" for i in shown))
    ids = [int(y.argmax())] if c.get("temperature", 1.0) < 1e-5 else \
        [draw(y, c.get("seed", 7), k) for k in range(c.get("draws", 6))]
    print(f"draws {c.get('seed', 7)} {len(ids)}", *(f"{i} {x[i] - lse:.9g}" for i in ids))


SMALL = dict(n=203, lcg=1, spread=300, peaks=9)
BIG = dict(n=128256, lcg=11, spread=420, peaks=60)
TIES = dict(n=500, lcg=5, spread=6, peaks=3)
HIST = dict(prompt=[3, 9, 9, 17, 60, 100], output=[9, 21, 21, 21, 60, 7, 202])
BEST = dict(prompt=[26, 32], output=[10, 10, 137])  # ids with high logits in SMALL

CASES = {
    "plain": {},
    "greedy": dict(temperature=0.0),
    "greedy just below the limit": dict(temperature=9e-6),
    "greedy ignores the filters": dict(temperature=0.0, top_k=1, top_p=0.1, min_p=0.9, **HIST,
                                       repetition_penalty=30.0),
    "cold": dict(temperature=0.05),
    "hot": dict(temperature=3.5),
    "min_p": dict(min_p=0.08),
    "min_p 1 keeps the best": dict(min_p=1.0, temperature=0.9),
    "top_k": dict(top_k=12),
    "top_k 1": dict(top_k=1),
    "top_k more than the vocabulary": dict(top_k=5000),
    "top_k keeps ties": dict(TIES, top_k=20),
    "top_p": dict(top_p=0.83),
    "top_p keeps the token that crosses": dict(top_p=0.001),
    "top_p nearly all": dict(top_p=0.99995),
    "top_p cuts inside a tie": dict(TIES, top_p=0.37, temperature=0.5),
    "top_p over equal logits": dict(n=130, lcg=5, spread=0, peaks=0, top_p=0.513),
    "the usual": dict(temperature=0.6, top_p=0.9, seed=42),
    "all filters": dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=2**53),
    "repetition": dict(HIST, repetition_penalty=1.3),
    "repetition below 1": dict(HIST, repetition_penalty=0.7),
    "frequency": dict(HIST, frequency_penalty=0.9),
    "presence": dict(HIST, presence_penalty=-1.5),
    "three penalties": dict(HIST, repetition_penalty=1.2, frequency_penalty=0.4,
                            presence_penalty=0.7, temperature=0.7),
    "prompt only": dict(prompt=[1, 2, 3], repetition_penalty=1.5, frequency_penalty=2.0),
    "bias": dict(bias=[(5, 9.5), (6, -250.0), (7, 0.5)]),
    "bias wins a greedy row": dict(temperature=0.0, bias=[(201, 1000.0)]),
    "allowed": dict(allowed=[4, 8, 15, 16, 23, 42]),
    "allowed, bias, penalties": dict(HIST, allowed=[3, 9, 21, 60, 61, 62], bias=[(61, 3.0)],
                                     repetition_penalty=1.1, presence_penalty=1.0),
    "big greedy": dict(BIG, temperature=0.0),
    "big top_k": dict(BIG, top_k=30, draws=4),
    "big top_k beyond the blocks": dict(BIG, top_k=3000, draws=1),
    "big top_p": dict(BIG, temperature=0.4, top_p=0.7, draws=4),
    "big min_p": dict(BIG, min_p=0.3, draws=4),
    "big all": dict(BIG, temperature=0.7, top_k=50, top_p=0.9, min_p=0.01, draws=4),
    "big peaked": dict(n=128256, lcg=3, spread=40, peaks=12, temperature=0.5, top_p=0.98,
                       draws=4),
    "llama.cpp order": dict(order=LLAMA, temperature=0.5, top_k=40, top_p=0.9, min_p=0.05),
    "llama.cpp order, hot": dict(order=LLAMA, temperature=2.0, top_k=40, top_p=0.95, min_p=0.05,
                                 **HIST, repetition_penalty=1.1),
    "vLLM order, hot": dict(temperature=2.0, top_k=40, top_p=0.95, min_p=0.05, **HIST,
                            repetition_penalty=1.1),
    "llama.cpp order, big": dict(BIG, order=LLAMA, temperature=1.5, top_k=40, top_p=0.8,
                                 min_p=0.1, draws=4),
    "penalties after top_k": dict(order=["top_k", "penalties", "top_p", "temperature"], **BEST,
                                  top_k=25, repetition_penalty=1.4, top_p=0.9, temperature=0.8),
    "bias and allowed ids last": dict(order=["top_k", "temperature", "bias", "allowed"],
                                      bias=[(26, -1.0), (5, 2.0)], top_k=25, temperature=0.8,
                                      allowed=[26, 32, 10, 5, 137]),
}

if __name__ == "__main__":
    print("# by spec/support/gen_sampler_goldens.py, numpy", np.__version__)
    for case_name, params in CASES.items():
        emit(case_name, {**SMALL, **params})
    print("end")
