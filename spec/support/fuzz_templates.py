#!/usr/bin/env python3
"""Random templates: what Jinja2 makes of them against what we make.

    pip install jinja2==3.1.6
    make build/spec/support/run_template_cases
    python3 spec/support/fuzz_templates.py [COUNT [SEED [DRIVER]]]

The grammar covers the statements, expressions, filters, tests and methods that chat templates
use, right and wrong ones. Text must agree byte for byte; where Jinja2 fails we must fail and
where it does not we must not, but for the differences in ALLOWED. Prints TAP; exit status 1 when
a template differs otherwise.
"""
import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import warnings

from gen_template_goldens import UNIX_NOW, render

# What may differ: a sentence, what the template holds, what the report of the difference holds.
ALLOWED = [
    ("a lazy filter of what cannot be walked fails at once, in Jinja2 when something reads it",
     r"\|(items|map|select|reject|selectattr|rejectattr|unique)",
     r"got '?.*(items: dict expected|is not iterable|has no length)"),
    ("a constant that cannot be sliced is an error, Jinja2's constant folding makes it undefined",
     r"\[[-\d]*:", r"want text, got error '.* cannot be sliced"),
    ("an unknown filter or test fails when it is used, in Jinja2 when the template is read",
     r"", r"want error 'No (filter|test) named"),
    ("integers have 64 bits", r"", r"want text, got error '.*integer does not fit 64 bits"),
    ("a filter block that gives no text fails at once, in Jinja2 at the end of the template",
     r"filter length", r"want error .*got '.*filter block: string expected"),
]

# Jinja2 prints these as Python objects, with addresses or names of its classes.
OBJECTS = re.compile(r"<(generator|bound|built-in|function|Macro|Cycler|LoopContext|Namespace|"
                     r"jinja2|class|map|reversed|method|itertools|zip)| object at 0x", re.I)
SECONDS = 2  # for Jinja2, which has no limit on steps

CONTEXT = {
    "s": "Hello World", "e": "", "u": "na\u00efve \u65e5\u672c 'q' \"d\"\n\t<b>", "i": 7, "z": 0,
    "ws": "  \t pad\u00a0\u3000\n ", "csv": "a,b,,c", "neg": -3, "f": 2.5, "one": 1.0, "t": True,
    "big": 12345678901234, "no": False, "n": None, "l": [3, 1, 2], "ls": ["b", "A", "c"],
    "lm": [{"role": "user", "content": "x", "k": 1}, {"role": "tool", "content": None, "k": 2},
           {"role": "user", "content": ["p"], "z": {"q": 1}}],
    "d": {"b": 1, "a": [1, 2], "C": {"x": None}, "items": "shadow"}, "el": [], "ed": {},
    "tiny": 1e-7, "huge": 1e22, "ll": [[1, "a"], [2, "b"]],
    "m": {"role": "assistant", "content": "c",
          "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}}
NAMES = list(CONTEXT) + ["undef"]
LITERALS = ["'{}'", "'{a:>5}'", "'{0:08.2f}|{1!r}'", "'{:,}'", "'%s-%5.1f'", "'<b>&amp;</b>'",
            "'x'", "'lo'", "' '", "','", "''", "'\\n'", "0", "1", "2", "-1", "3", "1.5", "true",
            "false", "none", "[]", "{}", "[1,2]", "('a','b')", "{'a': 1}", "'user'", "'role'"]
CALLS = ["cycler('a',1)", "joiner('-')()", "range(3)", "range(1,5,2)", "namespace(a=1)", "dict(a=1)", "loop", "loop.index", "mac(1)",
         "mac('x',b=2)", "strftime_now('%d %b %Y')", "raise_exception('no')"]
FILTERS = [
    "trim", "length", "upper", "lower", "tojson", "string", "list", "first", "last", "join",
    "join(', ')", "default('D')", "default('D',true)", "int", "float", "abs", "reverse|list",
    "sort", "map('upper')|list", "map(attribute='role')|list",
    "selectattr('role','equalto','user')|list", "rejectattr('content')|list",
    "select('string')|list", "reject('none')|list", "items|list", "dictsort", "capitalize",
    "title", "unique|list", "min", "max", "sum", "indent(2)", "indent(3,true)",
    "replace('l','L')", "replace('l','L',1)", "tojson(indent=2)", "safe", "e", "count", "round",
    "wordcount", "attr('role')", "items", "map('length')", "selectattr('k')",
    "batch(2)|list", "batch(2,'x')|list", "slice(2)|list", "slice(3,0)|list", "center(9)",
    "truncate(5)", "truncate(6,true)", "truncate(7,leeway=0)", "wordwrap(6)", "wordwrap(3,false)",
    "groupby('role')", "groupby('k',default=0)", "groupby(0)", "format(1)", "format('a',2)",
    "urlencode", "striptags", "xmlattr", "pprint", "forceescape", "filesizeformat",
    "filesizeformat(true)", "tojson(ensure_ascii=true)", "tojson(separators=(',',':'))", "tojson(sort_keys=true)"]
METHODS = [
    ".strip()", ".lstrip()", ".rstrip()", ".strip('Hd')", ".split()", ".split(',')",
    ".split('l',1)", ".startswith('He')", ".endswith('d')", ".upper()", ".lower()", ".title()",
    ".capitalize()", ".replace('l','L')", ".find('o')", ".rfind('o')", ".items()", ".keys()",
    ".values()", ".get('a')", ".get('zz','dd')", ".role", ".content", ".a", ".items",
    ".count('l')", ".join(['a','b'])", ".index0", ".isdigit()", ".isupper()", ".rsplit(',',1)",
    ".splitlines()", ".0", ".rstrip('d')", ".lstrip('\\n ')",
    ".format(1)", ".format('a',2,a=3)", ".format_map({'a': 1})", ".swapcase()", ".casefold()",
    ".center(8)", ".ljust(6,'-')", ".rjust(6)", ".zfill(5)", ".expandtabs(4)", ".istitle()",
    ".isascii()", ".isnumeric()", ".isdecimal()", ".isidentifier()", ".isprintable()",
    ".encode()", ".translate({108: 'L'})", ".fromkeys('ab')", ".bit_length()", ".real",
    ".index(1)", ".grouper"]
KEYS = ["0", "-1", "1", "'a'", "'role'", "'content'", "'items'", "10"]
SLICES = ["1:", ":-1", "::-1", "::2", "-2:", "1:2", ":0", "5:1:-1", ":n"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "true",
         "false", "boolean", "integer", "float", "number", "odd", "even", "callable", "equalto(1)",
         "eq 'x'", "in [1,2]", "sameas none", "divisibleby 3", "lower", "upper", "not none",
         "not string", "not defined"]
SPACES = ["", "a", "\n", "  ", "\n  ", " b\n", "x\n\n", "\t"]
PRELUDE = ("{%- macro mac(a,b=5) %}[{{a}}{{b}}]{% endmacro %}{% set ns = namespace(a=0) %}")


class Writer:
    """Writes random templates; depth bounds the nesting."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pick = self.random.choice

    def odds(self, **weights):
        return self.random.choices(list(weights), list(weights.values()))[0]

    def atom(self, depth):
        kind = self.odds(name=48, literal=20, group=7, list=6, dict=4, call=4) if depth > 0 else \
            self.odds(name=45, literal=55)
        if kind == "name":
            return self.pick(NAMES)
        if kind == "literal":
            return self.pick(LITERALS)
        if kind == "group":
            return f"({self.expression(depth - 1)})"
        if kind == "list":
            parts = [self.expression(depth - 1) for _ in range(self.random.randint(0, 3))]
            return f"[{', '.join(parts)}]"
        if kind == "dict":
            parts = [f"{self.pick(['1', chr(39) + 'k' + chr(39)])}: {self.expression(depth - 1)}"
                     for _ in range(self.random.randint(0, 2))]
            return f"{{{', '.join(parts)}}}"
        return self.pick(CALLS)

    def postfix(self, depth):
        text = self.atom(depth)
        for _ in range(self.pick([0, 0, 0, 1, 1, 2])):
            kind = self.odds(method=40, key=20, slice=15, filter=25)
            if kind == "method":
                text += self.pick(METHODS)
            elif kind == "key":
                text += f"[{self.pick(KEYS + [self.expression(depth - 1)])}]"
            elif kind == "slice":
                text += f"[{self.pick(SLICES)}]"
            else:
                text += "|" + self.pick(FILTERS)
        return text

    def expression(self, depth):
        if depth <= 0:
            return self.postfix(0)
        kind = self.odds(postfix=40, arithmetic=15, compare=13, logic=8, negate=4, test=8,
                         condition=6, minus=6)
        left = self.postfix(depth if kind == "postfix" else depth - 1)
        if kind == "postfix":
            return left
        if kind == "negate":
            return "not " + left
        if kind == "minus":
            return "-" + left
        if kind == "test":
            return f"{left} is {self.pick(TESTS)}"
        if kind == "condition":
            other = f" else {self.expression(depth - 1)}" if self.random.random() < .5 else ""
            return f"{self.expression(depth - 1)} if {left}{other}"
        words = {"arithmetic": ["+", "-", "*", "/", "//", "%", "~", "**"], "logic": ["and", "or"],
                 "compare": ["==", "!=", "<", ">", "<=", ">=", "in", "not in"]}[kind]
        return f"{left} {self.pick(words)} {self.postfix(depth - 1)}"

    def tag(self, words):
        return f"{self.pick(['{%', '{%-', '{%+'])} {words} {self.pick(['%}', '-%}', '+%}', '%}'])}"

    def condition(self, depth):
        text = self.tag("if " + self.expression(2)) + self.block(depth)
        if self.random.random() < .5:
            text += self.tag("elif " + self.expression(1)) + self.block(depth)
        if self.random.random() < .5:
            text += self.tag("else") + self.block(depth)
        return text + self.tag("endif")

    def loop(self, depth):
        only = f" if {self.expression(1)}" if self.random.random() < .3 else ""
        extra = self.pick(["", "{{ loop.index }}{{ x }}", "{% if loop.last %}{% break %}{% endif %}",
                           "{% if loop.first %}{% continue %}{% endif %}",
                           "{{ loop.previtem }}|{{ loop.nextitem }}", "{{ loop.cycle('a', 'b') }}"])
        other = self.tag("else") + "E" if self.random.random() < .3 else ""
        return (self.tag(f"for {self.pick(['x', 'x, y', 's', 'k, v'])} in {self.expression(2)}{only}")
                + self.block(depth) + extra + other + self.tag("endfor"))

    def macro(self, depth):
        body = self.tag("macro mm(a, b=2)") + self.block(depth) + "{{a}}{{b}}" + self.tag("endmacro")
        if self.random.random() < .3:
            return (self.tag("macro wrap(a)") + "<{{ caller() }}{{a}}>" + self.tag("endmacro")
                    + self.tag(f"call wrap({self.expression(1)})") + self.block(depth)
                    + self.tag("endcall"))
        return body + f"{{{{ mm({self.expression(1)}) }}}}"

    def block(self, depth):
        before, after = self.pick(SPACES), self.pick(SPACES)
        kind = self.odds(output=35, condition=15, loop=15, set=10, block_set=5, macro=5, filter=3,
                         comment=3, generation=2, two=7) if depth > 0 else "output"
        if kind == "output":
            text = f"{self.pick(['{{', '{{-'])} {self.expression(2)} {self.pick(['}}', '-}}'])}"
        elif kind == "two":
            return self.block(depth - 1) + self.block(depth - 1)
        elif kind == "set":
            text = self.tag(f"set {self.pick(['x', 's', 'q', 'ns.a'])} = {self.expression(2)}") \
                + after + "{{ x }}{{ q }}{{ s }}{{ ns.a }}"
        elif kind == "block_set":
            text = self.tag("set q") + self.block(depth - 1) + self.tag("endset") \
                + "{{ q|length }}{{ q }}"
        elif kind == "filter":
            text = self.tag("filter " + self.pick(["upper", "trim", "length"])) \
                + self.block(depth - 1) + self.tag("endfilter")
        elif kind == "generation":
            text = self.tag("generation") + self.block(depth - 1) + self.tag("endgeneration")
        elif kind == "comment":
            text = f"{{#{self.pick(['', '-'])} c {self.pick(['', '-'])}#}}"
        else:
            text = getattr(self, kind)(depth - 1)
        return before + text + after

    def template(self):
        text = "".join(self.block(2) for _ in range(self.random.randint(1, 3)))
        if self.random.random() < .9:  # powers of powers are mostly big integers
            text = text.replace("**", "*")
        return PRELUDE + text


def too_slow(*_):
    raise TimeoutError


def cases(count, seed, skipped):
    """[(source, what Jinja2 makes of it)], without those that no one can compare."""
    signal.signal(signal.SIGALRM, too_slow)
    warnings.simplefilter("ignore")  # of Python about the code Jinja2 makes
    writer, made, failing = Writer(seed), [], 0
    while len(made) < count:
        source = writer.template()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            result = render(source, json.loads(json.dumps(CONTEXT)))
        except TimeoutError:
            result = {"err": "TimeoutError"}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if result.get("err") == "TimeoutError":
            skipped["Jinja2 too slow"] += 1
        elif OBJECTS.search(result.get("out", "")):
            skipped["prints an object"] += 1
        else:
            failing += "err" in result
            if "err" in result and failing % 4:
                continue  # most random templates fail: more of the others
            made.append((source, result))
    return made


def reports(driver, made):
    """name -> what differs."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as f:
        json.dump({"templates": [source for source, _ in made], "ctx": CONTEXT, "now": UNIX_NOW,
                   "cases": [{"name": f"case{i}", "t": i, **result}
                             for i, (_, result) in enumerate(made)]}, f)
        f.flush()
        run = subprocess.run([driver, f.name], stdout=subprocess.PIPE)
    if run.returncode not in (0, 1):
        sys.exit(f"{driver} ended with status {run.returncode}")
    text = run.stdout.decode("utf-8", "replace")
    found = re.split(r"(?m)^case(\d+): ", text)[1:]
    return dict(zip(map(int, found[::2]), found[1::2]))


def allowed(source, report):
    for sentence, pattern, said in ALLOWED:
        if re.search(said, report) and re.search(pattern, source[len(PRELUDE):]):
            return sentence
    return None


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    driver = sys.argv[3] if len(sys.argv) > 3 else \
        os.path.join(root, "build", "spec", "support", "run_template_cases")
    skipped, excused, bad = collections.Counter(), collections.Counter(), []
    made = cases(count, seed, skipped)
    for i, report in sorted(reports(driver, made).items()):
        why = allowed(made[i][0], report)
        if why:
            excused[why] += 1
        else:
            bad.append((made[i], report))
    for (source, result), report in bad[:40]:
        print(f"# {source[len(PRELUDE):]!r}\n#   Jinja2 {result!r:.300}\n#   {report.strip()!r:.400}")
    for what, n in (skipped + excused).most_common():
        print(f"# {n}: {what}")
    ran = sum("out" in result for _, result in made)
    print(f"{'not ok' if bad else 'ok'} 1 - {count} random templates (seed {seed}, {ran} give text): "
          f"{len(bad)} differ, {sum(excused.values())} differ as allowed")
    print("1..1")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
