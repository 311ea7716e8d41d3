"""Reading the wheel of a dependency: as strictly as a plugin's own, except for what only a plugin must have.

It needs no manifest and no entry point. Scripts, headers and data files in its .data folder are what an installer
would put outside of the import path: they are left out, and so are the scripts that its entry points name. Compiled
modules are taken where the wheel says that it is for this machine.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from packaging.requirements import Requirement

from host.supply.dependencies.lock import LockedWheel
from host.supply.errors import WheelRefusedError
from host.supply.wheel.contents import WheelContents, importable, read_contents

OUTSIDE: Final = frozenset({"scripts", "headers", "data"})
"""Kinds of files in a .data folder that are left out. `purelib` and `platlib` would be one more way into the path."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a distribution asks for and brings.

    Attributes:
        name: Normalised.
        version: As its wheel's name has it.
        requires: What it depends on, under all markers and extras.
        modules: What it lets a program import (`wheel_contents.importable`).
    """

    name: str
    version: str
    requires: tuple[Requirement, ...]
    modules: frozenset[str]


@dataclass(frozen=True, slots=True)
class DependencyWheel:
    """A dependency's wheel that broke no rule.

    Attributes:
        distribution: What is in it.
        filename: Its file name.
        files: What is installed, by path, RECORD among them.
        left_out: Paths in RECORD that are not installed.
        record_name: Where RECORD is.
    """

    distribution: Distribution
    filename: str
    files: dict[str, bytes]
    left_out: frozenset[str]
    record_name: str


def read_dependency(wheel: bytes, locked: LockedWheel) -> DependencyWheel:
    """Read the wheel of a dependency whose bytes have the hashes that the lock demands.

    Raises:
        WheelRefusedError: it breaks a rule; the sentence names the wheel.
    """
    try:
        contents = read_contents(wheel, locked.filename, data=OUTSIDE, whole_metadata=False)
        _check_compiled(contents)
        modules = _modules(contents)
    except WheelRefusedError as refused:
        raise WheelRefusedError(refused.reason, f"the dependency {locked.filename}: {refused.message}") from None
    left_out = frozenset(path for path in contents.files if path.partition("/")[0].endswith(".data"))
    return DependencyWheel(
        distribution=Distribution(locked.name, locked.version, contents.requires, modules),
        filename=locked.filename,
        files={path: content for path, content in contents.files.items() if path not in left_out},
        left_out=left_out,
        record_name=contents.record_name,
    )


def _check_compiled(contents: WheelContents) -> None:
    if any(tag.platform != "any" for tag in contents.tags):
        return
    for path in contents.files:
        if path.endswith(".so") or ".so." in path.rpartition("/")[2]:
            raise WheelRefusedError("platform_tag", f"{path} is compiled, but the wheel is for any machine")


def _modules(contents: WheelContents) -> frozenset[str]:
    modules = importable(contents.files)
    for module in sorted(modules):
        if module.partition(".")[0] in sys.stdlib_module_names:
            raise WheelRefusedError("shadows_stdlib", f"its {module} would stand before Python's own")
    return modules
