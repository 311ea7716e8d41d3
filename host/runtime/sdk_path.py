"""The folder that workers import the SDK from: exactly `plugin_sdk` and what it needs, and nothing else.

A worker that had the host's own site-packages on its path could import the host, or a library that the
author never declared. So the closure of the SDK's requirements is linked into a folder of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from host.runtime.errors import ForkServerError
from host.storage.beneath import Folder
from host.storage.state_folder import SDK
from host.supply.dependencies.wheel import Distribution
from host.supply.wheel.contents import applies

NEEDS: Final = ("pluggy", "pydantic", "msgspec", "packaging", "aiohttp")
"""Distributions that `plugin_sdk` imports; a plugin may use them too."""
OWN: Final = "busbar-host"
"""The distribution that `plugin_sdk` itself is in."""
_FRESH: Final = f"{SDK}.new"


def build_sdk_path(state: Path) -> Path:
    """Make the folder anew below `state`; answers its path.

    Raises:
        ForkServerError: a distribution that the SDK needs is not installed.
    """
    state.mkdir(parents=True, exist_ok=True)
    with Folder.at(state) as folder:
        folder.remove(_FRESH)
        with folder.below(_FRESH, make=0o755) as fresh:
            for name, target in {**_sdk(), **_closure(NEEDS)}.items():
                os.symlink(target, name, dir_fd=fresh.descriptor)
        folder.remove(SDK)
        folder.move(_FRESH, folder, SDK)
    return state / SDK


def _sdk() -> dict[str, Path]:
    spec = importlib.util.find_spec("plugin_sdk")
    if spec is None or spec.origin is None:
        raise ForkServerError("plugin_sdk cannot be found: is Busbar installed whole?")
    return {"plugin_sdk": Path(spec.origin).parent}


def provided() -> dict[str, str]:
    """The distributions that every worker has, by normalised name, with their versions."""
    return {name: importlib.metadata.version(name) for name in _distributions(NEEDS)}


def distributions() -> tuple[Distribution, ...]:
    """The same with what each asks for and brings, and the SDK itself with the ranges that it needs of them.

    Raises:
        ForkServerError: a distribution that the SDK needs is not installed.
    """
    needs = tuple(one for one in _requires(OWN) if canonicalize_name(one.name) in NEEDS)
    sdk = Distribution(OWN, importlib.metadata.version(OWN), needs, frozenset())
    return (
        sdk,
        *(
            Distribution(
                name,
                version,
                tuple(_requires(name)),
                frozenset(top.partition(".")[0] for top in _modules(name)),
            )
            for name, version in provided().items()
        ),
    )


def _requires(name: str) -> list[Requirement]:
    """All that a distribution may ask for, under all markers and extras."""
    try:
        found = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise ForkServerError(f"{name} is not installed: run the set-up again") from None
    return [Requirement(one) for one in found]


def _distributions(roots: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    waiting = list(roots)
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        requires = _requires(name)
        found.append(name)
        waiting.extend(canonicalize_name(one.name) for one in requires if applies(one))
    return found


def _closure(roots: tuple[str, ...]) -> dict[str, Path]:
    """The top-level modules of the distributions, by the name of their file or folder."""
    found: dict[str, Path] = {}
    for name in _distributions(roots):
        found.update(_modules(name))
    return found


def _modules(name: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in importlib.metadata.files(name) or []:
        top = file.parts[0]
        if top.endswith((".dist-info", ".pth")) or top in {"..", "__pycache__", "bin"}:
            continue
        found[top] = (
            Path(str(file.locate())).parents[len(file.parts) - 2] if len(file.parts) > 1 else Path(str(file.locate()))
        )
    return found
