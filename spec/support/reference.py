"""A Llama forward pass in numpy with the rounding points of src/backend/backend.h: the reference behind
spec/golden.  Written from formats.md-level facts only, it shares no code with the C library.

Arithmetic is f32 (or f64 with wide=True, which only changes how sums are carried and so shows how far
two correct implementations may lie apart); values are rounded to BF16 or E4M3 where the library stores
them.  Needs numpy."""
import json
import os
import struct

import numpy as np

F32 = np.float32
E4M3_MAX = F32(448)


# ---- numbers ----------------------------------------------------------------------------------------


def bf16(x):
    """Nearest BF16 (ties to even), as f32."""
    bits = np.ascontiguousarray(x, dtype=F32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(F32)


def f16(x):
    """Nearest F16, as f32."""
    return np.asarray(x, dtype=F32).astype(np.float16).astype(F32)


def e4m3(x):
    """Nearest E4M3 (ties to even), saturating at +-448, as f32."""
    x = np.clip(np.asarray(x, dtype=F32), -E4M3_MAX, E4M3_MAX)
    exponent = np.maximum(np.frexp(x)[1] - 1, -6)  # 2^-6 is the smallest normal
    step = np.ldexp(F32(1), exponent - 3).astype(F32)
    return np.rint(x / step) * step


def e4m3_table():
    codes = np.arange(128)
    e, m = codes >> 3, codes & 7
    half = np.where(e == 0, np.ldexp(m, -9), np.ldexp(8.0 + m, e - 10)).astype(F32)
    half[127] = np.nan
    return np.concatenate([half, -half])


def e4m3_codes(x):
    """Code bytes of the values that e4m3() returns."""
    order = np.argsort(e4m3_table()[:127])
    magnitude = order[np.searchsorted(e4m3_table()[:127], np.abs(x))].astype(np.uint8)
    return magnitude | (np.signbit(x).astype(np.uint8) << 7)


# ---- files ------------------------------------------------------------------------------------------


def read_safetensors(path):
    """name -> array; BF16, F16 and F32 as f32, F8_E4M3 as raw uint8 codes, U8 too, I64 as it is."""
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    out = {}
    for name, t in header.items():
        raw = data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            a = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(F32)
        elif t["dtype"] in ("F8_E4M3", "U8"):
            a = np.frombuffer(raw, np.uint8)
        elif t["dtype"] == "I64":
            a = np.frombuffer(raw, "<i8")
        else:
            a = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[t["dtype"]]).astype(F32)
        out[name] = a.reshape(t["shape"])
    return out


# ---- model ------------------------------------------------------------------------------------------


GROUP = 128  # columns of a block of weights and of a group of activations
ACT_SCALE_MIN = F32(1) / F32(448 * 512)


class Linear:
    """y = x @ w^T + bias.  weight: [N,K] f32, or E4M3 codes beside w_scale [N,B] with B = 1 or ceil(K / 128).
    act: None, "static" (x_scale), "token" or "group"; x_ub: the bound on a token's absmax."""

    def __init__(self, weight, w_scale=None, act=None, x_scale=None, x_ub=None, bias=None, round=bf16):
        self.act, self.x_scale, self.x_ub, self.bias, self.round = act, x_scale, x_ub, bias, round
        self.w_scale = w_scale
        self.wt = np.ascontiguousarray((weight if w_scale is None else e4m3_table()[weight]).T)

    @staticmethod
    def autofp8(tensors, name):
        """From the names of an AutoFP8 checkpoint with static scales, or of a plain one."""
        w = tensors[name + ".weight"]
        if w.dtype != np.uint8:
            return Linear(w)
        scale = np.full((len(w), 1), tensors[name + ".weight_scale"].reshape(()), F32)
        return Linear(w, scale, "static", F32(tensors[name + ".input_scale"].reshape(())))

    def quantize(self, x):
        """Codes as f32, and their scale as [T,1] or [T,groups]."""
        if self.act == "static":
            return e4m3(x * (F32(1) / self.x_scale)), np.full((len(x), 1), self.x_scale, F32)
        spans = groups(x.shape[1]) if self.act == "group" else [slice(None)]
        amax = np.stack([np.abs(x[:, s]).max(1) for s in spans], 1)
        if self.x_ub:
            amax = np.minimum(amax, F32(self.x_ub))
        scale = np.maximum(amax / E4M3_MAX, ACT_SCALE_MIN)
        q = np.concatenate([e4m3(x[:, s] / scale[:, i:i + 1]) for i, s in enumerate(spans)], 1)
        return q, scale

    def __call__(self, x, wide):
        if self.act:
            x, x_scale = self.quantize(x)
        else:
            x_scale = np.ones((len(x), 1), F32)
        w_scale = np.ones((self.wt.shape[1], 1), F32) if self.w_scale is None else self.w_scale
        blocks = max(x_scale.shape[1], w_scale.shape[1])
        y = 0
        for b, s in enumerate(groups(x.shape[1]) if blocks > 1 else [slice(None)]):
            xs, ws = x_scale[:, min(b, x_scale.shape[1] - 1)], w_scale[:, min(b, w_scale.shape[1] - 1)]
            y = y + matmul(x[:, s], self.wt[s], wide) * (xs[:, None] * ws)
        return self.round(y if self.bias is None else y + self.bias)


def groups(k):
    return [slice(i, min(i + GROUP, k)) for i in range(0, k, GROUP)]


def matmul(a, b, wide):
    if wide:
        return (a.astype(np.float64) @ b.astype(np.float64)).astype(F32)
    return a @ b


def inverse_frequencies(config, dim):
    """In f32, operation by operation, as transformers does; only the power is taken in f64, since numpy's
    f32 power is an ulp off here and there, and at position 131071 an ulp is worth up to 0.008 rad."""
    theta = float(config.get("rope_theta", 10000.0))
    inv = F32(1) / (theta ** (np.arange(0, dim, 2) / dim)).astype(F32)
    scaling = config.get("rope_scaling")
    if scaling is None:
        return inv
    if scaling["rope_type"] == "linear":
        return inv / F32(scaling["factor"])
    assert scaling["rope_type"] == "llama3", scaling
    factor, low, high = (F32(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    wavelength = F32(2 * np.pi) / inv
    blend = (F32(scaling["original_max_position_embeddings"]) / wavelength - low) / (high - low)
    blend = np.clip(blend, F32(0), F32(1))
    return (F32(1) - blend) * inv / factor + blend * inv


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Model:
    def __init__(self, directory, kv="bf16", wide=False):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        self.init(read_safetensors(os.path.join(directory, "model.safetensors")), kv, wide)

    def init(self, tensors, kv, wide):
        c = self.config
        self.round = f16 if c.get("torch_dtype") == "float16" else bf16
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.inv_freq = inverse_frequencies(c, self.dim)
        self.eps, self.kv, self.wide = F32(c["rms_norm_eps"]), kv, wide
        self.embed = tensors["model.embed_tokens.weight"]
        self.norm = tensors["model.norm.weight"]
        tied = c.get("tie_word_embeddings")
        self.head = self.linear(tensors, "model.embed_tokens" if tied else "lm_head")
        self.head.round = lambda x: x  # logits are f32
        self.layers = [self.layer(tensors, f"model.layers.{i}.") for i in range(c["num_hidden_layers"])]

    def linear(self, tensors, name):
        return Linear.autofp8(tensors, name)

    def layer(self, tensors, prefix):
        layer = {n: self.linear(tensors, prefix + "self_attn." + n) for n in
                 ("q_proj", "k_proj", "v_proj", "o_proj")}
        layer.update({n: self.linear(tensors, prefix + "mlp." + n) for n in
                      ("gate_proj", "up_proj", "down_proj")})
        for n in ("input_layernorm", "post_attention_layernorm"):
            layer[n] = tensors[prefix + n + ".weight"]
        return layer

    def rms_norm(self, x, weight):
        mean = np.mean(np.square(x, dtype=np.float64 if self.wide else F32), -1, keepdims=True)
        return self.round(weight * self.round(x / np.sqrt(mean.astype(F32) + self.eps)))

    def rotate(self, x, positions):
        """x [T, heads, dim]; halves j and j + dim/2 rotate together."""
        angle = (positions.astype(F32)[:, None, None] * self.inv_freq).astype(np.float64)
        cos, sin = np.cos(angle).astype(F32), np.sin(angle).astype(F32)
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def store(self, x, scale=F32(1)):
        """K (rotated) and V as the cache keeps them: BF16 first, as in engines whose cache write is an op
        of its own, then E4M3 of x / scale."""
        return e4m3(self.round(x) / scale) * scale if self.kv == "fp8" else self.round(x)

    def attend(self, q, k, v):
        """q [T,H,E] at positions 0..T-1 of the same sequence as k, v [T,G,E]."""
        t, group = len(q), self.heads // self.kv_heads
        future = np.triu(np.full((t, t), -np.inf, F32), 1)
        out = np.empty_like(q)
        for h in range(self.heads):
            scores = matmul(q[:, h], k[:, h // group].T, self.wide) * F32(self.dim ** -0.5)
            out[:, h] = matmul(softmax(scores + future), v[:, h // group], self.wide)
        return self.round(out)

    def block(self, x, layer, positions, attend):
        t = len(x)
        h = self.rms_norm(x, layer["input_layernorm"])
        q, k, v = (layer[n](h, self.wide).reshape(t, -1, self.dim) for n in ("q_proj", "k_proj", "v_proj"))
        k_scale, v_scale = layer.get("kv_scales", (F32(1), F32(1)))
        q, k = self.round(self.rotate(q, positions)), self.store(self.rotate(k, positions), k_scale)
        a = attend(q, k, self.store(v, v_scale)).reshape(t, -1)
        x = self.round(x + layer["o_proj"](a, self.wide))
        h = self.rms_norm(x, layer["post_attention_layernorm"])
        gate, up = layer["gate_proj"](h, self.wide), layer["up_proj"](h, self.wide)
        h = self.round(gate / (1 + np.exp(-gate)) * up)
        return self.round(x + layer["down_proj"](h, self.wide))

    def hidden(self, ids):
        x, positions = self.embed[np.asarray(ids)], np.arange(len(ids))
        for layer in self.layers:
            x = self.block(x, layer, positions, self.attend)
        return self.rms_norm(x, self.norm)

    def logits(self, ids):
        """[T, vocab] f32, teacher-forced."""
        return self.head(self.hidden(ids), self.wide)


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
