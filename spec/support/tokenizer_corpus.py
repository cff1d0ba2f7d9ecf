"""Text on which tokenizers go wrong, the same on every machine and in every run.

random_docs is mirrored by spec/c/test_tokenizer.c: change both.
"""
import glob
import os
import random
import unicodedata

SPACES = [" ", "\t", "\n", "\r", "\r\n", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028",
          "\u2029", "\u180e", "\u200b", "\ufeff", "\x0b", "\x0c", "\u1680", "\u202f", "\x1c",
          "\x1f", "  ", "\n\n", " \n"]

ATOMS = SPACES + [
    "'s", "'S", "'\u017f", "'LL", "'ll", "'lL", "'re", "'Ve", "'d", "'M", "'t", "'", "''",
    "\u2019s", "1", "12", "123", "1234", "12345678901", "\u0663", "\u00bd", "\u2167", "\u00b2",
    "a", "b", "Z", "\u00e9", "e\u0301", "\u0301", "\u65e5", "\u672c", "\u8a9e", "\ud55c",
    "\uae00", "\u0627", "\u0628", "\u0928", "\u093f", "\u0e44", "\u0e17", "\U0001f468", "\u200d",
    "\U0001f469", "\U0001f3fd", "\ufe0f", "\U0001f1fa", "\U0001f1f3", "_", "-", "--", "...", "!?",
    "{", "}", "(", ")", "/*", "<|", "|>", "<s>", "</s>", "<unk>", "<0x41>", "<|im_start|>",
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "$", "\u20ac", "\x00", "\x01", "\x7f", "\x80",
    "\ue000", "\U000f0000", "\U0010ffff", "\ufffd", "\uffff", "\u00df", "\ufb00", "\ufb06",
    "\u0131", "\u0130", "\u212a", "\u2581", "\u2581\u2581", "\u0120", "\u010a", "\u0109",
    "\u0149", "the", " the", "ing", "Hello", "tokenization", " World", "==", "\\n", "http://",
    "x=1;", "return", "int ", "    ", "\u01c5", "\u02b0", "\u2160", "\u24b6", "\U0001d7d8"]

CONTEXTS = ["%c", "a%cb", " %c", "%c's", "'%c", "1%c2", "\n%c", "%c\n", " %c ", "  %cx", "!%c?",
            "%c%c%c%c", "a %c%c b", "'l%c"]

MASK64 = (1 << 64) - 1


class Lcg:
    """Knuth's 64-bit generator; the high half of the state is the number."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK64
        return (self.state >> 33) % n


def random_docs(count, first=0, atoms=ATOMS):
    for seed in range(first, first + count):
        rng = Lcg(seed)
        yield "".join(atoms[rng.below(len(atoms))] for _ in range(1 + rng.below(40)))


def space_docs(count):
    rng = random.Random(1)
    for _ in range(count):
        yield "".join(rng.choice(SPACES if rng.random() < .6 else ATOMS)
                      for _ in range(rng.randint(1, 60)))


def scalar_docs(count):
    """Random code points from every plane."""
    rng = random.Random(2)
    ranges = [(0, 0x7f), (0x80, 0x7ff), (0x800, 0xd7ff), (0xe000, 0xffff), (0x10000, 0x1ffff),
              (0x20000, 0x10ffff)]
    for _ in range(count):
        yield "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 80)))


def codepoint_docs(context, last=0x110000):
    """Every code point in one context, 64 to a document."""
    for c in range(0, last, 64):
        parts = [context.replace("%c", chr(x)) for x in range(c, c + 64)
                 if not 0xd800 <= x < 0xe000]
        if parts:
            yield "\u2980".join(parts)


def script_docs(words=1500):
    """Words of the letters, marks and digits of each script, by the names of characters."""
    rng = random.Random(3)
    scripts = {}
    for c in range(0x41, 0x1ffff):
        ch = chr(c)
        if unicodedata.category(ch)[0] in "LMN":
            name = unicodedata.name(ch, "")
            scripts.setdefault(name.split(" ")[0].split("-")[0], []).append(ch)
    for name, chars in sorted(scripts.items()):
        if len(chars) < 20:
            continue
        seps = rng.choice([[" "], [" ", ", ", ". ", "\n"], ["\u3001", "\u3002", ""], [" ", "\u060c "]])
        yield "".join("".join(rng.choice(chars) for _ in range(rng.randint(1, 9))) + rng.choice(seps)
                      for _ in range(words))


def long_docs():
    rng = random.Random(4)
    letters = "abcdefghijklmnopqrstuvwxyz"
    yield from ["a" * 300000, " " * 200000, "\n" * 100000, " \n" * 50000, "ab" * 100000,
                "\u65e5" * 50000, "!" * 100000, "1" * 100000, "\u00e9" * 60000, "=-" * 50000,
                "".join(rng.choice(letters) for _ in range(300000)),
                "".join(rng.choice("ACGT") for _ in range(200000)),
                "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 8000,
                "".join(chr(rng.randint(0x4e00, 0x9fff)) for _ in range(60000)),
                "\t" * 70000 + "x", " " * 70000 + "x", "\u0301" * 50000, "<|" * 50000,
                "'s" * 50000, "Aa" * 50000, "0123456789abcdef" * 10000]


def invalid_docs(count):
    """Bytes that are mostly not UTF-8."""
    rng = random.Random(5)
    for i in range(count):
        if i % 3:
            yield bytes(rng.choice([rng.randint(0, 255), rng.randint(0x80, 0xff),
                                    rng.choice(b"abc \n12"),
                                    rng.choice(b"\xe2\x81\xf0\x9f\xc3\xed\xa0\xef\xbf")])
                        for _ in range(rng.randint(1, 40)))
        else:
            doc = bytearray(next(random_docs(1, 100000 + i)).encode())
            doc[rng.randrange(len(doc))] = rng.randint(0, 255)
            yield bytes(doc[:rng.randint(1, len(doc))])


def tree_docs(root):
    """The project's own code and words."""
    for pattern in ("src/**/*.[ch]", "cuda/**/*.cu", "lua/**/*.lua", "spec/**/*.[ch]", "**/*.md",
                    "spec/**/*.txt", "spec/**/*.lua", "spec/**/*.py"):
        for path in sorted(glob.glob(os.path.join(root, pattern), recursive=True)):
            if "/build/" not in path:
                with open(path, encoding="utf-8", errors="replace", newline="") as f:
                    yield f.read()
