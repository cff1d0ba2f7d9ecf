#!/usr/bin/env python3
"""Make spec/golden/flavours/logits.jsonl: teacher-forced logits of tiny checkpoints of every flavour.

    gen_flavour_goldens.py [LUA]          LUA runs spec/support/tiny_model.lua; default luajit

tiny_model.lua writes each checkpoint, here and again in the test; this file reads its files as
formats of their own, without the C library: weights become f32 by their scales, activations are
quantized as the scheme says (reference.py).  Needs numpy."""
import json
import os
import subprocess
import sys
import tempfile
import zlib

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import reference  # noqa: E402

GOLDEN = os.path.join(HERE, "..", "golden", "flavours", "logits.jsonl")
F32 = np.float32
IDS = [3, 72, 17, 60, 41, 41, 5, 66, 29, 8, 50, 33]
SMALL = {"vocab": 80, "hidden": 64, "ffn": 96, "layers": 2, "heads": 4, "kv_heads": 2, "tokenizer": False}
WIDE = {**SMALL, "hidden": 160, "ffn": 200, "layers": 1, "heads": 5, "kv_heads": 1}  # blocks of 128 and a rest

# name -> shape, options of tiny_model.lua
FLAVOURS = {
    "bf16": (SMALL, {}),
    "bf16, head_dim 10, 3 kv heads, biases": (SMALL, {
        "heads": 6, "kv_heads": 3, "head_dim": 10, "attention_bias": True, "mlp_bias": True, "rope": "linear"}),
    "bf16, head_dim 24, 8 kv heads, tied": (SMALL, {
        "heads": 8, "kv_heads": 8, "head_dim": 24, "tied": True, "rope": "llama3"}),
    "f16": (SMALL, {"dtype": "F16"}),
    "f32": (SMALL, {"dtype": "F32"}),
    "autofp8 static": (SMALL, {"quant": "fp8-static"}),
    "autofp8 static, biases, split input scales": (SMALL, {
        "quant": "fp8-static", "attention_bias": True, "mlp_bias": True, "split_scales": True, "kv_heads": 1}),
    "autofp8 static, kv scales": (SMALL, {"quant": "fp8-static", "kv_scales": True}),
    "autofp8 static, kv scales that saturate": (SMALL, {"quant": "fp8-static", "kv_scales": 0.25}),
    "autofp8 static, fused, one scale": (SMALL, {"quant": "fp8-static", "fused": "tensor"}),
    "autofp8 static, fused, a scale for each part, biases": (SMALL, {
        "quant": "fp8-static", "fused": "part", "attention_bias": True, "mlp_bias": True}),
    "autofp8 dynamic": (SMALL, {"quant": "fp8-dynamic"}),
    "autofp8 dynamic, quantized head": (SMALL, {"quant": "fp8-dynamic", "quant_head": True}),
    "autofp8 dynamic, f16": (SMALL, {"quant": "fp8-dynamic", "dtype": "F16"}),
    "fp8 block": (WIDE, {"quant": "fp8-block"}),
    "fp8 block, fused": (WIDE, {"quant": "fp8-block", "fused": "tensor"}),
    "ct static": (SMALL, {"quant": "ct-static", "scale_dtype": "BF16"}),
    "ct dynamic": (SMALL, {"quant": "ct-dynamic", "scale_dtype": "BF16"}),
    "ct dynamic, fused": (SMALL, {"quant": "ct-dynamic", "fused": "tensor"}),
    "ct weight-only": (SMALL, {"quant": "ct-weight-only", "scale_dtype": "BF16"}),
    "ct weight-only, f16": (SMALL, {"quant": "ct-weight-only", "dtype": "F16", "scale_dtype": "F16"}),
    "ct block": (WIDE, {"quant": "ct-block", "scale_dtype": "BF16"}),
    "ct frozen": (SMALL, {"quant": "ct-frozen", "scale_dtype": "BF16"}),
    "ct static, older nesting, kv scales": (SMALL, {
        "quant": "ct-static", "nested": True, "kv_scales": True, "kv_names": "output"}),
    "2:4 dense": (SMALL, {"quant": "ct-dynamic", "sparse": "dense"}),
    "2:4 bitmask": (SMALL, {"quant": "ct-dynamic", "sparse": "24-bitmask"}),
    "2:4 bitmask, static, fused, older nesting": (SMALL, {
        "quant": "ct-static", "sparse": "24-bitmask", "fused": "tensor", "nested": True}),
    "2:4 general bitmask": (SMALL, {"quant": "ct-dynamic", "sparse": "bitmask"}),
    "2:4 bf16 bitmask": (SMALL, {"sparse": "24-bitmask"}),
    "2:4 f16 bitmask": (SMALL, {"sparse": "24-bitmask", "dtype": "F16"}),
    "2:4 bf16, everything compressed as in 0.8": (SMALL, {
        "sparse": "old-bitmask", "attention_bias": True, "mlp_bias": True}),
    "2:4 block": (WIDE, {"quant": "ct-block", "sparse": "dense"}),
    "modelopt": (SMALL, {"quant": "modelopt", "kv_scales": True}),
    "modelopt per channel": (SMALL, {"quant": "modelopt-rows"}),
    "modelopt block, weights only": (WIDE, {"quant": "modelopt-block"}),
    "fbgemm": (SMALL, {"quant": "fbgemm"}),
    "fbgemm, bound reached": (SMALL, {"quant": "fbgemm", "scale_ub": 1}),
}

KV_SCALES = [("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale"),
             ("k_proj.output_scale", "v_proj.output_scale")]


class Flavour(reference.Model):
    def __init__(self, directory, wide=False):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        self.fused_rows = {}
        self.read_scheme(directory)
        tensors = reference.read_safetensors(os.path.join(directory, "model.safetensors"))
        dense = {}
        for name in tensors:
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "compressed":
                prefix = name[:-len(".compressed")]
                known = prefix.endswith((".weight", ".bias"))
                dense[prefix if known else prefix + ".weight"] = unpack(tensors, prefix)
            elif leaf not in ("bitmask", "shape", "row_offsets"):
                dense[name] = tensors[name]
        if self.config.get("torch_dtype") == "float32":  # computed in BF16
            dense = {n: reference.bf16(t) if t.dtype == F32 and not n.endswith("scale") else t
                     for n, t in dense.items()}
        self.init(dense, "fp8" if self.kv_fp8 else "bf16", wide)

    def read_scheme(self, directory):
        """act, bound, whether plain weights wait for their scales, whether the KV cache is FP8."""
        self.act, self.x_ub, self.frozen, self.kv_fp8 = None, None, False, False
        side = os.path.join(directory, "hf_quant_config.json")
        q = self.config.get("quantization_config")
        if "compression_config" in self.config:
            q = self.config["compression_config"]["quantization_config"]
        if os.path.exists(side):
            with open(side, encoding="utf-8") as f:
                q = json.load(f)["quantization"]
            self.act = {"FP8": "static", "FP8_PER_CHANNEL_PER_TOKEN": "token", "FP8_PB_WO": None}[q["quant_algo"]]
            self.kv_fp8 = q["kv_cache_quant_algo"] == "FP8"
        elif q is None:
            return
        elif q["quant_method"] == "fp8":
            self.act = {"static": "static", "dynamic": "token"}[q["activation_scheme"]]
            self.kv_fp8 = q.get("kv_cache_scheme") is not None
            if "weight_block_size" in q:
                self.act = "group"
        elif q["quant_method"] == "fbgemm_fp8":
            self.act, self.x_ub = "token", q["activation_scale_ub"]
        elif "config_groups" in q:
            x = q["config_groups"]["group_0"]["input_activations"]
            self.act = x and {"tensor": "static", "token": "token", "group": "group"}[x["strategy"]]
            self.frozen, self.kv_fp8 = q["format"] == "dense", q["kv_cache_scheme"] is not None

    def linear(self, tensors, name):
        """The module's tensors, or its rows of the fused module's."""
        first, n, part = 0, None, 0
        if name + ".weight" not in tensors:
            c, (prefix, leaf) = self.config, name.rsplit(".", 1)
            q, kv, ffn = self.heads * self.dim, self.kv_heads * self.dim, c["intermediate_size"]
            fused = {"q_proj": ("qkv_proj", 0, q, 0), "k_proj": ("qkv_proj", q, kv, 1),
                     "v_proj": ("qkv_proj", q + kv, kv, 2), "gate_proj": ("gate_up_proj", 0, ffn, 0),
                     "up_proj": ("gate_up_proj", ffn, ffn, 1)}
            leaf, first, n, part = fused[leaf]
            name = prefix + "." + leaf
        weight = tensors[name + ".weight"]
        rows = slice(first, first + (n or len(weight)))
        bias = tensors.get(name + ".bias")
        bias = None if bias is None else bias[rows]
        scale = tensors.get(name + ".weight_scale", tensors.get(name + ".weight_scale_inv"))
        if scale is None:
            return reference.Linear(weight[rows], bias=bias, round=self.round)
        scale = scale_of_rows(scale, weight.shape, part, n)[rows]
        weight = weight[rows]
        if self.frozen:  # weight and scale are BF16, so their quotient is
            weight = reference.e4m3_codes(reference.e4m3(reference.bf16(weight / scale)))
        x = tensors.get(name + ".input_scale")
        x = None if x is None else F32(x.reshape(-1)[part if x.size > 1 else 0])
        return reference.Linear(weight, scale, self.act, x, self.x_ub, bias, self.round)

    def layer(self, tensors, prefix):
        layer = super().layer(tensors, prefix)
        for k, v in KV_SCALES:
            if prefix + "self_attn." + k in tensors:
                layer["kv_scales"] = tuple(F32(tensors[prefix + "self_attn." + n].reshape(())) for n in (k, v))
        return layer


def unpack(tensors, prefix):
    """The dense tensor of both bitmask layouts."""
    shape = tensors[prefix + ".shape"].reshape(-1)
    bits = np.unpackbits(tensors[prefix + ".bitmask"], axis=-1, bitorder="little")[..., :shape[-1]]
    kept = tensors[prefix + ".compressed"]
    dense = np.zeros(shape, kept.dtype)
    dense[bits.reshape(shape).astype(bool)] = kept.reshape(-1)
    return dense


def scale_of_rows(scale, shape, part, n_part):
    """[N, 1] or [N, blocks of 128 columns] of the weight as it is stored."""
    n, k = shape
    if scale.size == 1:
        return np.full((n, 1), scale.reshape(()), F32)
    if scale.size == n and scale.shape[-1] in (1, n):
        return scale.reshape(n, 1)
    if scale.ndim == 1:
        return np.full((n, 1), scale[part], F32)
    blocks = scale.reshape(-(-n // 128), -(-k // 128))
    return np.repeat(blocks, 128, axis=0)[:n]


def main():
    lua = sys.argv[1] if len(sys.argv) > 1 else "luajit"
    with tempfile.TemporaryDirectory() as tmp, open(GOLDEN, "w", encoding="utf-8") as out:
        out.write(json.dumps({"made by": f"spec/support/gen_flavour_goldens.py, numpy {np.__version__}"}) + "\n")
        for i, (name, (shape, options)) in enumerate(FLAVOURS.items()):
            options, directory = {**shape, **options, "seed": i + 1}, os.path.join(tmp, str(i))
            words = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items()]
            subprocess.run([lua, os.path.join(HERE, "tiny_model.lua"), directory] + words, check=True)
            with open(os.path.join(directory, "model.safetensors"), "rb") as f:
                check = zlib.adler32(f.read())
            run, exact = Flavour(directory).logits(IDS), Flavour(directory, wide=True).logits(IDS)
            error = float(np.abs(run - exact).max())
            out.write(json.dumps({
                "name": name, "options": options, "adler32": check, "ids": IDS, "error": round(error, 7),
                "logits": [[round(float(x), 5) for x in row] for row in exact]}, separators=(",", ":")) + "\n")
            print(f"{name}: {error:.2g}", file=sys.stderr)


if __name__ == "__main__":
    main()
