"""What PyPI's clients and Chromium do with the server; run by `make test-clients`.

    python3 spec/clients/run.py [--url URL] [readme] [openai] [anthropic] [litellm] [lm_eval] [page]

Starts `fp8llm serve` with SmolLM2 and a tiny model (or uses the server at URL, which must have them), runs the
parts named, or all, and ends with "N passed, N failed".
"""
import sys

import anthropic_test
import litellm_test
import lm_eval_test
import openai_test
import page_test
import readme_test
from support import TINY, Server

PARTS = {
    "readme": (readme_test.test, readme_test.Readme),
    "openai": (openai_test.test, openai_test.Client),
    "anthropic": (anthropic_test.test, anthropic_test.Client),
    "litellm": (litellm_test.test, litellm_test.Client),
    "lm_eval": (lm_eval_test.test, lm_eval_test.Harness),
    "page": (page_test.test, page_test.Page),
}


def run_parts(names, url):
    total = passed = 0
    for name in names:
        tests, context = PARTS[name]
        with context(url) as c:
            passed += tests.run(total + 1, c)
        total += len(tests.list)
    print(f"1..{total}")
    print(f"{passed} passed, {total - passed} failed")
    return passed == total


def main(words):
    url = None
    if words[:1] == ["--url"]:
        url, words = words[1], words[2:]
    names = words or list(PARTS)
    for name in names:
        if name not in PARTS:
            sys.exit(f"run.py: no part '{name}': {', '.join(PARTS)}")
    openai_test.write_tiny_model()
    if url:
        return run_parts(names, url)
    with Server("--model", "tiny=" + TINY) as server:
        return run_parts(names, server.url)


sys.exit(0 if main(sys.argv[1:]) else 1)
