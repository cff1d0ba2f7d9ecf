#!/usr/bin/env python3
"""roofline.py - how fast a decode step could be at best, as a table for cuda/README.md.

A step of B tokens at context n reads every weight and the KV cache once, multiplies every weight with B rows and meets
every position with every query head: time = max((weights + B n KV) / bandwidth, 2 B linears / FP8 peak + (2 B head +
4 B n heads dim) / BF16 peak).  FP8 weights, BF16 head, FP8 KV, attention in BF16; tensor parallel TP divides all of them;
what devices exchange, launches and activations are not in it.  A layer is the same without the head."""

# bytes/s, FP8 and BF16 without sparsity (data sheets of the SXM boards)
GPUS = {"H100": (3.35e12, 1979e12, 989e12), "H200": (4.8e12, 1979e12, 989e12), "B200": (8e12, 4500e12, 2250e12)}
MODELS = {  # hidden, layers, heads, KV heads, head dim, FFN, vocabulary
    "8B": (4096, 32, 32, 8, 128, 14336, 128256),
    "405B": (16384, 126, 128, 8, 128, 53248, 128256),
}
CASES = [("8B", 1, 1, 1024), ("8B", 1, 64, 1024), ("405B", 8, 1, 1024), ("405B", 8, 64, 2048), ("405B", 8, 1024, 700)]


def bound(gpu, bytes_read, fp8, bf16):
    bandwidth, fp8_peak, bf16_peak = GPUS[gpu]
    return max(bytes_read / bandwidth, fp8 / fp8_peak + bf16 / bf16_peak)


def slashed(values, digits):
    return " / ".join(f"{v:.{digits}f}" for v in values)


print("| model | B x context | GB a GPU: weights, KV | TFLOP a GPU | a layer, us | tokens/s |\n|---|---|---|---|---|---|")
for name, tp, batch, context in CASES:
    d, layers, heads, kv_heads, dim, ffn, vocabulary = MODELS[name]
    linears = ((heads + 2 * kv_heads) * dim * d + heads * dim * d + 3 * ffn * d) / tp  # of a layer
    kv = 2 * kv_heads * dim * batch * context / tp
    products, attention = 2 * batch * linears, 4 * batch * context * heads * dim / tp
    head = vocabulary * d / tp
    layer = [bound(g, linears + kv, products, attention) for g in GPUS]
    step = [
        bound(g, layers * (linears + kv) + 2 * head, layers * products, layers * attention + 2 * batch * head) for g in GPUS
    ]
    work = layers * (products + attention) + 2 * batch * head
    print(
        f"| {name} TP {tp} | {batch} x {context} | {(layers * linears + 2 * head) / 1e9:.2f}, {layers * kv / 1e9:.2f} | "
        f"{work / 1e12:.2f} | {slashed((t * 1e6 for t in layer), 1)} | {slashed((batch / t for t in step), 0)} |"
    )
