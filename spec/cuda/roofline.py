#!/usr/bin/env python3
"""roofline.py - how fast a decode step could be at best, as a table for cuda/README.md.

A step of B tokens at context n reads every weight and the KV cache once and multiplies every weight with B rows:
time = max((weights + B n KV) / bandwidth, 2 B linears / FP8 peak + 2 B head / BF16 peak).  FP8 weights, BF16 head, FP8
KV; tensor parallel TP divides all of them; what devices exchange, launches and activations are not in it."""

GPUS = {"H100": (3.35e12, 1979e12, 989e12), "H200": (4.8e12, 1979e12, 989e12)}  # bytes/s, FP8, BF16 (data sheets)
MODELS = {  # hidden, layers, heads, KV heads, head dim, FFN, vocabulary
    "8B": (4096, 32, 32, 8, 128, 14336, 128256),
    "405B": (16384, 126, 128, 8, 128, 53248, 128256),
}
CASES = [("8B", 1, 1, 1024), ("8B", 1, 64, 1024), ("405B", 8, 1, 1024), ("405B", 8, 64, 2048), ("405B", 8, 1024, 700)]

print("| model | B x context | GB a GPU: weights, KV | TFLOP a GPU | bound on H100 | on H200 |\n|---|---|---|---|---|---|")
for name, tp, batch, context in CASES:
    d, layers, heads, kv_heads, dim, ffn, vocabulary = MODELS[name]
    linears = layers * ((heads + 2 * kv_heads) * dim * d + heads * dim * d + 3 * ffn * d)
    head, kv = vocabulary * d, 2 * kv_heads * dim * layers * batch * context
    weights, work, head_work = (linears + 2 * head) / tp, 2 * batch * linears / tp, 2 * batch * head / tp
    bounds = [batch / max((weights + kv / tp) / w, work / f8 + head_work / b16) for w, f8, b16 in GPUS.values()]
    print(
        f"| {name} TP {tp} | {batch} x {context} | {weights / 1e9:.2f}, {kv / tp / 1e9:.2f} | {(work + head_work) / 1e12:.2f} | "
        + " | ".join(f"{b:.0f} tokens/s" for b in bounds)
        + " |"
    )
