"""What the rules make of single modules: hidden code is high, what honest plugins do is not."""

import ast

import pytest

from host.supply.scan import source_rules
from host.supply.scan.source_rules import MAX_DEPTH, TooDeepError


def found(text, *, network=False, inline=False):
    return {
        (rule, severity) for rule, severity, _, _ in source_rules.notes(ast.parse(text), network=network, inline=inline)
    }


def rules(text, severity):
    return {
        rule for rule, had, *_ in source_rules.notes(ast.parse(text), network=True, inline=False) if had == severity
    }


HIDDEN = [
    ("exec of base64", "import base64\nexec(base64.b64decode('cGFzcw=='))", "decoded-code"),
    ("exec of a name that was decoded", "import zlib\nx = zlib.decompress(d)\ny = x\nexec(y)", "decoded-code"),
    (
        "exec of what a function decodes",
        "import base64\ndef f(): return base64.b64decode(d)\nexec(f())",
        "decoded-code",
    ),
    (
        "exec in a function of what is handed in",
        "import zlib\ndef f(c): exec(c)\nf(zlib.decompress(d))",
        "decoded-code",
    ),
    ("exec of an attribute", "import zlib\nself.code = zlib.decompress(d)\neval(self.code)", "decoded-code"),
    ("exec of hex", "exec(bytes.fromhex('70617373'))", "decoded-code"),
    ("exec of a byte list", "exec(bytes([112, 97, 115, 115]))", "decoded-code"),
    ("exec of characters", "exec(''.join(chr(c) for c in codes))", "decoded-code"),
    ("exec of text written backwards", "exec('ssap'[::-1])", "decoded-code"),
    ("exec of a download", "from urllib import request\nexec(request.urlopen(u).read())", "decoded-code"),
    ("exec of rot13", "import codecs\nexec(codecs.decode('cnff', 'rot13'))", "decoded-code"),
    ("compile of a decoded text", "import base64\ncompile(base64.b64decode(x), 'a', 'exec')", "decoded-code"),
    ("exec by another name", "import base64\nrun = exec\nrun(base64.b64decode(x))", "decoded-code"),
    ("exec handed to map", "import base64\nlist(map(exec, [base64.b64decode(x)]))", "decoded-code"),
    ("exec in another alphabet", "import base64\n\uff45xec(base64.b64decode(x))", "decoded-code"),
    (
        "exec that a parameter elsewhere shadows",
        "import zlib\ndef f(exec): ...\nexec(zlib.decompress(x))",
        "decoded-code",
    ),
    ("eval put together", "getattr(__builtins__, 'ev' + 'al')(x)", "hidden-name"),
    ("eval joined", "import builtins\ngetattr(builtins, ''.join(['e', 'val']))(x)", "hidden-name"),
    ("eval out of a dictionary", "__builtins__.__dict__['eval'](x)", "hidden-name"),
    ("eval out of the globals", "globals()['__builtins__']['eval'](x)", "hidden-name"),
    ("eval out of vars", "import builtins\nvars(builtins)['exec'](x)", "hidden-name"),
    ("eval by characters", "getattr(__builtins__, chr(101) + 'xec')(x)", "hidden-name"),
    ("a shell through __import__", "__import__('os').system('id')", "hidden-name"),
    ("a shell through sys.modules", "import sys\nsys.modules['os'].system('id')", "hidden-name"),
    ("a shell put together", "import os\ngetattr(os, 'sys' + 'tem')('id')", "hidden-name"),
    (
        "a shell through import_module",
        "from importlib import import_module as i\ni('o' + 's').system('id')",
        "hidden-name",
    ),
    ("marshal", "import marshal\nmarshal.loads(x)", "marshalled-code"),
    ("marshal by a star", "from marshal import *\nloads(x)", "marshalled-code"),
    ("a code object of bytes", "import types\ntypes.CodeType(1, 2)", "marshalled-code"),
]


@pytest.mark.parametrize(("text", "rule"), [case[1:] for case in HIDDEN], ids=[case[0] for case in HIDDEN])
def test_what_hides_code_is_high(text, rule):
    assert rule in rules(text, "high")


DOUBTFUL = [
    ("exec", "exec('x = 1')", "dynamic-code"),
    ("eval of an argument", "def f(x): return eval(x)", "dynamic-code"),
    ("ctypes", "import ctypes.util", "native-code"),
    ("cffi", "from cffi import FFI", "native-code"),
    ("import by a made name", "import importlib\nimportlib.import_module(name)", "dynamic-import"),
    ("import by a path", "from importlib.util import spec_from_file_location as s\ns('a', p)", "dynamic-import"),
    ("a subprocess", "import subprocess as sp\nsp.run(['ls'])", "starts-process"),
    ("a subprocess of asyncio", "import asyncio\nasyncio.create_subprocess_exec('ls')", "starts-process"),
    ("a shell", "from os import system as s\ns('ls')", "starts-process"),
    ("a shell by a star", "from os import *\nsystem('ls')", "starts-process"),
    ("an alias of an alias", "import os\na = os\nb = a.system\nb('ls')", "starts-process"),
    ("os.execv", "import os\nos.execv(p, a)", "starts-process"),
    ("os.fork asked for by its plain name", "import os\nfork = getattr(os, 'fork')", "starts-process"),
    (
        "a name that stands for two things",
        "import json as os\ndef f():\n    import os\n    os.system('ls')",
        "ambiguous-name",
    ),
    ("a masked module", "import json as os\ndef f():\n    import os\n    os.system('ls')", "starts-process"),
    ("a socket while it is imported", "import socket\ns = socket.create_connection(a)", "import-side-effect"),
    ("a process in a class body", "import os\nclass A:\n    os.system('ls')", "import-side-effect"),
    ("a process in a default", "import os\ndef f(x=os.system('ls')): ...", "import-side-effect"),
    ("a codec of its own", "import codecs\ncodecs.register(f)", "interpreter"),
]


@pytest.mark.parametrize(("text", "rule"), [case[1:] for case in DOUBTFUL], ids=[case[0] for case in DOUBTFUL])
def test_what_plugins_do_now_and_then_is_medium(text, rule):
    assert rule in rules(text, "medium")
    assert not rules(text, "high")


HONEST = [
    ("a plugin", "from plugin_sdk import Plugin\nclass Demo(Plugin):\n    async def start(self, context): ..."),
    ("re.compile", "import re\nPATTERN = re.compile('x')"),
    ("a method called eval", "def f(model): return model.eval()"),
    ("a function called compile", "from jinja import compile\ncompile(x)"),
    ("base64 of data", "import base64\ndef f(x): return base64.b64decode(x)"),
    ("bytes of numbers", "def f(): return bytes([1, 2, 3])"),
    ("a text backwards", "def f(x): return x[::-1]"),
    ("the version of a distribution", "from importlib.metadata import version\nprint(version('a'))"),
    ("a file beside the module", "from importlib.resources import files\nTEXT = files('a').joinpath('b').read_text()"),
    ("asyncio and JSON", "import asyncio, json\nasync def f(): await asyncio.sleep(json.loads('1'))"),
    ("getattr", "def f(x, name): return getattr(x, name)"),
    ("os.environ and os.path", "import os\nX = os.path.join(os.environ.get('A', ''), 'b')"),
    ("a system of its own", "def system(x): ...\nsystem('x')"),
]


@pytest.mark.parametrize("text", [case[1] for case in HONEST], ids=[case[0] for case in HONEST])
def test_honest_code_has_no_finding(text):
    assert not found(text)


def test_what_runs_only_as_a_program_is_no_side_effect_of_an_import():
    text = "import os\nif __name__ == '__main__':\n    os.system('ls')"
    assert "import-side-effect" not in rules(text, "medium")
    assert "import-side-effect" in rules(text + "\nelse:\n    os.system('ls')", "medium")


@pytest.mark.parametrize(
    "text",
    [
        "import socket",
        "import http.client",
        "from urllib.request import urlopen",
        "from urllib import request",
        "import urllib.request as r",
        "import aiohttp",
        "__import__('socket')",
        "import asyncio\nasync def f(): await asyncio.open_connection('a', 1)",
    ],
)
def test_the_network_has_to_be_asked_for_in_the_manifest(text):
    assert ("undeclared-network", "low") in found(text)
    assert ("undeclared-network", "medium") in found(text, inline=True)  # nothing would stop it there
    assert not {rule for rule, _ in found(text, network=True)} & {"undeclared-network"}


def test_urls_can_be_parsed_without_the_network():
    assert not found("from urllib.parse import urlsplit\nimport http")


def test_a_finding_names_its_line():
    (note,) = source_rules.notes(ast.parse("\n\nimport marshal\n\nmarshal.loads(x)"), network=True, inline=False)
    assert note[:3] == ("marshalled-code", "high", 5)


def test_a_tree_is_looked_at_to_a_depth_that_no_person_writes():
    assert not list(source_rules.notes(ast.parse("x = " + "-" * (MAX_DEPTH - 20) + "1"), network=True, inline=False))
    with pytest.raises(TooDeepError):
        list(source_rules.notes(ast.parse("x = " + "-" * MAX_DEPTH + "1"), network=True, inline=False))


def test_nested_lookups_cost_no_more_than_their_length():
    text = "x" + "['a']" * (MAX_DEPTH - 20)
    assert not found(text)
