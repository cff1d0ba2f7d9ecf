#!/usr/bin/env python3
"""Compares template:render and template:encode on a model's own chat template with Jinja2 and,
where it is installed, with the reference tokenizer, on the twelve conversations of
gen_template_goldens.py.

    pip install jinja2==3.1.6 tokenizers
    python3 spec/support/check_template.py build/models/SmolLM2-135M-Instruct
"""
import json
import os
import subprocess
import sys
import tempfile

from gen_template_goldens import CHATS, render

LUA = """
package.cpath = "build/?.so;" .. package.cpath
package.path = "lua/?.lua;" .. package.path
local fp8llm, json = require "fp8llm", require "fp8llm.json"
local template = assert(fp8llm.template(assert(fp8llm.tokenizer(arg[1]))))
for line in io.lines(arg[2]) do
  local text, message = template:render(line)
  local result = {text = text, error = message}
  if text then result.ids = json.array(assert(template:encode(line))) end
  print(json.encode(result))
end
"""


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def model_template(directory):
    """The template's source and the named special tokens."""
    config = json.loads(read(os.path.join(directory, "tokenizer_config.json")))
    tokens = {k: v["content"] if isinstance(v, dict) else v for k, v in config.items()
              if k.endswith("_token") and isinstance(v, (str, dict))}
    path = os.path.join(directory, "chat_template.jinja")
    return read(path) if os.path.exists(path) else config["chat_template"], tokens


def ours(directory, contexts):
    with tempfile.TemporaryDirectory() as d:
        lua, lines = os.path.join(d, "render.lua"), os.path.join(d, "contexts")
        with open(lua, "w", encoding="utf-8") as f:
            f.write(LUA)
        with open(lines, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(c, ensure_ascii=False) + "\n" for c in contexts)
        out = subprocess.run(["luajit", lua, directory, lines], check=True, capture_output=True)
    return [json.loads(line) for line in out.stdout.decode("utf-8").splitlines()]


def reference_tokenizer(directory):
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    return Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))


def main():
    directory = sys.argv[1]
    source, tokens = model_template(directory)
    tokenizer = reference_tokenizer(directory)
    # What the server side of transformers and vLLM passes: tools and documents are never undefined.
    contexts = [dict({"tools": None, "documents": None, "add_generation_prompt": False}, **more,
                     messages=messages) for _, messages, more in CHATS]
    bad = 0
    for (name, _, _), context, got in zip(CHATS, contexts, ours(directory, contexts)):
        want = render(source, dict(tokens, **context))
        same = got.get("text") == want.get("out")
        ids = "both refuse" if "err" in want else "no tokenizers"
        if tokenizer and same and "text" in got:
            plain = tokenizer.encode(got["text"], add_special_tokens=False).ids == got["ids"]
            # A message with special tokens in it must not give the ids of its text.
            ids = "ids as the reference" if plain else "ids differ from the reference"
            same = plain == (name != "markup in a message")
        bad += not same
        print("%s %s (%s)" % ("ok" if same else "NOT OK", name, ids))
        if not same:
            print("  want: %r\n  got:  %r" % (want, got))
    print("%d of %d agree" % (len(CHATS) - bad, len(CHATS)))
    sys.exit(bad != 0)


main()
