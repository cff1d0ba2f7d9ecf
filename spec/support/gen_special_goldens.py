#!/usr/bin/env python3
"""Write spec/golden/special_tokens.json: what transformers makes of the files beside tokenizer.json.

    pip install transformers==5.24.0 jinja2        # in one environment
    pip install "transformers==4.57.6" jinja2      # in another
    python3 spec/support/gen_special_goldens.py               # in the first: all cases
    python3 spec/support/gen_special_goldens.py check         # in the second: which differ there

Every case is a folder with a tokenizer.json of 256 bytes and a few merges.  The cases whose
"release" is 4 follow 4.57.6, where the class of a tokenizer reads add_bos_token; "check" writes
those and says where another case differs.
"""
import json
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"

import transformers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
OUT = os.path.join(ROOT, "spec", "golden", "special_tokens.json")


def alphabet():
    """GPT-2's characters for the 256 bytes, by byte."""
    shown = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in shown]
    chars = {b: chr(b) for b in shown}
    chars.update({b: chr(256 + i) for i, b in enumerate(hidden)})
    return [chars[b] for b in range(256)]


def base():
    pieces = alphabet() + ["he", "ll", "hell"]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                              "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                        "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {p: i for i, p in enumerate(pieces)},
                      "merges": ["h e", "l l", "he ll"]}}


BOS, END = 259, 260
POST = {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}}}


def token(content, special=True, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": special, **flags}


def object_of(content, **flags):
    """A named token as releases before 4.34 wrote it."""
    t = {"__type": "AddedToken", **token(content, **flags)}
    del t["special"]
    return t


FILE = [token("<bos>"), token("<end>")]
NAMES = {"bos_token": "<bos>", "eos_token": "<end>", "tokenizer_class": "PreTrainedTokenizerFast"}
TEXT = "<bos>x<end> y <new>\n z <b> he hello"


def decoder(*tokens):
    return {str(BOS + i): t for i, t in enumerate(tokens)}


def cases():
    """name, added tokens of tokenizer.json, post_processor, other files"""
    def config(**more):
        return {"tokenizer_config.json": {**NAMES, **more}}

    new = decoder(*FILE, token("<new>"), token("<b>"))
    yield "nothing else", FILE, POST, config()
    yield "added_tokens_decoder adds", FILE, POST, config(added_tokens_decoder=new)
    yield "added_tokens_decoder adds plain tokens", FILE, POST, config(
        added_tokens_decoder=decoder(*FILE, token("<new>", False), token("<b>", False)))
    yield "it makes special", [token("<bos>"), token("<end>", False)], POST, config(
        added_tokens_decoder=decoder(*FILE))
    yield "a name makes special", [token("<bos>"), token("<end>", False)], POST, config()
    yield "special stays", FILE, POST, config(
        eos_token=None, added_tokens_decoder=decoder(token("<bos>"), token("<end>", False)))
    for flag in ("lstrip", "rstrip", "single_word"):
        yield f"its {flag}", FILE, POST, config(
            added_tokens_decoder=decoder(token("<bos>"), token("<end>", **{flag: True}),
                                         token("<new>", **{flag: True}), token("<b>", **{flag: True})))
        yield f"it takes {flag} back", [token("<bos>"), token("<end>", **{flag: True})], POST, config(
            added_tokens_decoder=decoder(*FILE))
    yield "its normalized", FILE, POST, config(added_tokens_decoder=decoder(
        *FILE, token("<new>", False, normalized=True), token("<b>", normalized=True)))
    yield "its flags by default", FILE, POST, config(added_tokens_decoder={
        str(BOS): {"content": "<bos>", "special": True}, str(END): {"content": "<end>"},
        "261": {"content": "<new>"}, "262": {"content": "<b>", "special": True}})
    yield "its ids are an order", FILE, POST, config(added_tokens_decoder={
        str(BOS): FILE[0], str(END): FILE[1], "300": token("<new>"), "270": token("<b>")})
    yield "pieces of the model", FILE, POST, config(
        pad_token="he", added_tokens_decoder={**decoder(*FILE), "258": token("hell")})
    yield "names add", FILE, POST, config(pad_token="<new>", cls_token="<b>")
    yield "names add in their order", FILE, POST, config(mask_token="<new>", sep_token="<b>")
    yield "named objects", FILE, POST, config(pad_token=object_of("<new>", rstrip=True),
                                              unk_token=object_of("<b>", lstrip=True))
    yield "a named object of the file", FILE, POST, config(eos_token=object_of("<end>", rstrip=True))
    yield "a named object of the decoder", FILE, POST, config(
        eos_token=object_of("<end>", rstrip=True),
        added_tokens_decoder=decoder(token("<bos>"), token("<end>", lstrip=True)))
    yield "additional_special_tokens", FILE, POST, config(additional_special_tokens=["<new>", "<b>", "<end>"])
    yield "additional objects", FILE, POST, config(
        additional_special_tokens=[{**object_of("<b>", rstrip=True), "special": True}, "<new>"])
    yield "extra_special_tokens", FILE, POST, config(extra_special_tokens={"image_token": "<new>"})
    yield "special_tokens_map.json", FILE, POST, {
        **config(), "special_tokens_map.json": {
            "eos_token": token("<b>", rstrip=True), "pad_token": "<new>"}}
    yield "special_tokens_map.json and a decoder", FILE, POST, {
        **config(added_tokens_decoder=decoder(*FILE)),
        "special_tokens_map.json": {"eos_token": "<b>", "pad_token": "<new>"}}
    yield "special_tokens_map.json alone", FILE, POST, {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "special_tokens_map.json": {"eos_token": "<b>", "additional_special_tokens": ["<new>"]}}
    yield "added_tokens.json", FILE, POST, {
        **config(additional_special_tokens=["<b>"]), "added_tokens.json": {"<b>": 262, "<new>": 261}}
    yield "added_tokens.json and a decoder", FILE, POST, {
        **config(added_tokens_decoder=decoder(*FILE)), "added_tokens.json": {"<new>": 261}}
    yield "flags of the generic class", FILE, None, config(add_bos_token=True, add_eos_token=True)
    yield "flags of GPT-2's class", FILE, None, config(tokenizer_class="GPT2TokenizerFast", unk_token=None,
                                                      add_bos_token=True)
    yield "names of Qwen2's class", FILE, POST, config(tokenizer_class="Qwen2TokenizerFast")
    for post in (None, POST):
        for flags in ({}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}):
            name = " ".join(["Llama's class", "with" if post else "without", "a post_processor"] +
                            [f"{k}={v}" for k, v in flags.items()])
            yield name, FILE, post, config(tokenizer_class="LlamaTokenizerFast", unk_token=None, **flags)


def release_of(name):
    return 4 if name.startswith("Llama's class") else 5


def run(added, post, files):
    with tempfile.TemporaryDirectory() as d:
        whole = base()
        whole["added_tokens"] = [{"id": BOS + i, **t} for i, t in enumerate(added)]
        whole["post_processor"] = post
        for name, value in {"tokenizer.json": whole, "config.json": {"model_type": "llama"}, **files}.items():
            with open(os.path.join(d, name), "w", encoding="utf-8") as f:
                json.dump(value, f)
        t = transformers.AutoTokenizer.from_pretrained(d)
        ids = t(TEXT)["input_ids"]
        return {"ids": " ".join(map(str, ids)), "kept": t.backend_tokenizer.decode(ids, False),
                "skipped": t.backend_tokenizer.decode(ids, True)}


def main():
    release, old = int(transformers.__version__[0]), {}
    if sys.argv[1:] == ["check"]:
        with open(OUT, encoding="utf-8") as f:
            old = {c["name"]: c for c in json.load(f)["cases"]}
    out = []
    for name, added, post, files in cases():
        new = {"name": name, "release": release_of(name), "added": added, "post": bool(post), "files": files}
        if not old or release == new["release"]:
            new.update(run(added, post, files))
        else:
            new = old[name]
            differ = [k for k, v in run(added, post, files).items() if v != new[k]]
            if differ:
                print(f"{name}: {', '.join(differ)} differ in {transformers.__version__}")
        out.append(new)
    one = {"tool": "transformers 5.24.0 and 4.57.6", "command": "spec/support/gen_special_goldens.py",
           "text": TEXT, "base": base(), "post": POST}
    with open(OUT, "w", encoding="utf-8") as f:
        f.write("{" + "".join(f"{json.dumps(k)}:{json.dumps(v)},\n" for k, v in one.items()))
        f.write('"cases":[\n' + ",\n".join(map(json.dumps, out)) + "]}\n")


if __name__ == "__main__":
    main()
