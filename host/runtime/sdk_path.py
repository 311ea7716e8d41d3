"""The folder that workers import the SDK from: exactly `plugin_sdk` and what it needs, and nothing else.

A worker that had the host's own site-packages on its path could import the host, or a library that the
author never declared. So the closure of the SDK's requirements is linked into a folder of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from host.runtime.errors import ForkServerError

NEEDS: Final = ("pluggy", "pydantic", "msgspec", "packaging", "aiohttp")
"""Distributions that `plugin_sdk` imports; a plugin may use them too."""


def build_sdk_path(state: Path) -> Path:
    """Make the folder anew below `state`; answers its path.

    Raises:
        ForkServerError: a distribution that the SDK needs is not installed.
    """
    folder = state / "sdk"
    fresh = state / "sdk.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, target in {**_sdk(), **_closure(NEEDS)}.items():
        (fresh / name).symlink_to(target)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)
    return folder


def _sdk() -> dict[str, Path]:
    spec = importlib.util.find_spec("plugin_sdk")
    if spec is None or spec.origin is None:
        raise ForkServerError("plugin_sdk cannot be found: is Busbar installed whole?")
    return {"plugin_sdk": Path(spec.origin).parent}


def provided() -> dict[str, str]:
    """The distributions that every worker has, by normalised name, with their versions."""
    return {name: importlib.metadata.version(name) for name in _distributions(NEEDS)}


def _distributions(roots: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    waiting = list(roots)
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            raise ForkServerError(f"{name} is not installed: run the set-up again") from None
        found.append(name)
        for text in requires:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name.lower().replace("_", "-"))
    return found


def _closure(roots: tuple[str, ...]) -> dict[str, Path]:
    """The top-level modules of the distributions, by name."""
    found: dict[str, Path] = {}
    for name in _distributions(roots):
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            if top.endswith((".dist-info", ".pth")) or top in {"..", "__pycache__", "bin"}:
                continue
            found[top] = (
                Path(str(file.locate())).parents[len(file.parts) - 2]
                if len(file.parts) > 1
                else Path(str(file.locate()))
            )
    return found
