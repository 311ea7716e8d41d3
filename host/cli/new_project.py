"""What `busbar plugin new` writes: a small plugin that works and is tested, to be changed into the author's own.

The files stand here as they will stand there, with `$id`, `$module`, `$entry` and `$title` where the names go.
"""

from __future__ import annotations

import errno
import json
import keyword
import os
import shutil
import sys
from pathlib import Path
from string import Template
from typing import Final

from pydantic import ValidationError

from host.errors import BusbarError, ErrorKind
from host.runtime.sdk_path import provided
from host.supply.wheel.reader import OWN
from plugin_sdk.manifest import PluginPart

_PROJECT: Final = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$id"
version = "0.1.0"
description = "Greets who comes, and counts them."
readme = "README.md"
requires-python = ">=3.11"

[project.entry-points."busbar.plugins"]
$id = "$module:$entry"

[dependency-groups]
dev = ["pytest>=8"]

[tool.pytest.ini_options]
addopts = "-p plugin_sdk.testing" # runs tests that are coroutines
pythonpath = ["."]
testpaths = ["tests"]
"""
_MANIFEST: Final = """\
# What the plugin may do. Code that does more is refused: 'busbar plugin test' tells you before a host does.

[plugin]
id = "$id"
title = $title
api = 1

[permissions]
subscribe = ["$id.came"]
publish = ["$id.greeted"]

[runtime]
memory = "128MiB"
concurrency = 8
timeout = "10s"
"""
_MODULE: Final = '''\
"""Greets who comes, and counts them."""

from datetime import timedelta

from pydantic import BaseModel, Field

from plugin_sdk import Context, DeadLetter, Event, Plugin, every, on_event, service


class Config(BaseModel):
    """What an administrator may set."""

    greeting: str = Field("Hello", min_length=1)


class $entry(Plugin):
    """Answers each `$id.came` with a `$id.greeted`."""

    Config = Config

    @on_event("$id.came")
    async def greet(self, event: Event, context: Context) -> None:
        """Greet the event's subject. Delivered again, it is the same greeting: the id is made from the delivery's."""
        if not event.subject:
            raise DeadLetter("there is nobody to greet: the event has no subject")
        await context.kv.set(f"greeted/{event.subject}", True)
        text = f"{context.config.greeting}, {event.subject}!"
        await context.emit(
            "$id.greeted",
            subject=event.subject,
            data={"text": text},
            id=f"greeted/{context.delivery.id}",
        )

    @every(timedelta(hours=1))
    async def report(self, context: Context) -> None:
        """Log how it goes."""
        context.log.info("greeted %d so far", await self.count(context))

    @service
    async def count(self, context: Context) -> int:
        """How many were greeted."""
        return len(await context.kv.keys("greeted/"))
'''
_TEST: Final = """\
from $module import $entry

from plugin_sdk.testing import PluginHarness


async def test_who_comes_is_greeted_and_counted_once():
    async with PluginHarness($entry, config={"greeting": "Welcome"}) as plugin:
        for _ in range(2):
            assert (await plugin.deliver("$id.came", subject="Ada")).outcome == "delivered"
        assert plugin.emitted[0].data == {"text": "Welcome, Ada!"}
        assert await plugin.call("count") == 1


async def test_an_event_without_a_subject_is_kept_for_a_person():
    async with PluginHarness($entry) as plugin:
        assert (await plugin.deliver("$id.came")).outcome == "dead-lettered"
        assert plugin.emitted == []


async def test_the_report_is_made():
    async with PluginHarness($entry) as plugin:
        assert (await plugin.fire("report")).outcome == "delivered"
"""
_README: Final = """\
# $id

A plugin for Busbar: it answers each event `$id.came` with an event `$id.greeted`, and counts who came.

| setting | default | what it does |
|---|---|---|
| `greeting` | `Hello` | the word that stands before the name |

## Work on it

    busbar plugin dev .      # runs it, and again whenever a file is saved; type events as JSON
    busbar plugin test .     # its tests, and what the code does against plugin.toml

## Release it

    busbar key new ~/$id.key
    busbar plugin build .
    busbar plugin sign dist/$wheel --key ~/$id.key --publisher YOU
    busbar plugin verify dist/$wheel --key PUBLIC-KEY --publisher YOU

The key stays with you; hosts need what `busbar key show` prints. Installed with
`busbar plugin install dist/$wheel --enable`.
"""
_IGNORED: Final = """\
# Signing keys are never committed.
*.key
*.pem

.venv/
.pytest_cache/
__pycache__/
build/
dist/
"""

_SHADOWED: Final = frozenset({"BaseModel", "Config", "Context", "DeadLetter", "Event", "Field", "Plugin"})
"""Names that the module has already: a plugin of such an id gets another class name."""
_FOLDERS: Final = frozenset({"build", "dist", "tests"})
"""Folders of the project that its import package would collide with."""


class ProjectRefusedError(BusbarError):
    """A project of that name, or at that place, cannot be made."""

    code = "project_refused"
    kind = ErrorKind.INVALID


def check_name(plugin: str, title: str) -> None:
    """Refuse what cannot be the id or the title of a plugin, or would not be read as one by a host.

    Raises:
        ProjectRefusedError: `plugin_name_invalid`, with what is wrong.
    """
    try:
        PluginPart(id=plugin, title=title)
    except ValidationError as error:
        said = (f"{one['loc'][0]}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
        raise ProjectRefusedError("; ".join(said), code="plugin_name_invalid") from None
    if not title.isprintable():
        raise ProjectRefusedError("title: it holds characters that cannot be printed", code="plugin_name_invalid")
    module = _module(plugin)
    taken = OWN | _FOLDERS | sys.stdlib_module_names | {name.replace("-", "_") for name in provided()}
    if module in taken or keyword.iskeyword(module):
        raise ProjectRefusedError(
            f"a package '{module}' would stand in the way of another one, or cannot be imported: choose another id",
            code="plugin_name_invalid",
        )


def write_project(folder: Path, plugin: str, title: str) -> tuple[str, ...]:
    """Write a new project as `folder`; the paths of its files, in reading order.

    It is written beside and renamed: after a crash there is the whole project or none.

    Raises:
        ProjectRefusedError: the name cannot be a plugin's; or `folder_not_empty`: something is there, and is kept.
        OSError: the folder cannot be written.
    """
    check_name(plugin, title)
    files = _files(plugin, title)
    folder = folder.absolute()
    if os.path.lexists(folder):
        if not folder.is_dir() or folder.is_symlink() or any(folder.iterdir()):
            raise _occupied(folder)
        if folder.samefile(Path.cwd()):
            raise ProjectRefusedError(f"{folder} is where you are: name a folder to be made", code="folder_in_use")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for name, content in files.items():
            _write(beside / name, content)
        beside.rename(folder)  # it takes the place of an empty folder, and of nothing else
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR} and os.path.lexists(folder):
            raise _occupied(folder) from None  # somebody was faster
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return tuple(files)


def _occupied(folder: Path) -> ProjectRefusedError:
    return ProjectRefusedError(
        f"{folder} is there, and no empty folder: nothing is ever overwritten, so name another one",
        code="folder_not_empty",
    )


def _files(plugin: str, title: str) -> dict[str, str]:
    module = _module(plugin)
    entry = "".join(word.capitalize() for word in plugin.split("-"))
    names = {
        "id": plugin,
        "module": module,
        "entry": entry + "Plugin" if entry in _SHADOWED else entry,
        "title": json.dumps(title, ensure_ascii=False),  # a JSON string is a TOML string
        "wheel": f"{module}-0.1.0-py3-none-any.whl",
    }
    templates = {
        "pyproject.toml": _PROJECT,
        f"{module}/plugin.toml": _MANIFEST,
        f"{module}/__init__.py": _MODULE,
        f"tests/test_{module}.py": _TEST,
        "README.md": _README,
        ".gitignore": _IGNORED,
    }
    return {path: Template(text).substitute(names) for path, text in templates.items()}


def _module(plugin: str) -> str:
    """The import package of a plugin's id: what build backends find by themselves."""
    return plugin.replace("-", "_")


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
