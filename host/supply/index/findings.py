"""What a look at the indexes found: plugins that they have, and how the installed ones stand."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something was not found out; `code` and `message` are those of the error."""

    index: str | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that an index has. `version` is what would be installed here now; None where nothing fits."""

    plugin: str
    index: str
    version: str | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, the best first; `more` where there is more than is shown; `problems` of single indexes."""

    found: tuple[Found, ...]
    more: bool
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin that is installed; `index` is the one that it is bound to, if it came from one."""

    plugin: str
    version: str
    index: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an installed plugin stands to what its index has now.

    `latest` is the newest version that fits this host; `yanked` is why the index has taken the installed version back
    (which may be empty), `quarantined` whether it has the whole plugin in quarantine.
    """

    plugin: str
    version: str
    index: str | None
    latest: str | None = None
    yanked: str | None = None
    quarantined: bool = False
    problem: Problem | None = None

    @property
    def outdated(self) -> bool:
        """Whether there is a newer version than the installed one."""
        return self.latest is not None and Version(self.latest) > Version(self.version)
