"""bandit itself, and everything that a plugin could say to it."""

import pytest

from host.supply.scan import bandit_checks
from host.supply.scan.bandit_checks import check_with_bandit
from host.supply.scan.child import ChildLimits
from host.supply.scan.distributions import SourceTree
from host.supply.scan.report import CheckState, Severity, Source

SHELL = "import subprocess\nsubprocess.call(x, shell=True)\n"


@pytest.fixture
def check(tree):
    async def check(files, **options):
        return await check_with_bandit([SourceTree(tree(files))], **options)

    return check


def found(checked, path=None):
    return {(one.rule, str(one.severity), one.line) for one in checked.findings if path in {None, one.path}}


async def test_findings_have_bandits_rule_severity_and_line(check):
    checked = await check({"acme/__init__.py": "", "acme/a.py": SHELL})
    assert ("B602", "high", 2) in found(checked, "acme/a.py")
    assert ("B404", "low", 1) in found(checked, "acme/a.py")
    assert {one.source for one in checked.findings} == {Source.BANDIT}
    assert checked.check.state is CheckState.DONE
    assert checked.check.looked_at == 2
    assert checked.check.tool.startswith("bandit 1.")


async def test_clean_code_has_no_finding(check):
    checked = await check({"acme/__init__.py": "x = 1\n"})
    assert not checked.findings
    assert checked.check.state is CheckState.DONE


async def test_a_rule_file_inside_the_plugin_decides_nothing(check):
    ini = "[bandit]\nskips: B602,B404\nexclude: /\ntests: B101\n"
    toml = '[tool.bandit]\nskips = ["B602"]\nexclude_dirs = ["acme"]\n'
    checked = await check({".bandit": ini, "acme/.bandit": ini, "pyproject.toml": toml, "acme/a.py": SHELL})
    assert ("B602", "high", 2) in found(checked, "acme/a.py")


async def test_a_nosec_comment_hides_nothing(check):
    checked = await check({"acme/a.py": "import subprocess  # nosec\nsubprocess.call(x, shell=True)  # nosec B602\n"})
    assert {("B602", "high", 2), ("B404", "low", 1)} <= found(checked)


@pytest.mark.parametrize(
    "folder", [".tox", ".eggs", ".git", "CVS", ".svn", "__pycache__", "a.egg", "nonexistent", "venv"]
)
async def test_folders_that_bandit_leaves_out_by_itself_are_looked_at(check, folder):
    assert ("B602", "high", 2) in found(await check({f"acme/{folder}/a.py": SHELL}))


UNREADABLE = [
    ("deep nesting", b"x = " + b"(" * 5000 + b")" * 5000),
    ("rot13", b"# coding: rot13\nvzcbeg bf\n"),
    ("NUL", b"x = 1\0"),
    ("no Python", b"def (:"),
    ("a long chain", b"x = 1" + b" + 1" * 20_000),
]


@pytest.mark.parametrize("content", [case[1] for case in UNREADABLE], ids=[case[0] for case in UNREADABLE])
async def test_a_file_that_bandit_cannot_read_is_high(check, content):
    checked = await check({"acme/odd.py": content, "acme/a.py": SHELL})
    assert ("not-analysed", "high", 0) in found(checked, "acme/odd.py")
    assert ("B602", "high", 2) in found(checked, "acme/a.py")


async def test_a_file_that_bandit_did_not_look_at_is_high(check, tree, monkeypatch):
    monkeypatch.setattr(bandit_checks.secrets, "token_hex", lambda _: "acme")  # as if the plugin had guessed the word
    checked = await check({"acme/a.py": SHELL})
    assert found(checked) == {("not-analysed", "high", 0)}


async def test_each_tree_has_its_own_paths(tree):
    own, other = tree({"acme/a.py": SHELL}), tree({"lib/b.py": SHELL}, "lib")
    checked = await check_with_bandit([SourceTree(own), SourceTree(other, "lib-1.0")])
    assert {one.path for one in checked.findings} == {"acme/a.py", "lib-1.0/lib/b.py"}


@pytest.mark.parametrize(
    "limits",
    [ChildLimits(output_bytes=10), ChildLimits(memory_bytes=20 * 2**20), ChildLimits(cpu_seconds=0)],
    ids=["output", "memory", "time"],
)
async def test_a_bandit_that_comes_to_no_end_speaks_against_the_release(check, limits):
    checked = await check({"acme/a.py": SHELL}, limits=limits)
    assert checked.check.state is CheckState.NOT_DONE
    assert [one.severity for one in checked.findings] == [Severity.HIGH]
    assert "could not be analysed" in checked.findings[0].message


async def test_without_bandit_the_check_says_that_it_was_not_done(check, monkeypatch):
    monkeypatch.setattr(bandit_checks, "bandit_version", lambda: None)
    checked = await check({"acme/a.py": SHELL})
    assert not checked.findings
    assert checked.check.state is CheckState.NOT_DONE
    assert "busbar-host[scan]" in checked.check.reason
