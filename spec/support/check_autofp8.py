#!/usr/bin/env python3
"""AutoFP8's static calibration in numpy, for `quantize --compat`: every linear computes with quantized weights and
quantized inputs and keeps the largest input scale it has seen; lines are padded with the end token, unmasked.

    check_autofp8.py check BF16_DIR FP8_DIR FILE.jsonl [SAMPLES [MAX_LENGTH]]
        compare the input scales of a directory that --compat made: the largest relative difference
    check_autofp8.py write BF16_DIR FILE.jsonl GOLDEN
        write the input scales as lines "module scale"

Weights:  m = 448 / amax (BF16: the reciprocal, then the product), code = e4m3(bf16(w * m)), scale = 1 / m in F32
Inputs:   the same, with the m of the largest magnitude so far

Independent of the library: text comes from jinja2 and the package tokenizers, the forward pass from reference.py.
Needs: numpy, jinja2, tokenizers."""
import json
import os
import sys

import jinja2
import numpy as np
import tokenizers

from reference import F32, Model, bf16, e4m3, matmul, read_safetensors


def scale_of(amax):
    inverse = bf16(F32(1) / np.maximum(F32(amax), bf16(F32(1e-12))))
    return F32(1) / bf16(inverse * F32(448)).reshape(())


class StaticLinear:
    """Quantized weights; the input scale is the largest so far."""

    def __init__(self, tensors, name):
        w = tensors[name + ".weight"]
        self.name, self.w_scale = name, scale_of(np.abs(w).max())
        self.wt = np.ascontiguousarray(e4m3(bf16(w * bf16(F32(1) / self.w_scale))).T)
        self.x_scale = F32(0)

    def __call__(self, x, wide):
        self.x_scale = np.maximum(self.x_scale, scale_of(np.abs(x).max()))
        codes = e4m3(bf16(x * bf16(F32(1) / self.x_scale)))
        return bf16(matmul(codes, self.wt, wide) * (self.x_scale * self.w_scale))


class Calibrated(Model):
    @staticmethod
    def layer(tensors, prefix):
        layer = {n.rsplit(".", 1)[1]: StaticLinear(tensors, prefix + n) for n in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}
        for n in ("input_layernorm", "post_attention_layernorm"):
            layer[n] = tensors[prefix + n + ".weight"]
        return layer


def token_name(value):
    return value["content"] if isinstance(value, dict) else value


def read_lines(directory, path, samples, max_length):
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    tokenizer.no_truncation()
    with open(os.path.join(directory, "tokenizer_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    names = {k: token_name(config[k]) for k in ("bos_token", "eos_token") if config.get(k)}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(config["chat_template"])
    rows = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            if not line.strip() or len(rows) == samples:
                continue
            line = json.loads(line)
            chat = "messages" in line
            text = template.render(messages=line["messages"], **names) if chat else line["text"]
            rows.append(tokenizer.encode(text, add_special_tokens=not chat).ids[:max_length])
    longest, end = max(map(len, rows)), tokenizer.token_to_id(names["eos_token"])
    return [row + [end] * (longest - len(row)) for row in rows]


def calibrate(directory, path, samples=512, max_length=2048):
    model = Calibrated(directory)
    for row in read_lines(directory, path, samples, max_length):
        model.hidden(row)
    return {m.name: m.x_scale for layer in model.layers for m in layer.values() if isinstance(m, StaticLinear)}


def check(source, made, path, samples=512, max_length=2048):
    want, worst = calibrate(source, path, int(samples), int(max_length)), (0.0, "")
    tensors = read_safetensors(os.path.join(made, "model.safetensors"))
    differences = []
    for name, scale in want.items():
        got = float(tensors[name + ".input_scale"].reshape(()))
        differences.append(abs(got / float(scale) - 1))
        worst = max(worst, (differences[-1], name))
    equal = sum(d == 0 for d in differences)
    print(f"{made}: {len(want)} input scales, {equal} equal, largest difference {100 * worst[0]:.3f} % ({worst[1]})")
    return 1 if worst[0] > 0.01 else 0


def write(source, path, golden):
    with open(golden, "w", encoding="ascii") as f:
        f.write("# spec/support/check_autofp8.py write, numpy " + np.__version__ + "\n")
        for name, scale in calibrate(source, path).items():
            f.write(f"{name} {float(scale)!r}\n")
    return 0


if __name__ == "__main__":
    sys.exit({"check": check, "write": write}[sys.argv[1]](*sys.argv[2:]))
