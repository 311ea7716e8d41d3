"""The analysis in its child: hostile files, odd files, and files that hide as something else."""

import json
import os
import py_compile
import sys
import zipfile

import pytest

from host.supply.scan import source_checks, source_child
from host.supply.scan.child import ChildLimits, run
from host.supply.scan.distributions import SourceTree
from host.supply.scan.report import CheckState, Severity
from host.supply.scan.source_checks import check_source


@pytest.fixture
def check(tree, manifest):
    async def check(files, *, limits=source_checks.LIMITS, **of_manifest):
        return await check_source(SourceTree(tree(files)), manifest=manifest(**of_manifest), limits=limits)

    return check


def rules(checked, path=None):
    return {(one.rule, str(one.severity)) for one in checked.findings if path is None or one.path == path}


NOT_PARSED = {("source-unparsable", "high"), ("source-too-complex", "high")}  # which one hangs on the version of Python
HOSTILE = [
    ("utf-7", b"# -*- coding: utf-7 -*-\n+AGUAeABlAGM-('x')\n", "source-encoding"),
    ("rot13", b"# coding: rot13\nvzcbeg bf\n", "source-encoding"),
    ("unicode_escape", b"# vim: set fileencoding=unicode_escape :\n'x'\n", "source-encoding"),
    ("cookie on the second line", b"#!/usr/bin/python\n# coding=latin-1\n", "source-encoding"),
    ("cookie behind a lone carriage return", b"# a\r# coding: utf-7\n", "source-encoding"),
    ("cookie behind a BOM", b"\xef\xbb\xbf# coding: utf-7\n", "source-encoding"),
    ("cookie behind a form feed", b"\x0c# coding: utf-7\n", "source-encoding"),
    ("latin-1 without a cookie", b"x = '\xe9'\n", "source-encoding"),
    ("UTF-16", "import os\n".encode("utf-16"), "source-encoding"),
    ("overlong UTF-8", b"x = '\xc0\xaf'\n", "source-encoding"),
    ("right-to-left override", "x = '\u202e'\n", "bidi-control"),
    ("isolates in a comment", "# \u2066 if admin: \u2069\n", "bidi-control"),
    ("NUL", b"x = 1\0\nimport os\n", "source-unparsable"),
    ("no Python", b"def (:\n", "source-unparsable"),
    ("deep parentheses", b"(" * 5000 + b")" * 5000, "source-unparsable"),
    ("deep operators", b"x = " + b"-" * 50_000 + b"1\n", "source-too-complex"),
    ("a long chain", b"x = 1" + b" + 1" * 50_000 + b"\n", "source-too-complex"),
    ("deep attributes", b"x" + b".a" * 100_000 + b"\n", "source-too-complex"),
    ("deep brackets in text", b"x = [" * 90 + b"]" * 90, "source-unparsable"),
]


@pytest.mark.parametrize(("content", "rule"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
async def test_source_that_is_not_what_it_seems_is_high(check, content, rule):
    checked = await check({"acme/__init__.py": "", "acme/odd.py": content})
    expected = NOT_PARSED if (rule, "high") in NOT_PARSED else {(rule, "high")}
    assert expected & rules(checked, "acme/odd.py")
    assert checked.check.state is CheckState.DONE


@pytest.mark.parametrize(
    "content",
    [
        b"# -*- coding: utf-8 -*-\nx = '\xc3\xa9'\n",
        b"\xef\xbb\xbfx = 1\n",
        b"# coding: us-ascii\n",
        b"",
        b"x = 1\r\ny = 2\r\n",
    ],
)
async def test_ordinary_source_has_no_finding(check, content):
    assert not rules(await check({"acme/__init__.py": content}))


async def test_a_huge_file_is_refused_without_being_read(check):
    checked = await check({"acme/big.py": b"x = 1\n" * (30 * 2**20 // 6)})
    assert rules(checked) == {("source-too-large", "high")}


async def test_what_a_reader_does_not_see_is_medium(check):
    checked = await check(
        {
            "acme/zero.py": "x = 'a\u200bb'\n",
            "acme/escape.py": "x = '\x1b[2K'\n",
            "acme/far.py": "x = 1;" + " " * 300 + "y = 2\n",
            "acme/return.py": b"x = 1 # \ry = 2\n",
        }
    )
    assert ("invisible-character", "medium") in rules(checked, "acme/zero.py")
    assert ("invisible-character", "medium") in rules(checked, "acme/escape.py")
    assert ("off-screen", "medium") in rules(checked, "acme/far.py")
    assert ("lone-carriage-return", "medium") in rules(checked, "acme/return.py")


async def test_code_in_files_and_folders_that_others_leave_out_is_looked_at(check):
    code = "import marshal\nmarshal.loads(x)\n"
    checked = await check(
        {".tox/a.py": code, "acme/.git/a.py": code, "acme/notes.txt": code, "acme/tests/a.py": code, "acme/a.pyw": code}
    )
    for path in (".tox/a.py", "acme/.git/a.py", "acme/notes.txt", "acme/tests/a.py", "acme/a.pyw"):
        assert ("marshalled-code", "high") in rules(checked, path), path
    assert ("hidden-source", "medium") in rules(checked, "acme/notes.txt")


async def test_data_files_are_no_source(check):
    files = {
        "acme/plugin.toml": '[plugin]\nid = "acme-demo"\n',
        "acme/data.json": '{"import": "x"}',
        "acme/README.md": "# Demo\n\nimport it, and exec it.\n",
        "acme/types.pyi": "import os\ndef f() -> None: ...\n",
        "acme/logo.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        "acme/latin.txt": b"import\xe9",
    }
    assert not rules(await check(files))


async def test_bytecode_is_high_whatever_it_is_called(check, tmp_path):
    source = tmp_path / "x.py"
    source.write_text("x = 1")
    bytecode = (tmp_path / py_compile.compile(str(source), str(tmp_path / "x.pyc"))).read_bytes()
    checked = await check({"acme/a.pyc": b"", "acme/data.bin": bytecode})
    assert rules(checked, "acme/a.pyc") == rules(checked, "acme/data.bin") == {("bytecode", "high")}


async def test_compiled_code_and_archives_say_that_nobody_looked_into_them(check, tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("evil.py", "import marshal")
    checked = await check(
        {
            "acme/fast.so": b"\x7fELF" + b"\0" * 60,
            "acme/tool": b"\x7fELF" + b"\0" * 60,
            "acme/lib.dat": (tmp_path / "z.zip").read_bytes(),
        }
    )
    assert rules(checked, "acme/fast.so") == rules(checked, "acme/tool") == {("compiled-code", "medium")}
    assert rules(checked, "acme/lib.dat") == {("archive", "medium")}


async def test_what_is_no_plain_file_is_not_opened(check, tree):
    folder = tree({"acme/__init__.py": ""})
    os.mkfifo(folder / "acme" / "pipe.py")
    (folder / "acme" / "link.py").symlink_to("/etc/passwd")
    (folder / "acme" / "folder").symlink_to("/etc")
    checked = await check({})
    assert {one.path for one in checked.findings} == {"acme/pipe.py", "acme/link.py", "acme/folder"}
    assert rules(checked) == {("not-a-file", "high")}


async def test_a_dependency_is_held_only_to_what_hides_code_from_everybody(tree, manifest):
    own = tree({"acme/__init__.py": ""})
    files = {
        "lib/a.py": "import marshal\nmarshal.loads(x)",
        "lib/template.py": "def {{ name }}",
        "lib/bidi.py": "# \u202e",
        "lib/odd.py": b"# coding: utf-7\n",
    }
    checked = await check_source(SourceTree(own), [SourceTree(tree(files, "lib"), "lib-1.0")], manifest=manifest())
    assert rules(checked) == {("bidi-control", "high"), ("source-encoding", "high")}
    assert {one.path for one in checked.findings} == {"lib-1.0/lib/bidi.py", "lib-1.0/lib/odd.py"}


async def test_the_manifest_decides_what_may_be_imported(check):
    files = {"acme/__init__.py": "import socket"}
    assert rules(await check(files)) == {("undeclared-network", "low")}
    assert rules(await check(files, runtime='isolation = "inline"')) == {("undeclared-network", "medium")}
    assert not rules(await check(files, permissions='network = ["example.com:443"]'))


async def test_many_small_findings_do_not_wash_out_a_great_one(check):
    checked = await check(
        {"acme/a.py": "import os\n" + "os.system('x')\n" * 3000, "acme/z.py": "import marshal\nmarshal.loads(x)"}
    )
    assert ("marshalled-code", "high") in rules(checked)
    assert len(checked.findings) <= 3 * source_child.MAX_KEPT
    assert checked.left_out[Severity.MEDIUM] > 3000


async def test_names_that_are_no_text_are_shown_escaped(check, tree):
    folder = tree({"acme/__init__.py": "import importlib\nimportlib.import_module('\\ud800')\n"})
    with open(os.fsencode(folder) + b"/acme/\xff.py", "wb") as file:
        file.write(b"import ctypes\n")
    checked = await check({})
    assert rules(checked, "acme/__init__.py") == {("named-import", "low")}
    assert rules(checked, "acme/\\xff.py") == {("native-code", "medium")}


async def test_a_file_whose_tree_needs_more_memory_than_there_is_could_not_be_analysed(check):
    limits = ChildLimits(memory_bytes=120 * 2**20, file_bytes=0)
    checked = await check(
        {"acme/a.py": b"x = [" + b"1," * 500_000 + b"]\n", "acme/b.py": "import ctypes"}, limits=limits
    )
    assert rules(checked, "acme/a.py") == {("source-too-complex", "high")}
    assert rules(checked, "acme/b.py") == {("native-code", "medium")}


async def test_an_analysis_that_says_too_much_could_not_be_analysed(check):
    limits = ChildLimits(file_bytes=0, output_bytes=100)
    checked = await check({"acme/a.py": "import marshal\nmarshal.loads(x)\n" * 50}, limits=limits)
    assert rules(checked) == {("not-analysed", "high")}


async def test_an_analysis_that_burns_time_could_not_be_analysed_and_names_the_file(check):
    limits = ChildLimits(cpu_seconds=1, memory_bytes=2**30, file_bytes=0)
    slow = b"x = [" + b"a.b(c)," * 149_000 + b"]\n"
    checked = await check({f"acme/{number}.py": slow for number in range(8)}, limits=limits)
    assert rules(checked) == {("not-analysed", "high")}
    assert checked.check.state is CheckState.NOT_DONE
    assert "acme/" in checked.check.reason


async def test_the_analysis_sees_no_installed_package_and_nothing_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSBAR_SECRET", "x")

    async def does(statement):
        once = ("timeit", "-n", "1", "-r", "1", "-s", statement, "pass")
        return await run(*once, folder=tmp_path, limits=ChildLimits(), site=False)

    environment = await does("import os; print(sorted(os.environ))")
    assert b"'HOME', 'LANG', 'TMPDIR'" in environment.out
    assert b"BUSBAR_SECRET" not in environment.out
    assert (await does("import json")).status == 0
    assert b"No module named 'msgspec'" in (await does("import msgspec")).err


def test_the_child_needs_the_standard_library_alone(tmp_path):
    import subprocess

    code = (
        "import sys; sys.path.append(sys.argv[1]); import json;"
        "import host.supply.scan.source_child, host.supply.scan.confined;"
        "print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names))))"
    )
    root = str(source_child.Path(source_child.__file__).parents[3])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, check=True)
    assert json.loads(done.stdout) == ["__main__", "host"]
