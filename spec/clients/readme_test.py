"""The clients that README shows, as they stand there: curl and openai; and that of Lua."""
import os
import re
import subprocess
import sys

from support import Tests

test = Tests()
HERE = "http://127.0.0.1:8000"


class Readme:
    def __init__(self, url):
        with open("README.md", encoding="utf-8") as f:
            self.text = f.read()
        self.url = url

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def block(self, pattern):
        """What the pattern's group matches in README, with the address of the server under test."""
        found = re.findall(pattern, self.text, re.DOTALL | re.MULTILINE)
        assert len(found) == 1 and HERE in found[0], found
        return found[0].replace(HERE, self.url)

    def answers(self, *words):
        lua = {"LUA_PATH": f"{os.getcwd()}/lua/?.lua;/usr/local/share/lua/5.1/?.lua;/usr/share/lua/5.1/?.lua",
               "LUA_CPATH": f"{os.getcwd()}/build/?.so;/usr/local/lib/lua/5.1/?.so;"
                            "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so"}
        done = subprocess.run(words, env={**os.environ, **lua}, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done
        assert "Paris" in done.stdout, done
        return done.stdout


@test("README: the command with curl streams an answer")
def _(r):
    command = r.block(r"^    (curl .*?}')$")
    said = r.answers("sh", "-c", command.replace('"stream": true', '"stream": true, "temperature": 0') + " -sSN")
    assert said.count("data: {") > 5 and said.endswith("data: [DONE]\n\n"), said


@test("README: the Python lines with openai answer")
def _(r):
    r.answers(sys.executable, "-c", r.block(r"^```python\n(import openai.*?)```$"))


@test("examples/client.lua streams an answer")
def _(r):
    r.answers("luajit", "examples/client.lua", r.url)
