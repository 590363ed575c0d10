#!/usr/bin/env python3
"""Compares the interpreter with PyPI's jinja2, set up as transformers sets it up, over many small templates.

    diff_jinja.py RENDER_LINES [--seed N] [--random N]

RENDER_LINES is the driver built from render_lines.c.  Exit code 77 (skipped) where jinja2 is not installed.  A template that fails
in jinja2 must fail here, and one that renders must render the same; the texts of errors are not compared, except raise_exception's.
"""
import argparse
import datetime
import json
import random
import re
import resource
import subprocess
import sys
import warnings

try:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    print("skipped: jinja2 is not installed (pip install jinja2)")
    sys.exit(77)

NOW = datetime.datetime(2026, 2, 3, 14, 5, 6)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class PlainDict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


def check_name(name):
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("underscore")


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attrs = dict(*args, **kwargs)
        for name in attrs:
            check_name(name)
        jinja2.utils.Namespace.__init__(self, attrs)

    def __setitem__(self, name, value):
        check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


class Raised(jinja2.exceptions.TemplateError):
    pass


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise Raised(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: NOW.strftime(format)
    env.globals["dict"] = PlainDict()
    env.globals["namespace"] = Namespace
    return env


VARIABLES = {
    "s": "Hello World", "t": "  padded \t\n", "u": "naïve ÇA VA ß Ǆ ﬁ İ ΑΣ 東京 🙂", "empty": "", "csv": "a,b,,c", "lines": "one\ntwo\r\n\nthree\r",
    "html": "<b a='1'>\"x\" & y</b>", "digits": "0123", "num_s": "42", "float_s": "3.75", "neg_s": "-7", "word": "straße", "path": "a/b/c.txt",
    "i": 7, "j": -3, "zero": 0, "big": 123456789012, "f": 2.5, "g": -0.75, "h": 1e20, "tiny": 1.5e-7, "yes": True, "no": False, "nil": None,
    "xs": [3, 1, 2], "ys": ["b", "A", "c", "a"], "mixed": [1, "a", None, True, 2.5], "nested": [[1, 2], [3, [4]]], "none_list": [],
    "d": {"b": 1, "a": 2, "C": 3}, "dd": {"x": {"y": [1, {"z": "deep"}]}, "items": "shadow", "k": None}, "ed": {},
    "users": [{"name": "Bo", "age": 30, "tags": ["x"], "on": True}, {"name": "al", "age": 25, "tags": [], "on": False},
              {"name": "Cy", "age": 30, "tags": ["y", "z"], "on": True}],
    "msgs": [{"role": "system", "content": "sys"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": None}],
    "tree": [{"n": "1", "c": [{"n": "1.1", "c": []}, {"n": "1.2", "c": [{"n": "1.2.1", "c": []}]}]}, {"n": "2", "c": []}],
}

ATOMS = ["s", "t", "u", "empty", "csv", "html", "num_s", "float_s", "i", "j", "zero", "f", "g", "h", "yes", "no", "nil", "xs", "ys", "mixed", "nested",
         "none_list", "d", "dd", "ed", "users", "missing", "missing2", "1", "0", "-2", "2.0", "1e3", "'x'", "'a b'", "''", "[]", "{}", "()", "(1,)", "(1, 2)",
         "[1, 'a']", "{'k': [1]}", "true", "false", "none", "range(3)", "namespace(a=1)", "d.items()", "d.keys()", "xs|map('string')", "users|selectattr('on')",
         "'<i>'|safe", "dd.x", "users[0]", "s[0]", "loop", "dict(a=1)", "ys|first", "big", "tiny", "digits", "lines", "word", "path", "cycler(1, 2)", "s.upper"]

OPAQUE = ["xs|map('string')", "users|selectattr('on')", "cycler(1, 2)", "s.upper", "loop"]  # print as addresses

BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]

FILTERS = ["abs", "attr('name')", "batch(2)|list", "batch(2, 'x')|list", "capitalize", "center(20)", "count", "default('D')", "default('D', true)", "d", "dictsort",
           "dictsort(true)", "dictsort(false, 'value')", "dictsort(reverse=true)", "escape", "e", "filesizeformat", "filesizeformat(true)", "first", "float",
           "float(1.5)", "forceescape", "format(1)", "format('a', 'b')", "groupby('age')|list", "groupby(0)|list", "indent", "indent(2, true)", "indent('>> ', blank=true)",
           "int", "int(5)", "int(base=16)", "int(0, 2)", "items|list", "join", "join(', ')", "join('-', attribute='name')", "join(d='|')", "last", "length", "list", "lower",
           "map('upper')|list", "map('length')|list", "map(attribute='name')|list", "map(attribute='age', default=0)|list", "map(attribute='tags.0')|list",
           "map('int')|list", "map('default', 'Q')|list", "max", "min", "max(attribute='age')", "min(attribute='name')", "pprint", "reject('none')|list", "reject|list",
           "rejectattr('on')|list", "rejectattr('age', 'gt', 26)|list", "replace('a', 'b')", "replace('l', 'L', 1)", "replace('', '-')", "reverse", "reverse|list", "round",
           "round(1)", "round(1, 'floor')", "round(0, 'ceil')", "round(-1)", "safe", "select|list", "select('string')|list", "select('odd')|list", "select('in', [1, 'a'])|list",
           "selectattr('on')|list", "selectattr('name', 'equalto', 'Bo')|list", "selectattr('age', '>=', 30)|map(attribute='name')|list", "selectattr('zzz', 'defined')|list",
           "slice(2)|list", "slice(2, 'f')|list", "sort", "sort(true)", "sort(case_sensitive=true)", "sort(attribute='age')|list", "sort(attribute='age,name', reverse=true)",
           "string", "striptags", "sum", "sum(attribute='age')", "sum(start=10)", "title", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)",
           "tojson(separators=(',', ':'))", "tojson(sort_keys=true)", "tojson(indent=1, sort_keys=true)", "trim", "trim('H')", "truncate(5)", "truncate(5, true)",
           "truncate(4, false, '..', 0)", "unique|list", "unique(true)|list", "unique(attribute='age')|list", "upper", "urlencode", "wordcount", "xmlattr", "wordwrap(5)"]

TESTS = ["odd", "even", "divisibleby(2)", "divisibleby 3", "defined", "undefined", "none", "boolean", "false", "true", "integer", "float", "lower", "upper", "string",
         "mapping", "number", "sequence", "iterable", "callable", "sameas(none)", "escaped", "in([1, 'x', none])", "eq(1)", "equalto 'x'", "ne 1", "gt(1)", "ge 1", "lt(2)",
         "le 7", "filter", "test", "not none", "not string"]

METHODS = ["upper()", "lower()", "title()", "capitalize()", "casefold()", "swapcase()", "strip()", "lstrip()", "rstrip()", "strip('Hd')", "lstrip(' H')", "rstrip(none)",
           "split()", "split(',')", "split(',', 1)", "split(maxsplit=1)", "split('l')[0]", "rsplit(',', 1)", "rsplit()", "rsplit(none, 1)", "rsplit(sep='o')", "splitlines()",
           "splitlines(true)", "partition('o')", "rpartition('o')", "partition('zz')", "replace('l', 'L')", "replace('l', 'L', 1)", "replace('', '.')", "find('o')", "find('o', 5)",
           "find('zz')", "rfind('o')", "index('l')", "index('zz')", "rindex('l')", "count('l')", "count('')", "startswith('He')", "startswith(('x', 'He'))", "endswith('ld')",
           "endswith('ld', 3)", "isalpha()", "isalnum()", "isdigit()", "isdecimal()", "isnumeric()", "isspace()", "isupper()", "islower()", "istitle()", "isascii()",
           "isidentifier()", "isprintable()", "join(['a', 'b'])", "join(xs)", "join('xyz')", "center(15)", "center(15, '*')", "ljust(15)", "rjust(15, '.')", "zfill(15)", "expandtabs(4)",
           "removeprefix('He')", "removesuffix('ld')", "format(1)", "get('a')", "get('zz', 9)", "items()", "keys()", "values()", "items()|list", "keys()|list", "values()|sort",
           "count(1)", "index(1)", "append(1)", "pop()", "update({})", "clear()", "copy()", "setdefault('a', 1)", "sort()", "insert(0, 1)", "encode()", "__class__", "__len__()",
           "_private", "foo", "name", "x.y.1.z", "0", "0.name", "a", "upper", "format_map(d)"]

SLICES = ["[0]", "[-1]", "[1:]", "[:2]", "[:-1]", "[::2]", "[::-1]", "[-3:-1]", "[5:1]", "[1:100]", "[-100:2]", "[::-2]", "[3:0:-1]", "['a']", "['items']", "['x']['y'][0]", "[none]",
          "[true]", "[1.0]", "[100]", "[:none]", "['upper']()", "[0][0]", "[0:1][0]", "[missing]", "['a':]", "[::0]"]

TEMPLATES = [
    # white space
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}  \n  b\n  {% endif %}\nc", "a {%- if true %} b {%- endif %} c", "a {% if true -%} b {% endif -%} c",
    "  {%+ if true %}x{%+ endif %}\ny", "{% if true +%}\nx{% endif %}", "{{ 1 }}\n{{ 2 }}\n\n", "{{- 1 -}}  \n  {{- 2 }}", "x\n  {#- c -#}  \ny", "x\n  {# c #}\ny", "x {# c\n #}\ny",
    "{# a #}{# b -#}  z", "   {% set x = 1 %}\n{{ x }}", "\n\n{% set x = 1 %}\n\n{{ x }}\n", "{% raw %}{{ x }} {% y %}{% endraw %}", "{%- raw -%}  {{ x }} {%- endraw -%}  z",
    "{% raw %}\n a\n{% endraw %}\nb", "a\n   {% raw %}x{% endraw %}", "{% raw %}{% raw %}{% endraw %}", "\t{% if 1 %}\tq{% endif %}\t", "a\r\nb\r{{ 1 }}\n", "{{ 'a\r\nb' }}",
    "{%if true%}x{%endif%}", "{%- for x in xs -%}\n {{ x }}\n{%- endfor -%}\n", "{% for x in xs %}\n{{ x }}\n{% endfor %}\n", "line {{ 1 }}   \n   {% if 0 %}{% endif %}   \nend",
    "{{ '}}' }}", "{{ \"%}\" }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{{'a': 1}}}", "{%set x={'a':{}}%}{{x}}", "{{ 1 }}{{ '' }}{{ none }}", "{ { } } %} #}",
    "{{ x", "{% if", "{# a", "{% raw %}", "{{ (1 }}", "{{ 1) }}", "{{ [1} }}", "{{ 'a }}", "{% endif %}", "{% foo %}", "{% if 1 %}", "{% for x in xs %}", "{{ }}", "{% %}", "{{ 1 2 }}",
    "{{ a b }}", "{% if %}{% endif %}", "{% set %}", "{% set x %}", "{% set 1 = 2 %}", "{% for %}{% endfor %}", "{{ 1 + }}", "{{ | upper }}", "{{ x | }}", "{{ x is }}", "{{ a.b. }}", "{{ a..b }}",
    "{% macro %}{% endmacro %}", "{% else %}", "{% if 1 %}{% endfor %}", "{{ $ }}", "{{ a ? b }}", "{{ 'a' 'b' }}", "{{ 'a' \"b\" ~ 'c' }}",
    # literals
    "{{ 'a\\n\\t\\\\\\'\\\"\\x41\\u00e9\\101\\q' }}", "{{ 'é\\é' }}", "{{ '\\x4' }}", "{{ \"it's\" }}", "{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 00 }}", "{{ 1.5e3 }} {{ 1e-3 }} {{ 1E5 }} {{ 1_0.5 }}",
    "{{ 007 }}", "{{ 1. }}", "{{ .5 }}", "{{ 1.0 }} {{ 100000000000000000.0 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789.123 }} {{ 0.1 + 0.2 }} {{ 1/3 }} {{ -0.0 }}", "{{ 0.0001 }} {{ 0.00001 }}",
    "{{ True }} {{ true }} {{ None }} {{ none }} {{ False }}", "{{ [1, 'a', \"b'c\", None, True, 1.0, {'k': (1,)}] }}", "{{ {'a': 1, 2: 'b', none: 3, 1.5: 4, (1, 2): 5} }}", "{{ () }} {{ (1,) }} {{ (1, 2) }} {{ 1, 2 }}",
    "{{ {'a': 1, 'a': 2} }}", "{{ {1: 'a', 1.0: 'b', true: 'c'} }}", "{{ {[]: 1} }}", "{{ ['a', 'b',] }} {{ {'a': 1,} }} {{ (1, 2,) }}", "{{ 'x' if true }}", "{{ 'x' if false }}|", "{{ ('x' if false) is defined }}",
    "{{ 1 if yes else 2 if no else 3 }}", "{{ (1 if no else 2) + 1 }}", "{{ not yes }} {{ not not yes }} {{ not 1 == 2 }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1 in [1] }}", "{{ -i ** 2 }} {{ 2 ** 3 ** 2 }} {{ 2 ** -1 }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7 / 2 }} {{ 6 / 2 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1.0 / 0 }}", "{{ 'a' * 3 }} {{ 3 * 'a' }} {{ [1] * 2 }} {{ 'a' * -1 }}",
    "{{ 'a' + 1 }}", "{{ 1 + 'a' }}", "{{ [1] + [2] }} {{ (1,) + (2,) }}", "{{ [1] + (2,) }}", "{{ true + true }} {{ true * 2.0 }}", "{{ 'a' ~ 1 ~ none ~ 1.0 ~ [1] }}", "{{ 'a' 'b' * 2 }}", "{{ 1 ~ 2 + 3 }}", "{{ 2 + 3 ~ 4 }}",
    "{{ -1|abs }} {{ (-1)|abs }} {{ -j|abs }}", "{{ - -1 }} {{ + 1 }} {{ -'a' }}", "{{ 1 is odd and 2 is even }}", "{{ xs is iterable and s is string }}", "{{ 'a' in s }} {{ 'H' in s }} {{ 1 in s }}", "{{ 'a' in d }} {{ 'z' not in d }}",
    "{{ nil in xs }} {{ 3 in xs }} {{ 3.0 in xs }}", "{{ 1 in 1 }}", "{{ 'a' in missing }}", "{{ missing in xs }}", "{{ missing == missing2 }} {{ missing == none }} {{ missing != 1 }}", "{{ missing > 1 }}", "{{ missing + 1 }}", "{{ missing.x }}",
    "{{ missing['x'] }}", "{{ missing() }}", "{{ missing|length }}", "{{ d.zz }}|{{ d.zz is defined }}", "{{ d.zz.y }}", "{{ xs.zz }}", "{{ s.zz }}", "{{ nil.x }}|", "{{ nil['x'] }}|", "{{ nil[1:2] }}", "{{ i.x }}|{{ i[0] }}|",
    "{{ dd.items }}", "{{ dd['items'] }}", "{{ dd.items() }}", "{{ d.__class__ }}|", "{{ d.__class__.x }}", "{{ ''.__class__.__mro__ }}", "{{ d.update({'x': 1}) }}", "{{ xs.append(4) }}", "{% set _ = xs.append(4) %}", "{{ xs.append is defined }}",
    "{{ 'abc'.foo() }}", "{{ s.upper }}" if False else "{{ s.upper is callable }}", "{% set f = s.upper %}{{ f() }}", "{{ s['upper']() }}", "{{ 'a-b'.split('-')|last }}", "{{ (s.split(' ')|first).lower() }}", "{{ users[0].name }} {{ users[0]['name'] }} {{ users.0.name }}",
    "{{ users[-1]['tags'][-1] }}", "{{ nested[1][1][0] }} {{ nested.1.1.0 }}", "{{ d['a', 'b'] }}|", "{{ xs[1:2, 3] }}" if False else "{{ xs[0:2] }}",
    # statements
    "{% if i > 5 %}big{% elif i > 3 %}mid{% else %}small{% endif %}", "{% if no %}a{% elif no %}b{% elif yes %}c{% else %}d{% endif %}", "{% if missing %}a{% else %}b{% endif %}", "{% if users and users[0].on %}ok{% endif %}",
    "{% for x in xs %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% endfor %}", "{% for x in xs %}{{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.depth }} {{ loop.depth0 }};{% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}", "{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}", "{% for x in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1, 1, 2, 2, 1] %}{% if loop.changed(x) %}{{ x }}{% endif %}{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}",
    "{% for c in s %}{{ c }}.{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in ['xy', [1, 2]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for x in none_list %}a{% else %}empty{% endfor %}", "{% for x in missing %}a{% else %}empty{% endfor %}", "{% for x in nil %}a{% endfor %}", "{% for x in 5 %}a{% endfor %}", "{% for x in xs if x > 1 %}{{ x }}:{{ loop.index }}/{{ loop.length }} {% endfor %}",
    "{% for x in xs if x > 9 %}a{% else %}none{% endfor %}", "{% for x in xs if loop.index %}{% endfor %}", "{% for u in users if u.on and u.age > 20 %}{{ u.name }}{{ loop.last }}{% endfor %}", "{% for k, v in d.items() if v > 1 %}{{ k }}{{ v }}{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in xs %}{% break %}{% else %}else{% endfor %}", "{% for x in xs %}{% continue %}{% else %}else{% endfor %}",
    "{% for x in xs %}{% if x == 2 %}{% break %}{% endif %}{% else %}else{% endfor %}", "{% break %}", "{% for x in xs %}{% else %}{% break %}{% endfor %}", "{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "{% for x in xs %}{% for y in xs %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{% for n in tree recursive %}{{ n.n }}{% if n.c %}({{ loop(n.c) }}){% endif %}{% endfor %}", "{% for n in tree recursive %}{{ loop.depth }}{{ loop.depth0 }}{{ n.n }} {{ loop(n.c) }}{% else %}-{% endfor %}", "{% for n in xs %}{{ loop(n) }}{% endfor %}", "{% for x in xs %}{% for y in ys %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in xs %}{% set outer = loop %}{% for y in ys %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}{{ x }}", "{% for x in range(10, 0, -3) %}{{ x }} {% endfor %}", "{{ range(5) }} {{ range(1, 5, 2)|list }} {{ range(0)|list }}", "{{ range(1, 2, 0) }}", "{{ range(1000000) }}",
    "{% for x in xs %}{{ loop }}{% endfor %}", "{% for loop in xs %}{% endfor %}", "{% for x in xs %}{% set loop = 1 %}{% endfor %}", "{{ loop }}", "{{ loop is defined }}", "{% for x in xs|sort|reverse %}{{ x }}{{ loop.last }}{% endfor %}", "{% for x in xs|map('string') %}{{ x }}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for a in xs for b in xs %}{% endfor %}", "{% for x in xs, ys %}{{ x }}{% endfor %}", "{% for x in (1, 2) %}{{ x }}{% endfor %}", "{% for x, in [(1,), (2,)] %}{{ x }}{% endfor %}", "{% for x in ys|batch(2) %}{{ x|join }};{% endfor %}",
    # scoping
    "{% set x = 1 %}{% for y in xs %}{% set x = y %}{% endfor %}{{ x }}", "{% set x = 1 %}{% for y in xs %}{{ x }}{% set x = y %}{{ x }}{% endfor %}", "{% set ns = namespace(x=1) %}{% for y in xs %}{% set ns.x = ns.x + y %}{% endfor %}{{ ns.x }}", "{% if yes %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% if no %}{% set s = 2 %}{% endif %}{{ s }}", "{{ s }}{% set s = 'new' %}{{ s }}", "{% macro m() %}{{ s }}{% endmacro %}{% set s = 'later' %}{{ m() }}", "{% macro m() %}{{ v }}{% endmacro %}{{ m() }}{% set v = 1 %}{{ m() }}", "{% macro m() %}{% set s = 'in' %}{{ s }}{% endmacro %}{{ m() }}{{ s }}",
    "{% macro m(a, b=2, *c) %}{% endmacro %}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=4, a=5) }}", "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }} {{ m(**{'a': 3, 'b': 4}) }} {{ m(1, **{'b': 5}) }}",
    "{% macro m(a, a) %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m() %}x{{ caller() }}y{% endmacro %}{% call m() %}in{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b=3) m() %}{{ a }}{{ b }}{% endcall %}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}in{% endcall %}", "{% call s %}{% endcall %}", "{% call s.upper() %}{% endcall %}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}", "{% macro m() %}a{% endmacro %}{{ m() ~ 'b' }} {{ m()|upper }} {{ m() == 'a' }}", "{% macro a() %}{% macro b() %}x{% endmacro %}{{ b() }}{% endmacro %}{{ a() }}",
    "{% macro m(x) %}{{ m.name }}{{ m.arguments }}{% endmacro %}{{ m(1) }}{{ m }}", "{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}", "{% set x = 1 %}{% macro m() %}{% for y in xs %}{{ x }}{% set x = y %}{% endfor %}{{ x }}{% endmacro %}{{ m() }}", "{{ m() }}{% macro m() %}{% endmacro %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with a = 1 %}{% with a = a + 1 %}{{ a }}{% endwith %}{{ a }}{% endwith %}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% with a, b = (1, 2) %}{{ a }}{{ b }}{% endwith %}", "{% set a = 5 %}{% with a = 1, b = a %}{{ b }}{% endwith %}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x }}|{{ x|length }}", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | replace('a', 'b') | upper %}abc{% endset %}{{ x }}", "{% set ns = namespace() %}{% set ns.x %}q{% endset %}{{ ns.x }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set (a, b) = 'xy' %}{{ b }}{{ a }}", "{% set a = 1, 2 %}{{ a }}",
    "{% set ns = namespace(a=1, b='x') %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns.c is defined }}{{ ns['a'] }}", "{% set ns = namespace({'q': 1}) %}{{ ns.q }}{{ ns }}", "{% set ns.x = 1 %}", "{% set d.x = 1 %}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{{ namespace(_a=1) }}", "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'x')|upper %}abc{% endfilter %}", "{% filter indent(2) %}a\nb\n{% endfilter %}", "{% filter nope %}{% endfilter %}", "{% generation %}a{% set zz = 1 %}{{ zz }}{% endgeneration %}{{ zz }}", "{% for x in xs %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% for x in xs %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", "{% block a %}x{{ s }}{% endblock %}", "{% set q = 5 %}{% block a %}{{ q }}{% endblock a %}", "{% for x in xs %}{% block b %}{{ x }}{% endblock %}{% endfor %}", "{% block a %}{% endblock %}{% block a %}{% endblock %}", "{% autoescape false %}<{{ html }}{% endautoescape %}",
    "{% print 1, 2 %}", "{% do xs %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% from 'a' import b %}", "{% if 1: %}x{% endif %}",
    "{% for m in msgs %}{% if m.role == 'user' %}{% set ns = namespace(f=true) %}{{ ns.f }}{% endif %}{% endfor %}{{ ns is defined }}", "{% set loop_messages = msgs[1:] if msgs[0].role == 'system' else msgs %}{{ loop_messages|length }}", "{% for m in msgs if m.role != 'system' %}{{ m.role }}{{ loop.index0 }}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('bad') }}{% endif %}{% endfor %}",
    "{{ raise_exception('no ' ~ s) }}", "{{ raise_exception() }}", "{{ raise_exception(1) }}", "{{ strftime_now('%Y-%m-%d %H:%M:%S %a %A %b %B %j %p %I %y %%') }}", "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%f|%z|%Z|%-d|%e') }}", "{{ strftime_now }}" if False else "{{ strftime_now is callable }}",
    # callables
    "{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{{ j() }}c", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}", "{{ cycler() }}", "{{ dict(a=1, **{'b': 2}) }} {{ dict([('x', 1)], y=2) }} {{ dict() }}", "{{ dict.fromkeys(['a', 'b'], 0) }}", "{{ dict(1) }}",
    "{{ 'x'.join(['a', 1]) }}", "{{ '-'.join(d) }} {{ '-'.join(ys|sort) }}", "{{ [1, 2].count(1) }} {{ (1, 2).index(2) }} {{ [1].index(5) }}", "{{ s.startswith('H') and s.endswith('d') }}", "{{ f.is_integer() }}" if False else "{{ 1 }}",
    # formats
    "{{ '%s-%d-%5.2f|%-5s|%05d|%x|%X|%o|%e|%g|%c|%r|%%' % ('a', 3, 2.5, 'b', 42, 255, 255, 8, 12345.678, 0.0001, 'z', 'q') }}", "{{ '%(a)s %(b)05.1f' % {'a': 1, 'b': 2.25} }}", "{{ '%s' % 'x' }} {{ '%s' % [1, 2] }} {{ '%s' % none }}", "{{ '%s %s' % 'x' }}", "{{ '%d' % 'x' }}", "{{ '%s' % (1, 2) }}", "{{ 'x' % 1 }}", "{{ 'x' % d }}", "{{ 'x' % [] }}", "{{ '%+d % d %+.3e' % (1, 2, 3.0) }}", "{{ '%#x %#o' % (10, 8) }}", "{{ '%*d' % (5, 42) }}", "{{ '%.3s|%10.2s|' % ('abcdef', 'xyz') }}", "{{ '%.5d' % 42 }}", "{{ '%i %u' % (1.9, -2) }}", "{{ '%c' % 65 }}", "{{ '%y' % 1 }}", "{{ '%' % 1 }}",
    "{{ '%s, %s!'|format('a', 1) }} {{ '%(x)s'|format(x=2) }}", "{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=1) }}", "{{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }}", "{{ '{:05d} {:+} {:x} {:#x} {:b} {:,} {:_}'.format(42, 1, 255, 255, 5, 1234567, 1234567) }}",
    "{{ '{:.2f} {:8.3f} {:e} {:g} {:%} {:.1%} {}'.format(3.14159, 2.5, 1234.5, 0.00001, 0.5, 0.256, 1.0) }}", "{{ '{!r} {!s:>4}'.format('a', 'b') }}", "{{ '{0[a]} {1.name} {2[0]}'.format({'a': 1}, namespace(name='n'), [9]) }}", "{{ '{:{}}|{:>{w}}'.format('a', 5, 'b', w=4) }}", "{{ '{{}} {}'.format(1) }}", "{{ '{'.format(1) }}", "{{ '}'.format(1) }}", "{{ '{} {}'.format(1) }}", "{{ '{0} {}'.format(1, 2) }}", "{{ '{x}'.format() }}", "{{ '{:d}'.format('a') }}", "{{ '{:s}'.format(1) }}", "{{ '{:,.2f}'.format(1234567.891) }} {{ '{:010,}'.format(1234) }} {{ '{:+.1e}'.format(12345) }}", "{{ '{:c}'.format(65) }} {{ '{:o}'.format(8) }} {{ '{:n}'.format(5) }}", "{{ '{:.3}'.format('abcdef') }} {{ '{:.3}'.format(1234.5) }} {{ '{:.3}'.format(1.0) }} {{ '{:10.4}'.format(3.14159265) }}", "{{ '{}'.format(none) }} {{ '{}'.format([1]) }} {{ '{:5}'.format(none) }}", "{{ '{:5}|{:<5}|{:=+5}|{:05}'.format(42, 42, 42, -42) }} {{ '{:5}|'.format(true) }} {{ '{}'.format(true) }}", "{{ '{a}'.format_map({'a': 1}) }}", "{{ '{0.__class__}'.format(1) }}",
    # markup
    "{{ html|e }} {{ html|escape|e }} {{ html|safe|e }}", "{{ ('<a>'|safe) + '<b>' }} {{ '<b>' + ('<a>'|safe) }} {{ ('<a>'|safe) ~ '<b>' }}", "{{ ('%s'|safe) % '<b>' }} {{ ('{}'|safe).format('<b>') }} {{ ('-'|safe).join(['<', '>']) }}", "{{ ('<A>'|safe).lower() + '<' }} {{ ('a,b'|safe).split(',') }}", "{{ ('<'|safe) is escaped }} {{ '<' is escaped }}", "{{ ['<'|safe] }} {{ ('<'|safe)|length }} {{ ('<x>'|safe)|upper }}", "{{ ['a'|safe, '<']|join('<') }}", "{{ ('a'|safe) * 2 + '<' }} {{ ('ab'|safe)[0] + '<' }}", "{{ ('a'|safe).replace('a', '<') }} {{ ('<'|safe)|replace('<', '>') }}", "{{ ('<'|safe) == '<' }} {{ ('<'|safe) in ['<'] }}", "{{ ('<'|safe)|tojson }} {{ ('a'|safe)|string + '<' }}",
    # generators
    "{{ (xs|map('string'))|length }}", "{{ xs|map('string')|join }}", "{% set g = xs|map('string') %}{{ g|list }}{{ g|list }}", "{% set g = xs|select('odd') %}{% if g %}true{% endif %}{{ g|first }}{{ g|list }}", "{{ xs|map('string') is iterable }} {{ xs|map('string') is sequence }}", "{{ (xs|map('nope'))|list }}", "{{ (none_list|map('nope'))|list }}", "{% set g = nil|map('upper') %}ok", "{{ nil|map('upper')|list }}", "{{ 5|map('upper')|list }}", "{{ xs|map|list }}", "{{ xs|map(attribute='a', zzz=1)|list }}", "{{ xs|selectattr|list }}", "{{ (users|map(attribute='name'))[0] }}|", "{{ users|map(attribute='name')|sort|join(',') }}", "{{ users|groupby('age')|map('first')|list }}", "{% for g in users|groupby('age') %}{{ g.grouper }}:{{ g.list|map(attribute='name')|join(',') }};{% endfor %}", "{% for age, us in users|groupby('age') %}{{ age }}{{ us|length }}{% endfor %}", "{{ users|groupby('zip', default='q')|list|length }}", "{{ xs|reverse|list }} {{ s|reverse }} {{ d|reverse|list }} {{ (xs|map('string'))|reverse }}", "{{ 5|reverse }}",
    "{{ xs|tojson }} {{ d|tojson(indent=2) }} {{ dd|tojson }}", "{{ mixed|tojson }} {{ nested|tojson(indent=4) }} {{ ed|tojson(indent=2) }} {{ none_list|tojson(2) }}", "{{ u|tojson }} {{ u|tojson(ensure_ascii=true) }}", "{{ {'a': (1, 2), 1: 2, none: 3, true: 4, 1.5: 5}|tojson }}", "{{ missing|tojson }}", "{{ range(3)|tojson }}", "{{ d.items()|tojson }}", "{{ (xs|map('int'))|tojson }}", "{{ {(1, 2): 3}|tojson }}", "{{ h|tojson }} {{ tiny|tojson }} {{ 1e400|tojson }}", "{{ '\\u2028\\x7f\\x00\\x1f/<>&'|tojson }}", "{{ d|tojson(separators=(', ', '=')) }} {{ d|tojson(indent='--') }} {{ d|tojson(indent=0) }}", "{{ {'b': 1, 1: 2}|tojson(sort_keys=true) }}", "{{ [{'b': {'z': 1, 'a': 2}}]|tojson(sort_keys=true, indent=2) }}",
    "{{ 'a' is nope }}", "{{ 'a'|nope }}", "{% if no %}{{ 'a'|nope }}{% endif %}ok", "{% if no %}{{ 'a' is nope }}{% endif %}ok", "{{ 'a'|nope if no else 'ok' }}", "{% if yes %}{{ 'a'|nope }}{% endif %}", "{% if no %}{% for x in xs %}{{ x|nope }}{% endfor %}{% endif %}", "{{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }}", "{{ 1 is odd is even }}", "{{ 3 is divisibleby 3 }} {{ 3 is not divisibleby(2) }}", "{{ s is string and s is not none or nil is none }}", "{{ d is mapping }} {{ xs is sequence }} {{ s is sequence }} {{ d is iterable }} {{ i is iterable }}", "{{ 1 is in [1] }} {{ 1 is in(xs) }}", "{{ 1 is sameas 1 }} {{ true is sameas true }} {{ xs is sameas xs }} {{ 1 is sameas true }}", "{{ missing is string }} {{ missing is iterable }} {{ missing is sequence }} {{ missing is none }}",
    "{{ 42.55|round }} {{ 42.55|round(1, 'floor') }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 5|round }} {{ 15|round(-1) }} {{ 25|round(-1) }}", "{{ 1.5|round(0, 'nope') }}", "{{ '42.23'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '0x1f'|int(base=16) }} {{ 'ff'|int(0, 16) }} {{ ' 42 '|int }} {{ '1_000'|int }} {{ none|int }} {{ 3.9|int }} {{ -3.9|int }}", "{{ '1e3'|float }} {{ 'nan'|float }} {{ 'inf'|float }} {{ 'x'|float }} {{ '1_0.5'|float }} {{ ' 2 '|float }} {{ true|float }}", "{{ (1e308 * 10)|int }}", "{{ missing|int }}", "{{ [1, 2]|sum }} {{ [1.5, 2]|sum }} {{ [[1], [2]]|sum(start=[]) }} {{ ['a']|sum }}", "{{ ['b', 'A']|sort }} {{ ['b', 'A']|sort(case_sensitive=true) }} {{ [1, 'a']|sort }}", "{{ [{'a': 2}, {'a': 1}]|sort(attribute='a') }} {{ [{'a': 2}, {'b': 1}]|sort(attribute='a') }}", "{{ [[2, 'b'], [1, 'a']]|sort(attribute=0) }} {{ [[2], [1, 5]]|sort }}", "{{ ['a', 'A', 'b']|unique|list }} {{ [1, 1.0, true]|unique|list }} {{ [[1], [1]]|unique|list }}", "{{ [3, 1, 2]|min }} {{ ['b', 'A']|max }} {{ []|min }}| {{ [1, 'a']|max }}", "{{ 'foo bar baz'|truncate(9) }} {{ 'foo bar baz qux'|truncate(9, true) }} {{ 'foo bar baz'|truncate(2) }}", "{{ 'hello-world foo_bar (baz) [q] {z} <t> a.b'|title }} {{ \"it's o'neil\"|title }} {{ \"it's o'neil\".title() }} {{ 'ÀÉ ßa ǆx'|title }} {{ 'ÀÉ ßa ǆx'.title() }}", "{{ u|upper }} {{ u|lower }} {{ u|capitalize }} {{ u.swapcase() }} {{ u.casefold() }}", "{{ u[3] }} {{ u[-1] }} {{ u[2:9] }} {{ u[::-1] }} {{ u|length }} {{ u.find('東') }} {{ u.center(60, '→') }}", "{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(first=true) }}|{{ 'a\n\nb'|indent(blank=true) }}|{{ 'a\n'|indent }}", "{{ {'a': '<', 'b': none, 'c d': 1}|xmlattr }}", "{{ {'a': '<', 'b': none, 'c': 1}|xmlattr }} {{ {'a': 1}|xmlattr(false) }}", "{{ '/a b&c/é?=1'|urlencode }} {{ {'a b': 'c/d', 'e': 1}|urlencode }} {{ [('x', 'y z')]|urlencode }} {{ 5|urlencode }}", "{{ 'x'|attr('upper') is callable }} {{ d|attr('a') is defined }} {{ d|attr('items') is defined }}", "{{ 'repr' ~ ['\\n\\t\\x00\\x7f\\xa0é\\u200b\"', \"'\", \"'\\\"\"] }}", "{{ d|items|list }} {{ missing|items|list }} {{ xs|items|list }}", "{{ d|length }} {{ d|list }} {{ d|first }} {{ d|last }} {{ d.items()|last|first }}", "{{ d.items() }} {{ d.keys() }} {{ d.values() }}", "{{ d == {'a': 2, 'C': 3, 'b': 1} }} {{ [1, [2]] == [1.0, [2.0]] }} {{ (1,) == [1] }} {{ 'a' == 'a' }} {{ 1 == true }} {{ 1 == '1' }}", "{{ [1, 2] < [1, 3] }} {{ 'a' < 'b' }} {{ (1, 2) <= (1, 2) }} {{ 1 < 'a' }}", "{{ {} < {} }}", "{{ none < 1 }}",
    "{% set x = 'a' %}{% set x = x ~ 'b' %}{% set y = x ~ 'c' %}{% set z = x ~ 'd' %}{{ x }} {{ y }} {{ z }}", "{% set x = [1] %}{% set y = x + [2] %}{% set z = y + [3] %}{% set w = y + [4] %}{{ x }}{{ y }}{{ z }}{{ w }}", "{% set ns = namespace(s='') %}{% for c in s %}{% set ns.s = ns.s ~ c ~ '|' %}{% endfor %}{{ ns.s }}", "{% set ns = namespace(l=[]) %}{% for c in s %}{% set ns.l = ns.l + [c] %}{% endfor %}{{ ns.l }}", "{{ '' ~ missing ~ 'x' }} {{ [missing] }} {{ {'a': missing} }}", "{{ missing or 'dflt' }} {{ '' or none or 0 }} {{ 1 and 2 }} {{ 0 and 1 }}", "{{ (missing or {}).x is defined }}", "{{ s if s is defined else 'q' }}", "{{ [1, 2, 3][1:]|first }}", "{{ ('a', 'b')[0] ~ ('a' 'b') }}", "{{ {'a': 1}.a }} {{ {'a': {'b': 2}}.a.b }} {{ [{'x': 5}].0.x }}", "{{ 'abc'[1] }} {{ 'abc'[-1:] }} {{ 'abc'.upper()[0] }} {{ ('abc')|upper|first }}", "{{ 'é'.encode() }}" if False else "{{ 1 }}", "{{ 1.0 is integer }} {{ 1 is number }} {{ true is number }} {{ true is integer }}", "{{ '%s'|format(s|upper) }}", "{{ s|default('x')|upper ~ '!' }}", "{{ a.b.c is defined }}", "{{ s.a.b is defined }}", "{{ (s.a).b is defined }}", "{{ a is defined and a.b }}", "{{ users|map(attribute='name')|map('upper')|list|tojson }}", "{{ users|selectattr('tags')|map(attribute='name')|join('+') }}", "{{ users|sum(attribute='age') / users|length }}", "{{ [1, 2, 3]|select('>', 1)|list }} {{ [1, 2]|select('nope')|list }}", "{{ 'a' if 'a' in 'abc' and not 'z' in 'abc' else 'b' }}", "{{ self }}|" if False else "{{ 1 }}", "{{ varargs }}|{{ kwargs }}|{{ caller }}",
    "{%- macro render(x, depth=0) -%}{%- if x is mapping -%}{ {%- for k, v in x|dictsort -%}{{ k }}:{{ render(v, depth + 1) }}{{ ',' if not loop.last }}{%- endfor -%} }{%- elif x is iterable and x is not string -%}[{%- for v in x -%}{{ render(v, depth + 1) }};{%- endfor -%}]{%- else -%}{{ x|tojson }}@{{ depth }}{%- endif -%}{%- endmacro -%}{{ render(dd) }} {{ render(users) }}",
]


LITERAL = re.compile(r"-?\d|true|false|none|[\[({']")


def generated(rng, n):
    """Every pairing of the parts once, then n random compositions."""
    out = []
    for a in ATOMS:
        out.append("{{ %s }}" % a)
        out.append("{% for q in " + a + " %}{{ q }},{% else %}E{% endfor %}")
        out.append("{%% if %s %%}T{%% else %%}F{%% endif %%}" % a)
        for f in FILTERS if a not in OPAQUE else [x for x in FILTERS if x not in ("upper", "wordcount", "replace('', '-')")]:
            out.append("{{ (%s)|%s }}" % (a, f))
        for t in TESTS:
            out.append("{{ (%s) is %s }}" % (a, t))
        for m in METHODS:
            out.append("{{ (%s).%s }}" % (a, m))
        # Jinja folds slices of literals when it compiles, where what cannot be sliced is undefined; at run time it is an error.
        for sl in SLICES if not LITERAL.match(a) else [x for x in SLICES if ":" not in x]:
            out.append("{{ (%s)%s }}" % (a, sl))
        for b in rng.sample(ATOMS, 12):
            for op in BINARY if b != "big" else [x for x in BINARY if x != "**"]:  # Python's integers would grow for ever
                out.append("{{ (%s) %s (%s) }}" % (a, op, b))
    for _ in range(n):
        e = rng.choice([x for x in ATOMS if x not in OPAQUE])
        for _ in range(rng.randint(1, 4)):
            k = rng.random()
            if k < 0.4:
                e = "(%s)|%s" % (e, rng.choice(FILTERS))
            elif k < 0.6:
                e = "(%s).%s" % (e, rng.choice(METHODS))
            elif k < 0.75:
                e = "(%s)%s" % (e, rng.choice(SLICES))
            elif k < 0.95:
                op = rng.choice(BINARY)
                e = "(%s) %s (%s)" % (e, op, rng.choice(ATOMS) if op != "**" else rng.choice(["2", "f", "yes", "s"]))
            else:
                e = "(%s) if (%s) else (%s)" % (e, rng.choice(ATOMS), rng.choice(ATOMS))
        out.append(rng.choice(["{{ %s }}", "{%% set v = %s %%}{{ v }}", "{%% for q in %s %%}{{ loop.index }}{{ q }},{%% endfor %%}", "{%% if %s %%}T{%% endif %%}"]) % e)
    return out


# What an implementation in another language cannot share: addresses and names of Python's own objects, integers without bound,
# complex numbers, bytes.  And what this one refuses, saying so.
ADDRESS = re.compile(r"0x[0-9a-f]{6,}|<built-in|<bound method|<function|<class|<generator|object at|<method|dict_itemiterator|reverse_?iterator|<Cycler|<jinja2|b'|b\"", re.I)


def comparable(source, want, got):
    if "rendered" in want and (ADDRESS.search(want["rendered"]) or re.search(r"\d{19,}|\dj\b", want["rendered"])):
        return False
    if "rendered" in want and re.search(r"subscriptable|slice", got.get("error", "")) and re.search(r"\[[^\]]*:[^\]]*\]", source):
        return False  # perhaps folded at compile time, see above
    return got.get("status") not in ("unsupported", "limit exceeded")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("driver")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--random", type=int, default=4000)
    ap.add_argument("--sample", type=int, default=0, help="of the generated templates; 0 = all")
    ap.add_argument("--show", type=int, default=40)
    args = ap.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # some templates repeat a text 10^11 times
    rng = random.Random(args.seed)
    env = environment()
    sources = generated(rng, args.random)
    if args.sample:
        sources = rng.sample(sources, min(args.sample, len(sources)))
    sources = TEMPLATES + sources
    lines = "".join(json.dumps({"template": t, "kwargs": VARIABLES, "now": NOW.isoformat()}) + "\n" for t in sources)
    run = subprocess.run([args.driver], input=lines, capture_output=True, text=True)
    answers = [json.loads(x) for x in run.stdout.split("\n") if x]
    if run.returncode != 0 or len(answers) != len(sources):
        last = sources[len(answers)] if len(answers) < len(sources) else ""
        print(f"the driver ended with {run.returncode} after {len(answers)} of {len(sources)} templates, at {last!r}\n{run.stderr[-2000:]}")
        return 1
    wrong = skipped = texts = 0
    for source, got in zip(sources, answers):
        try:
            want = {"rendered": env.from_string(source).render(messages=[], tools=None, documents=None, add_generation_prompt=False, **json.loads(json.dumps(VARIABLES)))}
            texts += 1
        except Exception as e:
            want = {"error": f"{type(e).__name__}: {e}", "raised": isinstance(e, Raised)}
        if not comparable(source, want, got):
            skipped += 1
            continue
        same = want.get("rendered") == got.get("rendered") if "rendered" in want else "error" in got
        if same and want.get("raised"):
            same = want["error"].split(": ", 1)[1] in got["error"]
        if not same:
            wrong += 1
            if wrong <= args.show:
                print(f"{source!r}\n   jinja2 {want}\n   here   {got}")
    print(f"{len(sources)} templates ({texts} texts): {wrong} differ, {skipped} not comparable")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
