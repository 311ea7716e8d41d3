"""What a project depends on, as it is installed here: for running a plugin from its source, which has no release yet.

A release brings its dependencies by its lock. An author has them in the environment that tests run in.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from host.runtime.errors import StartFailedError
from host.runtime.sdk_path import provided


def copy_dependencies(project: Path, folder: Path) -> tuple[Path, ...]:
    """Copy what the `dependencies` of a project's pyproject.toml need, and workers lack, into `folder`.

    Copied, because a worker's sandbox reads the folders that it is given and not what they link to. Answers the
    folders for `Launch.dependencies`: none where nothing is needed.

    Raises:
        StartFailedError: something is not installed here, or is no requirement; the sentence names it.
    """
    try:
        about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = [Requirement(text) for text in about.get("dependencies", ())]
    except (ValueError, KeyError, TypeError, AttributeError, InvalidRequirement) as error:
        raise StartFailedError(f"the dependencies in {project / 'pyproject.toml'}: {error}", retryable=False) from None
    names = _lacking(wanted)
    for name in names:
        for file in importlib.metadata.files(name) or ():
            if file.parts[0] != ".." and "__pycache__" not in file.parts and file.suffix != ".pth":
                target = folder.joinpath(*file.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    return (folder,) if names else ()


def _lacking(wanted: Iterable[Requirement]) -> tuple[str, ...]:
    """The distributions that are needed, directly or not, and that workers do not have."""
    have = provided()
    found: dict[tuple[str, frozenset[str]], None] = {}
    waiting = [one for one in wanted if _applies(one, ())]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        asked = (name, frozenset(requirement.extras))
        if name in have or asked in found:
            continue
        found[asked] = None
        try:
            needs = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
        except importlib.metadata.PackageNotFoundError:
            raise StartFailedError(
                f"the project needs {requirement}, which is not installed here: pip install '{requirement}'",
                retryable=False,
            ) from None
        waiting += [one for one in needs if _applies(one, requirement.extras)]
    return tuple(dict.fromkeys(name for name, _ in found))


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
