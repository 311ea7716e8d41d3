"""What `busbar plugin new` writes, and what it never writes over."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.cli import new_project
from host.cli.new_project import ProjectRefusedError, check_name, write_project
from host.dev_host import Source
from plugin_sdk.manifest import PLUGIN_ID, Manifest

WORD = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    "name",
    [
        *("", "-", "a-", "-a", "a--b", "A", "a_b", "a.b", "1a", "ä", "a b", "a/b", "../a", "a" * 65),  # no plugin ids
        *("json", "import", "class", "host", "plugin-sdk", "pydantic", "tests", "dist", "build"),  # no packages
    ],
)
def test_a_name_that_cannot_be_a_plugins_is_refused(name, tmp_path):
    with pytest.raises(ProjectRefusedError) as refused:
        write_project(tmp_path / "project", name, "Title")
    assert refused.value.word == "plugin_name_invalid"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("title", ["", "x" * 201, "line\nline", "\x1b[31mred", "\x7f"])
def test_a_title_that_cannot_be_shown_is_refused(title):
    with pytest.raises(ProjectRefusedError, match="title"):
        check_name("demo", title)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=4).map("-".join), st.text(min_size=1, max_size=200))
def test_whatever_the_name_and_title_the_project_says_them_back(tmp_path_factory, name, title):
    assert PLUGIN_ID.fullmatch(name)
    folder = tmp_path_factory.mktemp("new") / "project"
    try:
        check_name(name, title)
    except ProjectRefusedError:
        return
    files = write_project(folder, name, title)
    source = Source.read(folder)
    assert (source.manifest.plugin.id, source.manifest.plugin.title) == (name, title)
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == name
    for path in files:
        text = (folder / path).read_text()
        assert "$" not in text.replace(title, "")
        if path.endswith(".py"):
            compile(text, path, "exec")


@pytest.mark.parametrize("name", ["plugin", "config", "event", "dead-letter", "base-model"])
def test_a_plugin_named_as_something_that_its_module_imports_works(name, tmp_path):
    write_project(tmp_path / name, name, name)
    source = Source.read(tmp_path / name)
    module, _, entry = source.entry_point.partition(":")
    names = {}
    exec((source.folder / module / "__init__.py").read_text(), names)  # noqa: S102 - what was just written
    assert source.manifest.check(names[entry]().describe()) == ()


def test_an_empty_folder_becomes_the_project(tmp_path):
    (tmp_path / "demo").mkdir()
    files = write_project(tmp_path / "demo", "demo", "Demo")
    found = {str(path.relative_to(tmp_path / "demo")) for path in (tmp_path / "demo").rglob("*") if path.is_file()}
    assert found == set(files)
    assert Manifest.parse((tmp_path / "demo" / "demo" / "plugin.toml").read_bytes()).plugin.title == "Demo"
    assert "*.key" in (tmp_path / "demo" / ".gitignore").read_text().split()


def _file(path):
    path.write_text("mine")


def _full(path):
    path.mkdir()
    (path / ".hidden").write_text("mine")


def _link(path):
    path.symlink_to(path.parent)


def _dangling(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("occupy", [_file, _full, _link, _dangling])
def test_what_is_there_is_never_touched(occupy, tmp_path):
    folder = tmp_path / "demo"
    occupy(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ProjectRefusedError) as refused:
        write_project(folder, "demo", "Demo")
    assert refused.value.word == "folder_not_empty"
    assert sorted(tmp_path.rglob("*")) == before


def test_who_stands_in_the_empty_folder_is_not_left_in_one_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectRefusedError) as refused:
        write_project(Path(), "demo", "Demo")
    assert refused.value.word == "folder_in_use"


def test_a_folder_that_fills_meanwhile_is_kept(tmp_path, monkeypatch):
    folder, write = tmp_path / "demo", new_project._write

    def slowly(path, content):
        write(path, content)
        if not folder.exists():
            _full(folder)

    monkeypatch.setattr(new_project, "_write", slowly)
    with pytest.raises(ProjectRefusedError) as refused:
        write_project(folder, "demo", "Demo")
    assert refused.value.word == "folder_not_empty"
    assert [path.name for path in tmp_path.rglob("*")] == ["demo", ".hidden"]


def test_a_failure_in_the_midst_leaves_nothing(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_project(tmp_path / "demo", "demo", "Demo")
    assert list(tmp_path.iterdir()) == []
