#!/usr/bin/env python3
"""Compare our ids and decoded text with those of the package `tokenizers`, document by document.

    pip install tokenizers==0.23.3
    LUA_CPATH='build/?.so' python3 spec/support/compare_tokenizer.py DIR [DIR...]
        [--quick] [--ids N] [--files FILE...] [--lua luajit]

DIR holds a tokenizer.json.  The corpus (tokenizer_corpus.py, about 90 MB; with --quick 4 MB)
needs no network; FILE adds text of yours; --ids decodes N random lists of ids.  Exit status 1
when a document or a list differs.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile

import tokenizers

import tokenizer_corpus as corpus

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def document_sets(quick, files):
    scale = 1 if quick else 10
    yield "tree", corpus.tree_docs(ROOT)
    yield "random", corpus.random_docs(4000 * scale)
    yield "spaces", corpus.space_docs(400 * scale)
    yield "scalars", corpus.scalar_docs(600 * scale)
    yield "scripts", corpus.script_docs(100 * scale)
    yield "invalid UTF-8", corpus.invalid_docs(3000 * scale)
    yield "long words", (d for d in corpus.long_docs()) if not quick else ["a" * 100000]
    contexts = corpus.CONTEXTS[2:3] if quick else corpus.CONTEXTS
    for context in contexts:
        yield f"code points in {context!r}", corpus.codepoint_docs(
            context, 0x20000 if quick else 0x110000)
    if files:
        yield "files", (open(f, "rb").read() for f in files)


def ours(lua, directory, docs, special, add):
    """[(ids, decoded bytes)] and the printed speed."""
    script = os.path.join(ROOT, "spec", "support", "encode_docs.lua")
    with tempfile.TemporaryDirectory() as tmp:
        source, target = os.path.join(tmp, "docs"), os.path.join(tmp, "ids")
        with open(source, "wb") as f:
            for d in docs:
                f.write(b"%d\n" % len(d) + d)
        speed = subprocess.run([lua, script, directory, source, target, special, add], check=True,
                               stdout=subprocess.PIPE, text=True).stdout.strip()
        results = []
        with open(target, "rb") as f:
            for line in f:
                text = f.read(int(f.readline()))
                results.append(([int(x) for x in line.split()], text))
        return results, speed


def compare(lua, directory, name, docs, special, add):
    docs = [d if isinstance(d, bytes) else d.encode() for d in docs]
    reference = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    reference.encode_special_tokens = special == "none"
    texts = [d.decode("utf-8", "replace") for d in docs]
    expected = reference.encode_batch_fast(texts, add_special_tokens=add == "true")
    got, speed = ours(lua, directory, docs, special, add)
    assert len(got) == len(docs)
    bad = 0
    decoded = reference.decode_batch([e.ids for e in expected], skip_special_tokens=False)
    for doc, want, text, (ids, our_text) in zip(docs, expected, decoded, got):
        if want.ids == ids and text.encode() == our_text:
            continue
        bad += 1
        if bad <= 3:
            at = next((i for i, (a, b) in enumerate(zip(want.ids, ids)) if a != b),
                      min(len(want.ids), len(ids)))
            print(f"  {doc[:80]!r}: at {at}: {want.ids[at:at + 6]} expected, got {ids[at:at + 6]}"
                  if want.ids != ids else f"  text of {doc[:80]!r} differs")
    size = sum(map(len, docs)) / 1e6
    print(f"{name}, special {special}: {len(docs)} documents, {size:.1f} MB, {bad} differ; {speed}",
          flush=True)
    return bad


def random_lists(directory, count):
    """Lists of ids.  Byte tokens only as whole characters: tokenizer.h says why."""
    with open(os.path.join(directory, "tokenizer.json"), encoding="utf-8") as f:
        vocab = json.load(f)["model"]["vocab"]
    of_byte = {int(k[3:5], 16): v for k, v in vocab.items() if re.fullmatch("<0x[0-9A-F]{2}>", k)}
    reference = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    alone = sorted(set(reference.get_vocab().values()) - set(of_byte.values()))
    rng = random.Random(6)
    for _ in range(count):
        ids = []
        for _ in range(rng.randint(1, 30)):
            if of_byte and rng.random() < .2:
                ids += [of_byte[b] for b in chr(rng.choice([97, 0xe9, 0x65e5, 0x1f680])).encode()]
            else:
                ids.append(rng.choice(alone))
        yield ids


def compare_lists(lua, directory, count):
    """How many random lists of ids decode to another text."""
    lists, bad = list(random_lists(directory, count)), 0
    reference = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    added = reference.get_added_tokens_decoder().values()
    # the reference forgets that normalized tokens are special
    forgets = any(t.special and t.normalized for t in added)
    script = os.path.join(ROOT, "spec", "support", "decode_ids.lua")
    for skip in ([False] if forgets else [False, True]):
        want = [t.encode() for t in reference.decode_batch(lists, skip_special_tokens=skip)]
        with tempfile.TemporaryDirectory() as tmp:
            source, target = os.path.join(tmp, "ids"), os.path.join(tmp, "texts")
            with open(source, "w") as f:
                f.writelines(" ".join(map(str, ids)) + "\n" for ids in lists)
            subprocess.run([lua, script, directory, source, target, str(skip).lower()], check=True)
            with open(target, "rb") as f:
                got = [f.read(int(f.readline())) for _ in lists]
        for ids, a, b in zip(lists, want, got):
            bad += a != b
            if a != b and bad <= 3:
                print(f"  {ids}: {a!r} expected, got {b!r}")
    print(f"{count} random lists of ids, {bad} differ", flush=True)
    return bad


def main():
    p = argparse.ArgumentParser()
    p.add_argument("dirs", nargs="+")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--ids", type=int, default=0)
    p.add_argument("--files", nargs="*")
    p.add_argument("--lua", default="luajit")
    a = p.parse_args()
    bad = 0
    for directory in a.dirs:
        print(directory)
        for name, docs in document_sets(a.quick, a.files):
            docs = list(docs)
            bad += compare(a.lua, directory, name, docs, "none", "true")
            if name == "random":
                bad += compare(a.lua, directory, name, docs, "all", "false")
        bad += compare_lists(a.lua, directory, a.ids) if a.ids else 0
    print("no difference" if not bad else f"{bad} documents differ")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
