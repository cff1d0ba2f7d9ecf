#!/usr/bin/env python3
"""Writes spec/golden/template/*.json: our own templates and what Jinja2 makes of them.

    pip install jinja2==3.1.6
    python3 spec/support/gen_template_goldens.py

The environment is the one in which transformers renders chat templates: the immutable
sandbox, trim_blocks, lstrip_blocks, loop controls, a `generation` block, plain-JSON tojson,
raise_exception, strftime_now.  Every template in this file is written for this project.
"""
import datetime
import json
import os

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2024, 7, 6, 9, 5, 7)
UNIX_NOW = 1720256707  # the same moment in UTC


class Raised(jinja2.exceptions.TemplateError):
    pass


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


class Dict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


def check_name(name):
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace: {name}")


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name, value):
        check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


ENV = environment()


def render(source, context):
    try:
        return {"out": ENV.from_string(source).render(**context)}
    except jinja2.exceptions.TemplateSyntaxError as e:
        return {"err": "syntax", "msg": str(e)}
    except jinja2.exceptions.UndefinedError as e:
        return {"err": "undefined", "msg": str(e)}
    except Raised as e:
        return {"err": "raise", "msg": str(e)}
    except Exception as e:  # whatever a template may provoke
        return {"err": type(e).__name__, "msg": str(e)}


# ---- features: one small template each, all with the same variables ---------------------------

VALUES = {
    "s": "Hello World", "empty": "", "blank": " \t pad\u00a0\u3000\n", "csv": "a,b,,c",
    "u": "naïve 日本 'q' \"d\"\n\t<b>&", "mixed": "straße ÉCOLE ǆ ﬁx", "i": 7, "zero": 0, "neg": -3,
    "f": 2.5, "one": 1.0, "big": 12345678901234, "huge": 1e22, "tiny": 1e-7, "yes": True,
    "no": False, "nothing": None, "l": [3, 1, 2], "names": ["b", "A", "c"],
    "rows": [{"role": "user", "content": "x", "k": 2}, {"role": "tool", "content": None, "k": 1},
             {"role": "user", "content": ["p"], "z": {"q": 1}}],
    "d": {"b": 1, "a": [1, 2], "C": {"x": None}, "items": "shadow"}, "el": [], "ed": {},
    "pairs": [[1, "a"], [2, "b"]], "deep": {"a": {"b": [{"c": "leaf"}]}},
}

FEATURES = r"""
# text, trimming and lines
plain text
a\n
a\n\n
{{ 1 }}\r\n{{ 2 }}\r{{ 3 }}\n
  {% if true %}\n  x\n  {% endif %}\n  y
a {% if true %} b {% endif %} c
a  {%- if true -%}  b  {%- endif -%}  c
\n  {%+ if true %}x{% endif +%}\n  y
{# gone #}\nx{# a -#}   y   {#- b #}z
  {#- c #}  x
x\n   {{ s }}\n  {{- s -}}  \ny
{% raw %}{{ s }} {% if %}{% endraw %}|{%- raw -%}  {{ x }}  {%- endraw -%} |
{% raw %}\n a {% endraw %}\nb
\u00a0 {%- if true %}x{%- endif -%}\u3000 y
{{ '{{' }}{{ '%}' }}{{ "}}" }}{{ {'a': {'b': 1}}['a'] }}
# literals
{{ 'a' 'b' "c" }}{{ 'it\\'s' }}{{ "\\n\\t\\x41\\u00e9\\101\\q" }}
{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5 }} {{ 1e3 }} {{ 2.5e-3 }}
{{ 007 }}
{{ 0 }} {{ 00 }} {{ 1_0.5_0 }} {{ 12.0e+2 }}
{{ true }} {{ True }} {{ false }} {{ None }} {{ none }} {{ (1,) }} {{ () }} {{ (1, 'a') }} {{ 1, 2 }}
{{ [1, 'two', 3.0, none, true] }} {{ {'k': 'v', 1: [2], 'n': none} }} {{ [] }} {{ {} }}
{{ 9223372036854775807 }} {{ -9223372036854775807 }}
# forms of values
{{ i }} {{ neg }} {{ f }} {{ one }} {{ big }} {{ huge }} {{ tiny }} {{ yes }} {{ nothing }}
{{ d }} {{ l }} {{ rows }} {{ pairs }}
{{ [u, s, "a'b", 'a"b', "both'\\""] }} {{ ['\u200b\u00a0\ue000é\x7f\x01'] }}
{{ 100000.0 * 10 }} {{ 1e15 }} {{ 1e16 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1/3 }} {{ -0.0 }}
{{ d.keys() }} {{ d.values() }} {{ d.items() }} {{ range(3) }} {{ range(1, 9, 2) }}
# operators
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }}
{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1 / 2 }} {{ 4 / 2 }} {{ 3 - -2 }} {{ +5 }}
{{ 'a' + 'b' ~ 1 + 'c' }} {{ 1 ~ 2 ~ none }} {{ 'ab' * 3 }} {{ 3 * 'x' }} {{ [1] * 2 + [3] }} {{ (1,) + (2,) }}
{{ 1.0 // 0.1 }} {{ -1 // 0.1 }} {{ 5.5 % -2 }} {{ 0.3 % 0.1 }}
{% set a = s + empty ~ 'x' %}{% set b = a + '1' %}{% set c = a + '2' %}{% set d = c + '3' %}{{ a }} {{ b }} {{ c }} {{ d }} {{ c + a }}
{{ 1 < 2 <= 2 != 3 == 3.0 }} {{ 3 > 2 > 1 }} {{ 1 < 2 > 5 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 'Z' < 'a' }}
{{ 1 == true }} {{ 1 == 1.0 }} {{ 'a' == 1 }} {{ [1] == [1.0] }} {{ {'a': 1} == {'a': 1} }} {{ none == false }}
{{ 'ell' in s }} {{ 'x' not in s }} {{ 2 in l }} {{ 'a' in d }} {{ 'role' in rows[0] }} {{ 1 in range(3) }} {{ not 5 in l }}
{{ true and 'x' }} {{ '' or 'y' }} {{ not '' }} {{ 0 or none or [] }} {{ 1 and 0 or 2 }} {{ not not 1 }}
{{ 'a' if yes else 'b' }} {{ 'a' if no }}| {{ 'a' if no else 'b' if no else 'c' }}
{{ -5|abs }} {{ -f|string }} {{ (-5)|abs + 1 }} {{ 'a' ~ 'b'|upper }} {{ 1 + 2|string|length }}
{{ '%s=%d %r %5.2f|%-5s|%05d %x %%' % ('a', 3, 'q', 2.345, 'ab', 42, 255) }} {{ '%s' % s }} {{ '%(k)s' % {'k': 1} }}
# undefined
[{{ missing }}] [{{ d.missing }}] [{{ missing|length }}] {{ missing == other }} {{ missing is defined }}
{% for x in missing %}x{% else %}none{% endfor %} {{ 'a' in missing }} {{ missing|default('D') }}
{{ missing.attr }}
{{ missing + 1 }}
{{ missing < 1 }}
{{ d.missing.more }}
{{ missing() }}
{{ missing[0] }}
{{ [missing] }} {{ missing|list }} {{ missing or 'x' }} {{ not missing }} {{ missing ~ 'x' }}
{{ missing|tojson }}
# attributes and items
{{ d.b }} {{ d['a'] }} {{ d.a.0 }} {{ d.a[-1] }} {{ pairs.1.1 }} {{ l[5] }}| {{ s[0] }}{{ s[-1] }} {{ u[6] }}
{{ d['items'] }} {{ d.items()|list|length }} {{ deep.a.b[0].c }} {{ deep['a']['b'][0]['c'] }} {{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 'D') }}
{{ l[1:] }} {{ l[::-1] }} {{ l[:2] }} {{ l[-2:] }} {{ l[::2] }} {{ l[5:] }} {{ s[1:4] }} {{ s[::-1] }} {{ u[6:8] }} {{ l[-9:9] }} {{ range(9)[2:6] }}
{{ l[none:2] }} {{ l[2:0:-1] }} {{ s[-3:-1] }} {{ (1, 2, 3)[1:] }}
{{ l.append(4) }}
{{ d.update({'x': 1}) }}
{{ {'update': 1}.update }}|{{ {'update': 1}['update'] }}|{{ {'append': 1}.append }}|
{{ l.append }}| {{ d.pop }}| {{ l.sort is defined }} {{ s.__class__ }}|
{{ nothing[1:] }}
{{ 5[0] }}| {{ none.x }}| {{ i.real_thing }}|
{{ d[[1]] }}|{{ l['a'] }}|{{ s['upper']() }}
# if, for, loop
{% if i > 5 %}big{% elif i > 2 %}mid{% else %}small{% endif %}{% if zero %}a{% elif no %}b{% endif %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }};{% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}
{% for a, b in pairs %}{{ a }}={{ b }};{% endfor %}{% for k, v in d.items() %}{{ k }}:{{ v }} {% endfor %}{% for k in d %}{{ k }}{% endfor %}
{% for (a, b) in pairs %}{{ a }}{% endfor %}{% for c in 'añb' %}[{{ c }}]{% endfor %}{% for x in range(3) %}{{ x }}{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{{ loop.last }}{% else %}none{% endfor %}{% for x in [] %}x{% else %}empty{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if loop.last %}{% break %}{% endif %}{% endfor %}
{% for x in l %}{% break %}{% else %}all broke{% endfor %}{% for x in l %}{{ x }}{% else %}no{% endfor %}
{% for x in l %}{% for y in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{{ loop.cycle('a', 'b') }} {% endfor %}
{% for x in ['a', 'a', 'b'] %}{% if loop.changed(x) %}{{ x }}{% endif %}{% endfor %}
{% for n in [1, [2, [3, 4]], 5] recursive %}{% if n is iterable %}<{{ loop(n) }}:{{ loop.depth }}>{% else %}{{ n }}{% endif %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for x in l %}{{ loop.index }}{% endfor %}{{ loop is defined }}
{% break %}
# set and scopes
{% set x = 1 %}{% for y in l %}{% set x = x + y %}{{ x }} {% endfor %}{{ x }}
{% if yes %}{% set x = 'in if' %}{% endif %}{{ x }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set q = 1, 2 %}{{ q }}
{% set ns = namespace(n=0, m='a') %}{% for y in l %}{% set ns.n = ns.n + y %}{% endfor %}{{ ns.n }}{{ ns.m }}{{ ns.zz }}|
{% set ns = namespace({'a': 1}, b=2) %}{% set ns.c = ns.a + ns.b %}{{ ns.c }} {{ ns['c'] }}|
{% set x %}  block {{ i }} {% endset %}[{{ x }}]{{ x|length }}{% set y | upper | trim %} ab {% endset %}[{{ y }}]
{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ x }}{{ y }}
{% with a = 1, b = i %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a }}{{ c }}|
{% set d.x = 1 %}
{% set x = x %}[{{ x }}]{% for s in l %}{{ s }}{% endfor %}{{ s }}
{% filter upper %}abc {{ s }}{% endfilter %}{% filter trim | replace('b', 'X') %}  aba  {% endfilter %}
{% generation %}gen {{ i }}{% set z = 1 %}{% endgeneration %}{{ z }}|
# macros
{% macro m(a, b=2, c=a) %}[{{ a }}|{{ b }}|{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b='x', a='y') }}{{ m() }}
{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}{{ m(2)|length }}
{% macro m() %}{{ later }}{% endmacro %}{% set later = 'seen' %}{{ m() }}{% macro e() %}{% endmacro %}[{{ e() }}]
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro wrap(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call wrap('b') %}in{{ i }}{% endcall %}
{% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(x, n) each(l) %}{{ n }}:{{ x }} {% endcall %}
{% macro m(f) %}{{ f(2) }}{% endmacro %}{% macro dbl(x) %}{{ x * 2 }}{% endmacro %}{{ m(dbl) }}{{ dbl.name }}
{% macro m(*args) %}{% endmacro %}
{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}{{ m(*[5], b=6) }}
{% set ns = namespace(f=[]) %}{% for x in l %}{% macro g() %}{{ x }}{% endmacro %}{% set ns.f = ns.f + [g] %}{{ g() }}{% endfor %}
{% set ns = namespace() %}{% for x in l %}{% set y = x * 2 %}{% if loop.first %}{% macro g() %}{{ x }}{{ y }}{% endmacro %}{% set ns.f = g %}{% endif %}{{ ns.f() }}{% endfor %}
# functions
{{ range(5)|list }} {{ range(2, 5)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }} {{ dict(a=1, b=2) }} {{ dict([['k', 'v']]) }}
{{ range(100001) }}
{{ raise_exception('roles must alternate: ' ~ i) }}
{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S') }} {{ strftime_now('%A, %B %-d') }}
{{ strftime_now('%H:%M:%S.%f|%Z|%z|%%f') }}
# filters on text
{{ '  x '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ blank|trim }}|{{ 5|trim }}
{{ s|upper }} {{ s|lower }} {{ 'hELLO wORLD'|capitalize }} {{ "foo bar-baz (qux)'s"|title }} {{ mixed|upper }} {{ mixed|lower }} {{ mixed|title }} {{ mixed|capitalize }}
{{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 2) }} {{ 'abc'|replace('', '-') }} {{ 123|replace(2, 'x') }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2) }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent('>>') }}|{{ 'a\n'|indent }}|
{{ i|string + 'x' }} {{ '<b>'|safe }} {{ "<'&>"|e }} {{ 'a b  c'|wordcount }} {{ s|length }} {{ u|count }}
{{ 'abc'|first }} {{ 'abc'|last }} {{ 'abc'|reverse }} {{ 'cab'|sort }} {{ 'abc'|list }} {{ 'abc'|join('-') }}
{{ '\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000x\u180e\u200b\ufeff'|trim|length }}
# filters on numbers
{{ '42'|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(9) }} {{ 3.9|int }} {{ '0x1f'|int(base=16) }} {{ ' -5 '|int }} {{ none|int }} {{ true|int }}
{{ '2.5'|float }} {{ 'x'|float }} {{ '1e3'|float }} {{ 3|float }} {{ '.5'|float }} {{ -3|abs }} {{ -2.5|abs }}
{{ 42.55|round }} {{ 42.55|round(1) }} {{ 2.5|round }} {{ 3.5|round }} {{ 42.1|round(0, 'ceil') }} {{ 42.9|round(method='floor') }} {{ 7|round }} {{ 1234.5|round(-2) }}
{{ 12345|round(-2) }} {{ 250|round(-2) }} {{ 350|round(-2) }} {{ -250|round(-2) }} {{ -251|round(-2) }} {{ 7|round(-1) }} {{ 5|round(-30) }} {{ true|round(-1) }}
# what a macro tells of itself
{% macro m(a, b=2) %}{{ a }}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}{{ m.x is defined }}
{% macro m() %}{{ varargs }}{{ kwargs }}{{ caller is defined }}{% endmacro %}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}
# urlize
{{ 'see http://example.com/a?b=1&c and www.x.org, (https://a.b:80/x) or <http://a.b>.'|urlize }}
{{ 'mail a@b.co, @a@b.co, mailto:me@x.org or a@b; localhost, x.com, x.dev, http://localhost:8080/'|urlize }}
{{ 'http://127.0.0.1/x http://[::1]:80 http://1.2.3 http://xn--p1ai https://é.日本.com www.a http://a.b:123456'|urlize }}
{{ 'see http://example.com/abcdefghij (http://x.org/(a))'|urlize(15, true) }} {{ 'http://日本.com/日本日本'|urlize(10) }}
{{ 'https://example.com'|urlize(nofollow=true, target='_"b', rel='me z me a') }} {{ 'www.x.com'|urlize(none, rel='') }}
{{ 'tel:123 ftp://a tel: x'|urlize(extra_schemes=['tel:', 'ftp://']) }}
{{ 'x'|urlize(extra_schemes=['tel']) }}
{{ '<b>http://a.com</b> <x'|urlize }} {{ '<b> http://a.com'|safe|urlize }} {{ 5|urlize }}
{% autoescape true %}{{ 'http://a.com <x>'|urlize }}{% endautoescape %}
# tojson
{{ d|tojson }} {{ rows|tojson }} {{ u|tojson }} {{ [1.0, 1e22, tiny, none, true]|tojson }} {{ (1, 2)|tojson }} {{ el|tojson }} {{ ed|tojson }}
{{ d|tojson(indent=2) }}
{{ rows|tojson(indent=4) }}
{{ {'a': [], 'b': {}}|tojson(indent=1) }} {{ [1]|tojson(indent=0) }} {{ [1]|tojson(indent='--') }}
{{ 'é日😀\x7f'|tojson(ensure_ascii=true) }} {{ 'é<>&\\''|tojson }} {{ d|tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}
{{ {1: 'a', none: 'b', true: 'c', 2.5: 'd'}|tojson }} {{ '\\b\\f\\x01'|tojson }}
{{ range(3)|tojson }}
# filters on sequences
{{ l|sort }} {{ names|sort }} {{ names|sort(case_sensitive=true) }} {{ l|sort(reverse=true) }} {{ rows[:2]|sort(attribute='k')|map(attribute='k')|list }}
{{ l|first }} {{ l|last }} {{ []|first }}| {{ l|reverse|list }} {{ l|length }} {{ l|sum }} {{ l|min }} {{ l|max }} {{ names|min }} {{ []|max }}|
{{ l|join }} {{ l|join(', ') }} {{ rows|join('/', attribute='role') }} {{ [1, none, 'a', missing]|join('-') }}
{{ rows|map(attribute='role')|list }} {{ rows|map(attribute='z.q', default='D')|list }} {{ names|map('upper')|list }} {{ l|map('string')|join('+') }} {{ names|map('replace', 'b', 'X')|list }}
{{ l|select('odd')|list }} {{ l|reject('equalto', 1)|list }} {{ [0, 1, '', 'a']|select|list }} {{ [0, 1]|reject|list }} {{ none|select|list }} {{ l|select('gt', 1)|list }}
{{ rows|selectattr('content')|list|length }} {{ rows|selectattr('role', 'equalto', 'user')|map(attribute='k')|list }} {{ rows|rejectattr('z', 'defined')|list|length }} {{ rows|selectattr('role', 'in', ['tool'])|list }}
{{ [1, 2, 1, 'a', 'A']|unique|list }} {{ d|dictsort }} {{ {'b': 1, 'A': 2}|dictsort(true) }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ {'a': 1, 'b': 2}|dictsort(reverse=true) }}
{{ d|items|list }} {{ missing|items|list }} {{ d|list }} {{ d|length }} {{ d|first }}
{% set g = l|map('string') %}{{ g|list }}{{ g|list }}{{ 'yes' if []|map('string') else 'no' }}
{{ (l|map('string')).x }}| {{ l|map('string')|first }} {{ [[1, 2]]|map('first')|list }} {{ l|map('nofilter')|list }}
{{ l|nofilter }}
{% if no %}{{ l|nofilter }}{% endif %}fine
{{ missing|d('x') }} {{ ''|default('x') }} {{ ''|default('x', true) }} {{ none|default('x') }} {{ none|d('x', boolean=true) }} {{ 0|d(1, true) }}
{{ d|attr('items') is callable }} {{ d|attr('b') is defined }} {{ 'a'|attr('upper') is callable }}
# tests
{{ i is defined }} {{ zz is undefined }} {{ nothing is none }} {{ i is not none }} {{ s is string }} {{ d is mapping }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ l is iterable }} {{ i is iterable }}
{{ i is number }} {{ f is float }} {{ i is integer }} {{ yes is integer }} {{ yes is boolean }} {{ yes is true }} {{ 1 is true }} {{ no is false }} {{ zz is iterable }} {{ zz is sequence }} {{ range is callable }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is eq 1 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 2 is ge 2 }} {{ 1 is in [1] }} {{ 'a' is in 'abc' }} {{ none is sameas none }} {{ 1 is sameas true }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'aB' is lower }} {{ 'upper' is filter }} {{ 'zz' is filter }} {{ 'odd' is test }} {{ not i is defined }} {{ i is defined and s is string }} {{ i is equalto 7 or no }}
{{ i is nosuchtest }}
# methods of text
{{ s.upper() }}{{ s.lower() }} {{ 'ab cd'.title() }} {{ "they're x1y".title() }} {{ 'aBC'.capitalize() }} {{ blank.strip() }}| {{ 'xxaxx'.strip('x') }} {{ 'xxaxx'.lstrip('x') }} {{ 'xxaxx'.rstrip('x') }} {{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|
{{ csv.split(',') }} {{ ' a  b '.split() }} {{ csv.split(',', 1) }} {{ csv.rsplit(',', 1) }} {{ ' a  b c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'abc'.split(sep='b') }}
{{ s.startswith('He') }} {{ s.endswith(('x', 'ld')) }} {{ s.startswith('lo', 3) }} {{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('zz') }} {{ u.find('本') }} {{ s.find('o', 5) }} {{ s.count('l') }} {{ s.index('W') }} {{ s.count('') }}
{{ s.replace('l', '1') }} {{ s.replace('l', '1', 1) }} {{ '-'.join(['a', 'b']) }} {{ 'a\nb\r\nc'.splitlines() }} {{ 'ab'.removeprefix('a') }} {{ 'ab'.removesuffix('b') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ '-7'.zfill(4) }}
{{ '12'.isdigit() }} {{ 'a1'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ ''.isdigit() }} {{ 'éÀ'.isalpha() }}
{{ s.split('') }}
{{ s.nosuch() }}
{{ '-'.join([1]) }}
# methods of lists and dicts
{{ l.index(1) }} {{ [1, 1].count(1) }} {{ l.copy() }} {{ (1, 2).index(2) }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.items()|list }} {{ d.copy() == d }}
{{ l.index(9) }}
# the rest of Jinja2's and Python's names
{{ '{}: {}'.format('a', i) }} {{ '{1}{0}'.format('a', 'b') }} {{ '{k}|{n:03d}'.format(k='x', n=i) }} {{ '{{}}{}'.format(1) }}
{{ '{:>5}|{:<5}|{:^5}|{:*^7}|{:5}|{:05}|{:.2}'.format('ab', 'ab', 'ab', 'ab', 'ab', 'ab', 'abc') }}
{{ '{:d}|{:5d}|{:<5d}|{:+d}|{: d}|{:05d}|{:=+6d}|{:,}|{:_}|{:x}|{:#x}|{:#X}|{:o}|{:b}|{:#b}|{:c}|{:n}'.format(42, 42, 42, 42, 42, 42, 42, 1234567, 1234567, 255, 255, 255, 8, 5, 5, 65, 1234) }}
{{ '{:010,}|{:08,}|{:09,}|{:_x}|{:_b}|{:>+8,}|{:-d}|{:^6d}|{:*=6d}'.format(1234, 1234, 1234, 1234567, 255, 1234, 5, 5, -5) }}
{{ '{:f}|{:.2f}|{:8.3f}|{:08.3f}|{:+.1e}|{:E}|{:g}|{:.3g}|{:G}|{:%}|{:.1%}|{:.0f}|{:#.0f}|{:,.2f}'.format(2.5, 2.345, 2.5, -2.5, 12345.678, 2.5, 1e10, 0.00012345, 1e-10, 0.25, 0.256, 2.5, 2.5, 1234567.891) }}
{{ '{}|{:5}|{:.3}|{:.1}|{:}|{:10}|{:e}'.format(2.5, 2.5, 123.456, 123.456, 1e16, 1e22, 0.0) }} {{ '{:.3}|{:.4}|{:.5}|{:.17}'.format(1234.0, 1234.0, 1234.0, 0.1) }}
{{ '{!r}|{!s}|{!a}|{!r:>8}'.format('é', 'é', 'é', 'a') }} {{ '{0[a]}|{0[b]}|{1[0]}|{1[1][1]}'.format(d, pairs) }} {{ '{0.real}'.format(5) }}
{{ '{:{}}|{:{w}.{p}}|{0:{1}}'.format('a', 5, w=3, p=1) }}
{{ '{:{}}|{:{w}.{p}}'.format('a', 5, 'bcd', w=3, p=1) }} {{ '{a}{b}'.format_map({'a': 1, 'b': [2]}) }} {{ '{}'.format(none) }} {{ '{}{}'.format(true, [1]) }} {{ '{:d}|{:5}'.format(true, true) }}
{{ '{}'.format() }}
{{ '{x}'.format(1) }}
{{ '{0}{}'.format(1, 2) }}
{{ '{'.format(1) }}
{{ '}'.format(1) }}
{{ '{:d}'.format('a') }}
{{ '{:d}'.format(1.5) }}
{{ '{:s}'.format(1) }}
{{ '{:=5}'.format('a') }}
{{ '{:5}'.format(none) }}
{{ '{:.2d}'.format(3) }}
{{ '{!x}'.format(3) }}
{{ '{:,x}'.format(3) }}
{{ '{0.zzz}|'.format(d) }} {{ '{:é>4}|{:日^5}'.format('a', 'b') }} {{ '{:c}{:3c}|'.format(233, 97) }}
{{ '%s-%02d'|format('a', i) }} {{ '%(a)s'|format(a=1) }} {{ '%s'|format(s) }} {{ 'x'|format }} {{ '%5.1f|%+d|%x|%o|%e|%c|%c|%a'|format(f, 3, 255, 8, f, 65, 'B', 'é') }} {{ '%*d|%-*s|%.*f' % (5, 42, 4, 'a', 2, 1.239) }} {{ '%ld %hd' % (1, 2) }}
{{ '%d'|format('x') }}
{{ s|truncate(5) }}|{{ s|truncate(6, true) }}|{{ 'foo bar baz qux'|truncate(9) }}|{{ 'foo bar baz qux'|truncate(9, True) }}|{{ 'foo bar baz qux'|truncate(11) }}|{{ 'foo bar baz qux'|truncate(11, False, '...', 0) }}|{{ 'foo bar baz qux'|truncate(9, end='!', leeway=0) }}|{{ u|truncate(8, leeway=0) }}
{{ 'abcdefghij'|truncate(2) }}
{{ 'abcdefghijklmnop'|truncate(5, leeway=0) }}|{{ 'a bcdefghijklmnop'|truncate(5, leeway=0) }}|{{ ' abcdefghijklmnop'|truncate(5, leeway=0) }}|
{{ s|wordwrap(5) }}|{{ 'the quick brown fox jumps over the lazy dog'|wordwrap(10) }}|{{ 'a-b-c well-known hyphen-ated word--dash abc-def-ghi'|wordwrap(8) }}|{{ 'abcdefghijklmnop qrs'|wordwrap(6) }}|{{ 'abcdefghijklmnop qrs'|wordwrap(6, false) }}|{{ 'one\\ntwo three\\n\\nfour'|wordwrap(4) }}|{{ 'one two'|wordwrap(4, wrapstring='<br>') }}|{{ 'x-y long-hyphenated'|wordwrap(6, break_on_hyphens=false) }}
{{ '  lead and   inner   spaces  '|wordwrap(8) }}|{{ u|wordwrap(4) }}|{{ 'aaaa-bbbb-cccc-dddd'|wordwrap(7) }}|{{ '----aaaaaaaaaa'|wordwrap(5) }}|{{ 'ab cd ef'|wordwrap(2) }}|{{ 'a b c d'|wordwrap(1) }}|{{ "don't say-it isn't well-done e-mail x--y"|wordwrap(6) }}
{{ s|center(20) }}|{{ s|center }}|{{ 'abc'|center(6) }}|{{ 'abcd'|center(7) }}|{{ 'ab'|center(1) }}|{{ 5|center(4) }}|{{ u|center(40) }}
{% for k, g in rows|groupby('role') %}{{ k }}={{ g|length }} {% endfor %}{% for g in rows|groupby('role') %}{{ g.grouper }}:{{ g.list|map(attribute='k', default='-')|join(',') }} {% endfor %}{{ rows|groupby('k', default=0) }}{{ [{'a': 'B'}, {'a': 'b'}, {'a': 'A'}]|groupby('a') }}{{ [{'a': 'B'}, {'a': 'b'}, {'a': 'A'}]|groupby('a', case_sensitive=true) }}
{{ pairs|groupby(0) }} {{ [{'a': {'b': 2}}, {'a': {'b': 1}}]|groupby('a.b')|map('first')|list }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 'x')|list }} {{ []|batch(3)|list }} {{ 'abcde'|batch(2)|list }} {{ [1, 2]|batch(2, 0)|list }}
{{ [1, 2, 3, 4, 5]|slice(2)|list }} {{ [1, 2, 3, 4]|slice(3, 'x')|list }} {{ [1]|slice(3)|list }} {{ []|slice(2)|list }}
{{ [1]|slice(0)|list }}
{{ 'a b&c/d?é=~'|urlencode }} {{ {'a b': 1, 'c': 'x y/&'}|urlencode }} {{ [['k', 'v'], ['é', none]]|urlencode }} {{ 5|urlencode }} {{ ''|urlencode }}
{{ '<b>x</b> <!-- c <i> --> y &amp; &lt;z&gt; &#65;&#x42; &nbsp;|  a \\n b'|striptags }} {{ 'a < b'|striptags }} {{ '<p><a href="x">t</a>'|striptags }} {{ 5|striptags }}
{{ {'a': 1, 'b': none, 'c': '<&"', 'd': missing}|xmlattr }}| {{ {'a': 1}|xmlattr(false) }}|{{ {}|xmlattr }}|
{{ {'a b': 1}|xmlattr }}
{{ '<'|forceescape }} {{ ('<'|e)|e }} {{ ('<'|e)|forceescape }} {{ '<'|escape is escaped }} {{ '<' is escaped }} {{ ('<'|safe) + '<' }} {{ '<' + ('<'|e) }} {{ ('a'|safe|upper) is escaped }} {{ '<' ~ ('<'|e) }}
{{ 1|filesizeformat }} {{ 100|filesizeformat }} {{ 1500|filesizeformat }} {{ 1024|filesizeformat(true) }} {{ 1000000|filesizeformat }} {{ 1e12|filesizeformat }} {{ 1e30|filesizeformat }} {{ '2048'|filesizeformat }} {{ 999|filesizeformat }} {{ 0|filesizeformat }} {{ 123456789|filesizeformat(binary=true) }}
{{ d|pprint }} {{ s|pprint }} {{ l|pprint }} {{ 5|pprint }} {{ none|pprint }}
{{ rows|pprint }}
{{ [rows, rows, {'k': [rows, 'word ' * 30, u * 10], 'a': ('x' * 50, 'y' * 50)}]|pprint }}
{{ ('word ' * 40)|pprint }}
{{ {'long': 'some words that go on and on and on and on and on and on and on and on\\nand lines\\n', 'b': [('one' * 40,)]}|pprint }}
{{ [7]|random }} {{ 'x'|random }} {{ []|random }}|
{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}{{ c.items }}{{ c.pos }}
{% set c = cycler() %}
{% set j = joiner() %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}{% set k = joiner('|') %}{{ k() }}a{{ k() }}b{{ k() }}{{ j is callable }}
{{ lipsum is defined }} {{ lipsum(2, false)|length > 20 }} {{ lipsum(n=1)[:3] }}
{% block a %}x{{ s }}{% endblock %}|{% block b %}{% set q = 1 %}{{ q }}{% endblock b %}{{ q }}|{{ self.a() }}
{% set t = 5 %}{% for x in l %}{% block c scoped %}{{ x }}{{ loop.index }}{% endblock %}{% endfor %}{% block e %}{{ t }}{% endblock %}
{% for x in l %}{% block f %}[{{ x }}]{% endblock %}{% endfor %}{% with w = 3 %}{% block g %}{{ w }}{% endblock %}{% endwith %}|
{% block a %}{% endblock %}{% block a %}{% endblock %}
{% block a %}{{ super() }}{% endblock %}
{% block a %}{% block b %}in{% endblock %}{% endblock %}{{ self.b() }}{{ self.zz is defined }}
{% autoescape true %}{{ '<' }}{{ '<'|safe }}{% set q %}<i>{{ '>' }}{% endset %}{{ q }}{{ l }}{% endautoescape %}{{ '<' }}{% autoescape false %}{{ '<' }}{% endautoescape %}
{% print 1, 'a', l %}{% print s %}
{% if no %}{% include 'x' %}{% import 'y' as z %}{% from 'a' import b %}{% endif %}ok
{% include 'x' %}
{% do l.append(1) %}
{{ s.swapcase() }} {{ mixed.swapcase() }} {{ 'a'.center(5) }}|{{ 'a'.center(4, '*') }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '-') }}|{{ '-5'.zfill(4) }}|{{ 'ab'.ljust(1) }}|{{ 'é'.center(4) }}|
{{ '12'.isnumeric() }}{{ '½'.isnumeric() }}{{ '一二'.isnumeric() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '12'.isdecimal() }}{{ 'Ab Cd'.istitle() }}{{ 'ab'.istitle() }}{{ 'a'.isidentifier() }}{{ '1a'.isidentifier() }}{{ 'a_1'.isidentifier() }}{{ 'é'.isascii() }}{{ ''.isascii() }}{{ 'a\\n'.isprintable() }}{{ ''.isprintable() }}{{ 'a b'.isprintable() }}{{ '٣'.isdigit() }}
{{ 'ß'.casefold() }}{{ 'ǅẞſﬁΣςİı'.casefold() }}{{ mixed.casefold() }} {{ 'ΑΣ ΑΣΑ Σ'.lower() }} {{ 'ΑΣ ΒΣ'.title() }} {{ 'ΑΣ'|lower }} {{ "ΑΣ'Α ΑΣ." .lower() }}
{{ 'a\\tb\\n\\tc'.expandtabs(4) }}|{{ 'abc\\td'.expandtabs() }}|{{ '\\t'.expandtabs(0) }}|
{{ 'é'.encode('utf-8') }}{{ 'a\\'b\\n'.encode() }}{{ 'é'.encode()|length }}{{ 'é'.encode().decode('utf-8') }}
{{ 'abc'.translate({97: 'x', 98: none, 99: 100}) }}{{ 'abc'.translate('x'.maketrans('ab', 'xy', 'c')) }}{{ ''.maketrans({'a': 'b'}) }}
{{ {}.fromkeys([1, 2]) }}{{ {}.fromkeys('ab', 0) }}{{ dict.fromkeys('ab') }}{{ d.copy() }}{{ (7).bit_length() }}{{ (0).bit_length() }}{{ (7).bit_count() }}{{ 2.0.is_integer() }}{{ (2.5).as_integer_ratio() }}{{ (3).conjugate() }}{{ (3).real }}{{ (3).imag }}{{ (3).numerator }}{{ (2.5).imag }}{{ true.real }}{{ (-8).bit_length() }}
{{ [1, 2, 1].index(1, 1) }}{{ [1, 2].count(1) }}{{ (1, 2).index(2) }}{{ range(5).index(3) }}{{ range(5).count(9) }}{{ range(2, 9, 3).start }}{{ range(2, 9, 3).step }}{{ range(2, 9, 3).stop }}
{{ [1, 2].index(1, 1) }}
{% set ns = namespace(_x=1) %}
{% set ns = namespace() %}{% set ns._x = 1 %}
{{ 'a' if true else x|nofilter }}
{{ 'a-b_c d.e'|wordcount }}{{ 'é ñ x́y'|wordcount }}
# errors of syntax
{% if %}
{% if x
{{ a b }}
{{ 'open }}
{% for x l %}{% endfor %}
{% endif %}
{% if true %}x
{% nosuchtag %}
{{ (1 }}
{{ ] }}
{# open
{% set true = 1 %}
{{ 1 is defined is none }}
{{ f(a=1, 2) }}
{% macro m(a=1, b) %}{% endmacro %}
{{ a ? b }}
"""


def features():
    for line in FEATURES.strip("\n").split("\n"):
        if line.startswith("# ") or not line:
            title = line
            continue
        source = line.encode("ascii", "backslashreplace").decode("unicode-escape")
        yield "%s: %s" % (title[2:], line), source, VALUES


# ---- chats: the structure of three families, with twelve conversations --------------------------

CHATML = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are a model that helps.<|im_end|>\\n' }}
{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

HEADERS = """{% for message in messages -%}
{%- set text = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -%}
{%- if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif -%}
{{- text -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"""

TOOLS = """{{- bos_token }}
{%- set date = date_string if date_string is defined else '26 Jul 2024' %}
{%- set tools = tools if tools is defined else none %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{%- macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>{{ '\\n\\n' }}{% endmacro %}
{{- header('system') }}
{%- if tools is not none %}{{ 'Environment: ipython\\n' }}{% endif %}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date + '\\n\\n' + system + '<|eot_id|>' }}
{%- if tools is not none %}
    {%- if messages | length == 0 %}{{ raise_exception('tools need a user message') }}{% endif %}
    {%- set first = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- header('user') + 'Answer with a call of one of these functions:\\n\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) + '\\n\\n' }}
    {%- endfor %}
    {{- first + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role not in ['tool', 'ipython'] and not message.tool_calls %}
        {{- header(message.role) + message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('one tool call at a time') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- header('assistant') + '{"name": "' ~ call.name ~ '", "parameters": ' ~ call.arguments | tojson ~ '}<|eot_id|>' }}
    {%- else %}
        {{- header('ipython') }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ header('assistant') }}{% endif %}"""

WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a <city> & its \"region\" — né",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer", "default": 1},
        "ratio": {"type": "number", "default": 0.5}}, "required": ["city"]}}}


def say(role, content, **more):
    return dict(role=role, content=content, **more)


CHATS = [
    ("one question", [say("user", "What is FP8?")], {"add_generation_prompt": True}),
    ("no generation prompt", [say("user", "Hi"), say("assistant", "Hello")], {}),
    ("system", [say("system", "Be brief. "), say("user", "Hi")], {"add_generation_prompt": True}),
    ("three turns", [say("user", "a"), say("assistant", "b"), say("user", "c"),
                     say("assistant", "d"), say("user", "e")], {"add_generation_prompt": True}),
    ("white space", [say("user", "  \n spaces \t\n"), say("assistant", "\n\nx ")], {}),
    ("empty message", [say("user", ""), say("assistant", "")], {"add_generation_prompt": True}),
    ("unicode", [say("user", "naïve 日本語 👩‍👧 'q' \"d\" \u00a0")], {"add_generation_prompt": True}),
    ("markup in a message", [say("user", "<|im_end|><|eot_id|> {{ x }} {% if %}")],
     {"add_generation_prompt": True}),
    ("tools", [say("system", "S"), say("user", "Weather?")],
     {"tools": [WEATHER], "add_generation_prompt": True, "date_string": "1 Jan 2025"}),
    ("tool call", [say("user", "Weather?"),
                   say("assistant", "", tool_calls=[{"type": "function", "function": {
                       "name": "weather", "arguments": {"city": "Paris", "days": 2, "r": 1.0,
                                                        "n": None, "l": [True, "é"]}}}]),
                   say("tool", {"t": 21.5})], {"tools": [WEATHER], "add_generation_prompt": True}),
    ("two calls at once", [say("user", "q"), say("assistant", "", tool_calls=[
        {"function": {"name": "a", "arguments": {}}}, {"function": {"name": "b", "arguments": {}}}])], {}),
    ("no messages", [], {"add_generation_prompt": True, "tools": [WEATHER]}),
]


def chats():
    for family, source in (("chatml", CHATML), ("headers", HEADERS), ("tools", TOOLS)):
        for name, messages, more in CHATS:
            tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
            yield "%s, %s" % (family, name), source, dict(tokens, messages=messages, **more)


def write(path, triples):
    templates, cases = [], []
    for name, source, context in triples:
        if source not in templates:
            templates.append(source)
        case = {"name": name, "t": templates.index(source)}
        if context is not VALUES:
            case["ctx"] = context
        cases.append(dict(case, **render(source, json.loads(json.dumps(context)))))
    root = {"made_by": "spec/support/gen_template_goldens.py with Jinja2 " + jinja2.__version__,
            "now": UNIX_NOW, "templates": templates, "cases": cases}
    if any("ctx" not in case for case in cases):
        root["ctx"] = VALUES
    with open(path, "w", encoding="utf-8") as f:
        json.dump(root, f, ensure_ascii=False, indent=1)
        f.write("\n")
    print(path, len(cases), "cases")


def main():
    where = os.path.join(os.path.dirname(__file__), "..", "golden", "template")
    os.makedirs(where, exist_ok=True)
    write(os.path.join(where, "features.json"), features())
    write(os.path.join(where, "chats.json"), chats())


if __name__ == "__main__":
    main()
