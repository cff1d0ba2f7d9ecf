#!/usr/bin/env python3
"""Make the long context golden: a tiny random llama3-RoPE model over 131,072 tokens with an FP8 KV cache.

    gen_long_context.py            -> spec/golden/long_context/{config.json,model.safetensors,logits.jsonl}

The model is small in everything but its context, and its q and k weights are large enough that attention
settles on a few keys anywhere in the past: a wrong angle at a far position changes the logits.
Takes a few minutes on two idle cores.  Needs numpy; spec/golden/README.md has the versions used."""
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import get_model  # noqa: E402
import reference  # noqa: E402

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "long_context")
TOKENS = 131072
POSITIONS = [8191, 65535, 131071]

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 256,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                     "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
}

# name -> rows, columns, standard deviation
LINEARS = {
    "self_attn.q_proj": (32, 32, 0.31), "self_attn.k_proj": (16, 32, 0.31),
    "self_attn.v_proj": (16, 32, 0.18), "self_attn.o_proj": (32, 32, 0.50),
    "mlp.gate_proj": (64, 32, 0.25), "mlp.up_proj": (64, 32, 0.25), "mlp.down_proj": (32, 64, 0.12),
}


def token_ids():
    """x = x * 16807 mod 2^31 - 1 from 1; the id is x mod 256.  Products stay below 2^53."""
    ids, x = [], 1
    for _ in range(TOKENS):
        x = x * 16807 % 2147483647
        ids.append(x % 256)
    return np.array(ids)


def make_tensors():
    rng = np.random.Generator(np.random.PCG64(2))

    def normal(rows, columns, deviation):
        return rng.standard_normal((rows, columns)) * deviation

    def norm():
        return 1 + 0.1 * rng.standard_normal(32)

    tensors = {"model.embed_tokens.weight": normal(256, 32, 1.0), "lm_head.weight": normal(256, 32, 0.5),
               "model.norm.weight": norm()}
    for i in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        tensors[prefix + "input_layernorm.weight"] = norm()
        tensors[prefix + "post_attention_layernorm.weight"] = norm()
        for name, shape in LINEARS.items():
            tensors[prefix + name + ".weight"] = normal(*shape)
    return {name: get_model.to_bf16(np, w) for name, w in tensors.items()}


class LongModel(reference.Model):
    """Attention block by block, and in the last layer for the wanted positions only."""

    QUERIES, KEYS = 128, 4096

    def attend_rows(self, q, rows, k, v):
        """Attention of q[rows] (ascending) over positions 0..row."""
        kind = np.float64 if self.wide else np.float32
        scale = kind(self.dim ** -0.5)
        queries = (q[rows].reshape(-1, self.dim) * scale).astype(kind)  # row-major (row, head); one kv head
        last = np.repeat(rows, self.heads)
        total, out = np.zeros(len(queries), kind), np.zeros((len(queries), self.dim), kind)
        for at in range(0, int(rows[-1]) + 1, self.KEYS):
            keys = k[at:at + self.KEYS, 0].astype(kind)
            scores = queries @ keys.T
            assert np.abs(scores).max() < 60  # so exp() needs no maximum subtracted
            if at + len(keys) > rows[0]:
                scores[np.arange(at, at + len(keys)) > last[:, None]] = -np.inf
            np.exp(scores, out=scores)
            total += scores.sum(-1)
            out += scores @ v[at:at + self.KEYS, 0].astype(kind)
        return reference.bf16((out / total[:, None]).astype(np.float32)).reshape(len(rows), self.heads, -1)

    def attend(self, q, k, v):
        assert self.kv_heads == 1
        out = np.zeros_like(q)
        self.layer_index += 1
        if self.layer_index == len(self.layers):
            for p in self.positions:
                out[p] = self.attend_rows(q, np.array([p]), k, v)[0]
            return out
        for at in range(0, len(q), self.QUERIES):
            rows = np.arange(at, min(at + self.QUERIES, len(q)))
            out[rows] = self.attend_rows(q, rows, k, v)
            if at % 8192 == 0:
                print(f"\r{at} of {len(q)} positions", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return out

    def logits_at(self, ids, positions):
        self.layer_index, self.positions = 0, positions
        return self.head(self.hidden(ids)[positions], self.wide)


def main():
    os.makedirs(GOLDEN, exist_ok=True)
    with open(os.path.join(GOLDEN, "config.json"), "w", encoding="utf-8") as f:
        json.dump(CONFIG, f, indent=2)
        f.write("\n")
    get_model.write_safetensors(os.path.join(GOLDEN, "model.safetensors"), make_tensors(), {"format": "pt"})
    ids = token_ids()
    logits = LongModel(GOLDEN, kv="fp8").logits_at(ids, POSITIONS)
    with open(os.path.join(GOLDEN, "logits.jsonl"), "w", encoding="utf-8") as f:
        for p, row in zip(POSITIONS, logits):
            line = {"position": p, "logits": [round(float(v), 4) for v in row]}
            f.write(json.dumps(line, separators=(",", ":")) + "\n")
    first = POSITIONS[:1]
    exact = LongModel(GOLDEN, kv="fp8", wide=True).logits_at(ids[:first[0] + 1], first)
    print(f"position {first[0]}: sums in float32 against float64: {np.abs(logits[0] - exact[0]).max():.4f}",
          file=sys.stderr)


if __name__ == "__main__":
    main()
