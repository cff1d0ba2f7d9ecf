#!/usr/bin/env python3
"""Write spec/golden/tokenizer/: small vocabularies of our own and what the package `tokenizers`
makes of the corpus with them.

    pip install tokenizers==0.23.3
    python3 spec/support/gen_tokenizer_goldens.py
    python3 spec/support/gen_tokenizer_goldens.py DIR   # only write each variant below DIR

byte_level/ and sentencepiece/ hold a tokenizer.json each, trained here on the tree's own text
when the file is missing and kept otherwise.  goldens.json holds variants of them (all that
stands before "vocab" is replaced, see compose) and a 32-bit FNV-1a hash of the ids of each
document; test_tokenizer.c does the same and compares.
"""
import json
import os
import struct
import sys

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import tokenizer_corpus as corpus

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
OUT = os.path.join(ROOT, "spec", "golden", "tokenizer")
META = "\u2581"
N_DOCS, N_ID_LISTS = 200, 60

LLAMA3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+"
          "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
QWEN2 = LLAMA3.replace("\\p{N}{1,3}", "\\p{N}")
O200K = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}|"
         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
DEEPSEEK = ["\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
            "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]

VIKING = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
DEEPSEEK_LLM = ["[\r\n]", "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u0400-\u0481\u1e00-\u1f15]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", "\\s+$",
                "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "\\p{N}+"]


def added(i, content, special=True, **flags):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special, **flags}


def split(*patterns, behavior="Isolated"):
    steps = [{"type": "Split", "pattern": {"Regex": p}, "behavior": behavior,
              "invert": behavior == "Removed"} for p in patterns]
    return {"type": "Sequence", "pretokenizers": steps + [byte_level(False, False)]}


def one_split(pattern, behavior, invert=False):
    """pattern: {"String": text} or {"Regex": text}."""
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert},
        byte_level(False, False)]}


def replaces(*pairs):
    return {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": p if isinstance(p, dict) else {"String": p}, "content": c}
        for p, c in pairs]}


def byte_level(prefix, regex):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True,
            "use_regex": regex}


def digits(each):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": each}, byte_level(False, True)]}


def template(*pieces, **ids):
    """TemplateProcessing: "A" is the text, other pieces are tokens."""
    return {"type": "TemplateProcessing", "single": [
        {"Sequence": {"id": "A", "type_id": 0}} if p == "A" else
        {"SpecialToken": {"id": p, "type_id": 0}} for p in pieces], "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {k: {"id": k, "ids": v, "tokens": [k] * len(v)} for k, v in ids.items()}}


def head(added_tokens, pre, post=None, normalizer=None, decoder=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens,
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post,
            "decoder": decoder or byte_level(True, True)}


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def compose(top, model, tail):
    """The file with members `top`, model options `model`, and vocabulary text `tail`."""
    return dump(top)[:-1] + ',"model":' + dump(model)[:-1] + "," + tail


def tail_of(text):
    return text[text.index('"vocab":'):]


# ---- the vocabularies ----

def training_text():
    yield from corpus.tree_docs(ROOT)
    yield from corpus.script_docs(30)


def train_byte_level():
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    t.pre_tokenizer = pre_tokenizers.Sequence([t.pre_tokenizer,
                                               pre_tokenizers.ByteLevel(False, use_regex=False)])
    t.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=2040, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(t.to_str())["model"]
    # whole words that no merge leads to: only ignore_merges gives them
    for word in ["\u0120tokenization", "Hello", "\u0120\u0120\u0120", "123", "\u00e6\u0139\u00a5", "\u00c3\u00a9\u00c3\u00a9"]:
        model["vocab"].setdefault(word, len(model["vocab"]))
    return model


def train_sentencepiece():
    t = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    t.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=1500, special_tokens=names, limit_alphabet=250, show_progress=False))
    return json.loads(t.to_str())["model"]


SPECIALS = [added(0, "<|endoftext|>"), added(1, "<|im_start|>"), added(2, "<|im_end|>")]
BYTE_MODEL = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
              "ignore_merges": False}
SP_MODEL = {**BYTE_MODEL, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
SP_SPECIALS = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
SP_NORMALIZER = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": META},
    {"type": "Replace", "pattern": {"String": " "}, "content": META}]}
SP_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": META}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
SP_POST = template("<s>", "A", **{"<s>": [1]})
SP_HEAD = head(SP_SPECIALS, None, SP_POST, SP_NORMALIZER, SP_DECODER)


def metaspace(scheme, cut):
    meta = {"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": cut}
    return head(SP_SPECIALS, meta, SP_POST, None, meta if cut else SP_DECODER)


def variants(n):
    """name -> (base, members, model options); n: tokens in the byte-level vocabulary."""
    more = SPECIALS + [added(n, "<|begin_of_text|>"), added(n + 1, "<|eot_id|>")]
    flags = SPECIALS + [
        added(n, "<s>", lstrip=True), added(n + 1, "http://", rstrip=True, special=False),
        added(n + 2, "\u65e5", lstrip=True, rstrip=True, special=False),
        added(n + 3, "tokenization", single_word=True, special=False),
        added(n + 4, "<|", special=False), added(n + 5, "1234", special=False, normalized=True),
        added(n + 6, "==", special=False, normalized=True, lstrip=True),
        added(n + 7, "\U0001f469", single_word=True), added(n + 8, " ", special=False,
                                                            single_word=True),
        added(n + 9, "im", special=False)]
    yield "smollm2", "byte_level", head(SPECIALS, digits(True)), {}
    yield "gpt2", "byte_level", head(SPECIALS, byte_level(False, True)), {}
    yield "digit runs", "byte_level", head(SPECIALS, digits(False)), {}
    yield "prefix blank", "byte_level", head(SPECIALS, byte_level(True, True)), {}
    yield "llama3", "byte_level", head(more, split(LLAMA3), {"type": "Sequence", "processors": [
        byte_level(True, True), template("<|begin_of_text|>", "A", **{"<|begin_of_text|>": [n]})]}), {
            "ignore_merges": True}
    yield "bos and eos", "byte_level", head(more, split(LLAMA3), template(
        "<|begin_of_text|>", "A", "<|eot_id|>", **{"<|begin_of_text|>": [n], "<|eot_id|>": [n + 1, 2]})), {}
    yield "added flags", "byte_level", head(flags, byte_level(False, True)), {}
    yield "qwen2", "byte_level", head(SPECIALS, split(QWEN2)), {}
    yield "o200k", "byte_level", head(SPECIALS, split(O200K)), {}
    yield "deepseek", "byte_level", head(SPECIALS, split(*DEEPSEEK)), {}
    yield "deepseek llm", "byte_level", head(SPECIALS, split(*DEEPSEEK_LLM)), {}
    yield "removed", "byte_level", head(SPECIALS, split("\\p{L}+", behavior="Removed")), {}
    yield "possessive", "byte_level", head(SPECIALS, split(
        "\\p{Lu}++(?=\\s)|[a-z\\d]{2,3}|\\s?+\\S|\\P{Lu}")), {}
    yield "viking", "byte_level", head(SPECIALS, {"type": "Sequence", "pretokenizers": [
        split(VIKING)["pretokenizers"][0], {"type": "Digits", "individual_digits": True},
        byte_level(False, False)]}), {}
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            for name, pattern in (("string", {"String": "e"}), ("regex", {"Regex": "[aeiou]| ?\\d"}),
                                  ("places", {"Regex": "(?<=[a-z])(?=[A-Z\\s])|(?<!\\w)\\w"})):
                yield f"split {name} {behavior} {invert}", "byte_level", head(
                    SPECIALS, one_split(pattern, behavior, invert)), {}
    yield "split gpt2 contiguous", "byte_level", head(SPECIALS, one_split(
        {"Regex": GPT2}, "MergedWithNext")), {}
    yield "sets", "byte_level", head(SPECIALS, split(
        "[\\w&&[^\\d_]]+", "[^\\s[:-?]&&[^a-c]]{1,3}", ".\\W", "^\\D")), {}
    yield "look behind", "byte_level", head(SPECIALS, split(
        "(?<=\\d|^.)[^\\d]", "(?<!ab|[c-e])[a-z]+", "(?<=(?<=\\s)e)r")), {}
    yield "replace", "byte_level", head(SPECIALS, byte_level(False, True), None, replaces(
        ({"Regex": "\\s{2,}|(?<=l)l"}, " "), ("th", "\u00fe"), ("e", ""))), {}
    yield "llama2", "sentencepiece", SP_HEAD, {}
    yield "replace and meta", "sentencepiece", {**SP_HEAD, "normalizer": {"type": "Sequence", "normalizers": [
        *replaces(({"Regex": " {2,}"}, " "), ("\n", "<n>"))["normalizers"], *SP_NORMALIZER["normalizers"]]}}, {}
    for scheme in ("first", "always", "never"):
        for cut in (True, False):
            yield f"metaspace {scheme} {cut}", "sentencepiece", metaspace(scheme, cut), {}
    yield "normalized specials", "sentencepiece", {**SP_HEAD, "added_tokens": [
        {**a, "normalized": True} for a in SP_SPECIALS]}, {}
    yield "unk fused", "sentencepiece", SP_HEAD, {"byte_fallback": False}
    yield "unk", "sentencepiece", SP_HEAD, {"byte_fallback": False, "fuse_unk": False}
    yield "no unk", "sentencepiece", SP_HEAD, {"byte_fallback": False, "unk_token": None}


def vocabulary(name, train, top, model):
    """The text of OUT/name/tokenizer.json, made when missing."""
    path = os.path.join(OUT, name, "tokenizer.json")
    if not os.path.exists(path):
        trained = train()
        merges = trained["merges"] if name == "sentencepiece" else [
            " ".join(m) for m in trained["merges"]]
        tail = dump({"vocab": trained["vocab"], "merges": merges})[1:] + "}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(compose(top, model, tail) + "\n")
    with open(path, encoding="utf-8") as f:
        return f.read()


# ---- goldens ----

def fnv(data):
    h = 0x811c9dc5
    for b in data:
        h = (h ^ b) * 0x01000193 & 0xffffffff
    return h


def id_lists(n_vocab):
    for seed in range(N_ID_LISTS):
        rng = corpus.Lcg(seed)
        yield [rng.below(n_vocab) for _ in range(1 + rng.below(30))]


def model_of(base, options):
    return {**(BYTE_MODEL if base == "byte_level" else SP_MODEL), **options}


def golden(name, base, top, options, tail):
    model = model_of(base, options)
    t = tokenizers.Tokenizer.from_str(compose(top, model, tail))
    docs = list(corpus.random_docs(N_DOCS))
    encoded = {}
    for special in ("none", "all"):
        t.encode_special_tokens = special == "none"
        encoded[special] = [t.encode(d, add_special_tokens=True).ids for d in docs]
    result = {"name": name, "base": base, "head": dump(top)[:-1], "model": dump(model)[:-1]}
    for special, ids in encoded.items():
        result[special] = [fnv(struct.pack(f"<{len(i)}i", *i)) for i in ids]
    # a run of byte tokens that is no UTF-8 is repaired differently, so no random ids here
    lists = (encoded["none"] if base == "sentencepiece" else
             list(id_lists(t.get_vocab_size())))
    result["decoded"], result["skipped"] = (
        [fnv(t.decode(i, skip_special_tokens=skip).encode()) for i in lists]
        for skip in (False, True))
    if name == "normalized specials":  # the reference forgets that these are special
        result["skipped"] = []
    return result


TEXTS = ["", "Hello world", "it's 2024! I'LL  go\n\n\tnow ", "int main(void) { return 0; }\n",
         "<|im_start|>user\nhi<|im_end|>", "caf\u00e9 \u65e5\u672c\u8a9e \U0001f680\u200d",
         "1234567 \u0663\u0664 x=1;", "   \u00a0\u2003 \r\n  end"]


def write_ids(text):
    """ids.lua: a few readable cases for tokenizer_spec.lua."""
    t = tokenizers.Tokenizer.from_str(text)
    with open(os.path.join(OUT, "ids.lua"), "w", encoding="utf-8") as f:
        f.write(f"-- Written by spec/support/gen_tokenizer_goldens.py with tokenizers "
                f"{tokenizers.__version__}: text and ids of byte_level/tokenizer.json.\nreturn {{\n")
        for s in TEXTS:
            escaped = "".join(c if 32 <= ord(c) < 127 and c not in '"\\' else
                              "".join(f"\\{b:03d}" for b in c.encode()) for c in s)
            ids = {}
            for special in ("none", "all"):
                t.encode_special_tokens = special == "none"
                ids[special] = " ".join(map(str, t.encode(s).ids))
            f.write(f'  {{text = "{escaped}",\n   none = "{ids["none"]}",\n   all = "{ids["all"]}"}},\n')
        f.write("}\n")


def main():
    top = head(SPECIALS, digits(True))
    texts = {"byte_level": vocabulary("byte_level", train_byte_level, top, BYTE_MODEL),
             "sentencepiece": vocabulary("sentencepiece", train_sentencepiece, SP_HEAD, SP_MODEL)}
    tails = {k: tail_of(v) for k, v in texts.items()}
    n = len(json.loads(texts["byte_level"])["model"]["vocab"])
    write_ids(texts["byte_level"])
    if len(sys.argv) > 1:
        for name, base, top, options in variants(n):
            path = os.path.join(sys.argv[1], name.replace(" ", "_"), "tokenizer.json")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(compose(top, model_of(base, options), tails[base]))
        return
    result = {"tool": f"tokenizers {tokenizers.__version__}",
              "command": "python3 spec/support/gen_tokenizer_goldens.py",
              "atoms": corpus.ATOMS,
              "variants": [golden(*v, tails[v[1]]) for v in variants(n)]}
    with open(os.path.join(OUT, "goldens.json"), "w", encoding="utf-8") as f:
        f.write("{" + ",\n".join(f"{dump(k)}:{dump(v)}" for k, v in result.items()
                                 if k != "variants"))
        f.write(',\n"variants":[\n' + ",\n".join(map(dump, result["variants"])) + "]}\n")


if __name__ == "__main__":
    main()
