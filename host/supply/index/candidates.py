"""Which file of a project is taken: the newest version that is asked for, that this host can run, and that stands.

Pure: the same page and the same host always give the same file, in whatever order the page has them.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, sys_tags
from packaging.utils import BuildTag, InvalidWheelFilename, canonicalize_name
from packaging.version import Version

from host.supply.errors import ReleaseRefusedError
from host.supply.index.errors import ReleaseNotFoundError
from host.supply.index.project_page import ACTIVE, QUARANTINED, Project, ProjectFile
from host.supply.index.requirements import pinned
from host.supply.wheel.filename import parse_filename

MAX_REQUIRES_PYTHON: Final = 500
"""Characters of what an index says a wheel runs on; it is remembered. Whoever says more runs nowhere."""


@dataclass(frozen=True)
class Machine:
    """What wheels are for here: the version of Python, and the tags, the best first."""

    python: Version
    tags: tuple[Tag, ...]

    @classmethod
    def here(cls) -> Machine:
        """This interpreter."""
        return cls(Version(platform.python_version()), tuple(sys_tags()))

    @cached_property
    def _ranks(self) -> dict[Tag, int]:
        return {tag: -rank for rank, tag in reversed(list(enumerate(self.tags)))}

    def rank(self, tags: frozenset[Tag]) -> int | None:
        """How well a wheel of these tags fits, the higher the better; None where it does not."""
        return max((self._ranks[tag] for tag in tags if tag in self._ranks), default=None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """The file of an index that is taken for a plugin.

    `newest` is the newest version that the index has, pre-releases aside, to be handed to `find` the next time; None
    where it has none. `warnings` are sentences for who asked.
    """

    plugin: str
    version: str
    file: ProjectFile
    index: str
    newest: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file that is a wheel of the project."""

    version: Version
    build: BuildTag
    tags: frozenset[Tag]
    file: ProjectFile


def wheels_of(project: Project) -> tuple[Wheel, ...]:
    """The files that are wheels of this project; source archives, and names that are none, are left out."""
    found = []
    for file in project.files:
        try:
            name, version, build, tags = parse_filename(file.filename)
        except InvalidWheelFilename:
            continue
        if canonicalize_name(name) == project.name:
            found.append(Wheel(version, build, tags, file))
    return tuple(found)


def choose(
    requirement: Requirement, project: Project, machine: Machine, index: str, *, newest: str | None = None
) -> Candidate:
    """The best file of the project for the requirement. `newest` is the newest version it was ever seen to have.

    Yanked files are taken only where the requirement names their very version, and nothing else has it; pre-releases
    only where it names one, or there is nothing else (PEP 440 and 592).

    Raises:
        ReleaseNotFoundError: nothing fits; the errors say what there is and why not.
        ReleaseRefusedError: the project is in quarantine, or the index has gone back to an older state.
    """
    if project.status == QUARANTINED:
        why = f": {project.reason}" if project.reason else ""
        raise ReleaseRefusedError(
            "quarantined_by_index", f"index {index} has put {project.name} into quarantine{why}; do not install it"
        )
    wheels = wheels_of(project)
    _check_fresh(project, wheels, newest, index)
    runs = [wheel for wheel in wheels if _runs(wheel, machine)]
    standing = _of_versions(requirement.specifier, [wheel for wheel in runs if wheel.file.yanked is None])
    if not standing and pinned(requirement.specifier):
        standing = _of_versions(requirement.specifier, runs)
    if not standing:
        raise _nothing(requirement, project, wheels, runs, index)
    best = max(standing, key=lambda wheel: _preference(wheel, machine))
    finals = [wheel.version for wheel in wheels if not wheel.version.is_prerelease]
    return Candidate(
        plugin=project.name,
        version=str(best.version),
        file=best.file,
        index=index,
        newest=str(max(finals)) if finals else None,
        warnings=_warnings(best, project, index),
    )


def _runs(wheel: Wheel, machine: Machine) -> bool:
    if machine.rank(wheel.tags) is None:
        return False
    requires = wheel.file.requires_python
    return requires is None or (len(requires) <= MAX_REQUIRES_PYTHON and _takes(requires, machine.python))


@lru_cache(maxsize=256)
def _takes(requires_python: str, python: Version) -> bool:
    try:
        return SpecifierSet(requires_python).contains(python, prereleases=True)
    except InvalidSpecifier:  # who cannot say what it runs on runs nowhere
        return False


def _of_versions(versions: SpecifierSet, wheels: Sequence[Wheel]) -> list[Wheel]:
    wanted = set(versions.filter({wheel.version for wheel in wheels}))
    return [wheel for wheel in wheels if wheel.version in wanted]


def _preference(wheel: Wheel, machine: Machine) -> tuple[Version, int, BuildTag, str, str]:
    # The last two decide nothing that matters; they make the choice one that does not hang on the page's order.
    return wheel.version, machine.rank(wheel.tags) or 0, wheel.build, wheel.file.filename, str(wheel.file.url)


def _check_fresh(project: Project, wheels: Sequence[Wheel], newest: str | None, index: str) -> None:
    """An index that has forgotten what it had shows an old state of itself, or someone else does in its name."""
    if newest is None or any(wheel.version >= Version(newest) for wheel in wheels):
        return
    raise ReleaseRefusedError(
        "stale_trust_data",
        f"index {index} had {project.name} {newest} and has nothing as new any more: it shows an old state; ask who "
        "runs it",
    )


def _nothing(
    requirement: Requirement, project: Project, wheels: Sequence[Wheel], runs: Sequence[Wheel], index: str
) -> ReleaseNotFoundError:
    yanked = sum(wheel.file.yanked is not None for wheel in runs)
    counted = Counter(
        {
            f"files are no wheels of {project.name}": len(project.files) - len(wheels),
            "wheels are for another Python or platform": len(wheels) - len(runs),
            "wheels are yanked": yanked,
            "wheels are of versions that are not asked for": len(runs) - yanked,
        }
    )
    return ReleaseNotFoundError(
        f"index {index} has {project.name}, and nothing of it that fits {requirement}",
        [f"{count} {what}" for what, count in counted.items() if count],
    )


def _warnings(best: Wheel, project: Project, index: str) -> tuple[str, ...]:
    found = []
    if best.file.yanked is not None:
        why = f": {best.file.yanked}" if best.file.yanked else ""
        found.append(f"{project.name} {best.version} was yanked from index {index}{why}")
    if project.status != ACTIVE:
        why = f": {project.reason}" if project.reason else ""
        found.append(f"index {index} says that {project.name} is {project.status}{why}")
    return tuple(found)
