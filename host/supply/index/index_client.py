"""The indexes of a host: which one answers for a plugin, what it has, and fetching it.

No confusion: of the indexes that may give a plugin, the first that has it answers, and no later one is asked, whatever
comes of it. An index that is down may have it, so it ends the search too. A plugin that is installed from an index is
bound to it: it alone is asked from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
from packaging.requirements import Requirement
from packaging.version import Version

from host.resolver import Resolver
from host.supply.errors import ReleaseRefusedError, SupplyError
from host.supply.index.candidates import Candidate, Machine, choose, wheels_of
from host.supply.index.errors import (
    IndexNotConfiguredError,
    ReleaseNotFoundError,
    ReleaseTimeoutError,
)
from host.supply.index.findings import Found, Installed, Problem, SearchResult, Standing
from host.supply.index.index_source import IndexSource, asked_for
from host.supply.index.project_page import QUARANTINED, Project
from host.supply.index.remote_index import RemoteIndex
from host.supply.index.requirements import parse_requirement
from host.supply.index.transport import Transport, TransportLimits, new_session
from plugin_sdk.manifest import PLUGIN_ID

AT_ONCE: Final = 8
"""Pages that are asked for at once by a search or a look for updates."""
LOOK_SECONDS: Final = 60.0
"""What a search, or a look for updates, may take in all."""
MAX_FOUND: Final = 50

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FetchedRelease:
    """A release that was fetched, and not believed yet.

    `attestations` are empty where there are none; `metadata_sha256` is what the index says of the wheel's METADATA, to
    be held against it by `check_metadata` once the wheel is read.
    """

    filename: str
    wheel: Path
    attestations: bytes
    index: str
    url: str
    metadata_sha256: str | None
    warnings: tuple[str, ...]


class Indexes:
    """The indexes of the settings; use it as an async context manager, which holds the connections.

    Every method raises what `Transport` raises, of an index that had to be asked, besides what it says.

    Args:
        sources: The indexes, in the order of the settings.
        limits: What they may take.
        machine: What wheels have to fit; this one where none is given.
        resolver: Looks the names of their addresses up; in the machine's own name servers where none is given.
    """

    def __init__(
        self,
        sources: Sequence[IndexSource],
        *,
        limits: TransportLimits | None = None,
        machine: Machine | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self._limits = limits or TransportLimits()
        self._machine = machine or Machine.here()
        self._resolver = resolver or Resolver()
        self._session: aiohttp.ClientSession | None = None
        self._remote: dict[str, RemoteIndex] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Self:
        session = self._session = new_session(self._limits, self._resolver)
        for source in self._sources:
            self._remote[source.name] = RemoteIndex(source, Transport(session, source, self._limits))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remote.clear()
        if self._session is not None:
            await self._session.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the indexes, in the order of the settings."""
        return tuple(source.name for source in self._sources)

    async def find(
        self, requirement: Requirement, *, bound_to: str | None = None, newest: str | None = None
    ) -> Candidate:
        """The file that would be installed for a requirement, as `parse_requirement` answers it.

        Args:
            requirement: A plugin and versions.
            bound_to: The index that the plugin was installed from.
            newest: The newest version that index was ever seen to have; one that has only older ones now shows an old
                state of itself.

        Raises:
            IndexNotConfiguredError: no index may give this plugin, or the one that it is bound to is not there.
            ReleaseNotFoundError: none has it, or nothing of it fits.
            ReleaseRefusedError: `release_quarantined_by_index`, `release_stale_trust_data`.
        """
        index, project = await self._located(requirement.name, bound_to)
        return await asyncio.to_thread(choose, requirement, project, self._machine, index.source.name, newest=newest)

    async def fetch(
        self, candidate: Candidate, folder: Path, max_bytes: int, *, attested: bool = False
    ) -> FetchedRelease:
        """Fetch a release into `folder`; on any failure nothing of it is left there.

        Args:
            candidate: What `find` answered.
            folder: Where the wheel goes, under the name that it has at the index.
            max_bytes: What a wheel may have.
            attested: Whether this index ever offered attestations of this plugin: then it must again.

        Raises:
            ReleaseRefusedError: `release_signature_downgrade`; `release_digest_mismatch`, other bytes than the index
                names.
            ReleaseTooLargeError: more bytes than allowed.
        """
        index, file = self._of_name(candidate.index, candidate.plugin), candidate.file
        attestations = await index.attestations(file)
        if attested and not attestations.strip():
            raise ReleaseRefusedError(
                "signature_downgrade",
                f"index {candidate.index} had signatures of {candidate.plugin} and has none of {file.filename}: "
                "do not install it; ask its publisher",
            )
        wheel = folder / file.filename
        await index.wheel(file, wheel, max_bytes)
        return FetchedRelease(
            filename=file.filename,
            wheel=wheel,
            attestations=attestations,
            index=candidate.index,
            url=str(file.url),
            metadata_sha256=file.metadata_sha256,
            warnings=candidate.warnings,
        )

    async def search(self, text: str, *, limit: int = 20) -> SearchResult:
        """Plugins whose ids have all words of `text` in them; an index that cannot be asked is among the problems.

        Raises:
            IndexNotConfiguredError: there is no index.
        """
        if not self._sources:
            raise _none_configured()
        deadline = asyncio.get_running_loop().time() + LOOK_SECONDS
        words = text.lower().replace("_", "-").replace(".", "-").split()
        listed = await _gather(self._list(index, words, deadline) for index in self._remote.values())
        names = {source.name: found for source, (found, _) in zip(self._sources, listed, strict=True)}
        hits = await asyncio.to_thread(self._ranked, words, names)  # an index may list a million
        shown = hits[: min(limit, MAX_FOUND)]
        found = await _gather(self._found(plugin, index, deadline) for plugin, index in shown)
        problems = tuple(problem for _, problem in listed if problem is not None)
        return SearchResult(tuple(found), len(hits) > len(shown), problems)

    async def latest(self, installed: Sequence[Installed]) -> tuple[Standing, ...]:
        """How each plugin stands to what its index has now; what cannot be found out is its problem, and no error."""
        deadline = asyncio.get_running_loop().time() + LOOK_SECONDS
        return tuple(await _gather(self._standing(one, deadline) for one in installed))

    # -- inside

    async def _located(self, plugin: str, bound_to: str | None) -> tuple[RemoteIndex, Project]:
        """The index that answers for the plugin, and its page."""
        if bound_to is not None:
            index = self._of_name(bound_to, plugin)
            project = await index.project(plugin)
            if project is None:
                raise ReleaseNotFoundError(
                    f"index {bound_to} does not have {plugin} any more, and it was installed from there; no other "
                    "index is asked for it: uninstall it first to take it from elsewhere"
                )
            return index, project
        asked = asked_for(plugin, self._sources)
        if not asked:
            raise _none_configured(plugin)
        for source in asked:
            project = await self._remote[source.name].project(plugin)
            if project is not None:
                return self._remote[source.name], project
        raise ReleaseNotFoundError(f"no index has {plugin}: asked were {', '.join(source.name for source in asked)}")

    def _of_name(self, name: str, plugin: str) -> RemoteIndex:
        index = self._remote.get(name)
        if index is None:
            raise IndexNotConfiguredError(
                f"{plugin} comes from index {name}, which is not under [[supply.indexes]] in the settings any more"
            )
        if index.source.claim(plugin) is None:
            raise IndexNotConfiguredError(
                f"{plugin} comes from index {name}, which may not give it any more: see its 'plugins' in the settings"
            )
        return index

    async def _list(
        self, index: RemoteIndex, words: Sequence[str], deadline: float
    ) -> tuple[tuple[str, ...], Problem | None]:
        """The projects of an index, or why they are not known."""
        try:
            async with self._turn(deadline):
                names = await index.names()
                if names is None:  # it does not tell what it has; whoever writes a whole id is answered even so
                    known = [word for word in words if PLUGIN_ID.fullmatch(word)]
                    names = tuple([word for word in known if await index.project(word) is not None])
        except SupplyError as error:
            return (), _problem(index.source.name, error)
        return names, None

    def _ranked(self, words: Sequence[str], names: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
        """Plugins that have all the words in their ids, each with the index that it would come from; the best first."""
        owners: dict[str, str] = {}
        for source in sorted(self._sources, key=lambda source: -source.priority):
            for name in names[source.name]:
                fits = all(word in name for word in words) and name not in owners and PLUGIN_ID.fullmatch(name)
                if fits and source in asked_for(name, self._sources):
                    owners[name] = source.name
        start = tuple(words)
        return sorted(owners.items(), key=lambda hit: (hit[0] not in words, not hit[0].startswith(start), hit[0]))

    async def _found(self, plugin: str, index: str, deadline: float) -> Found:
        version = None
        with contextlib.suppress(SupplyError):
            async with self._turn(deadline):
                version = (await self.find(parse_requirement(plugin), bound_to=index)).version
        return Found(plugin, index, version)

    async def _standing(self, one: Installed, deadline: float) -> Standing:
        standing = Standing(one.plugin, one.version, one.index)
        try:
            async with self._turn(deadline):
                index, project = await self._located(one.plugin, one.index)
            return await asyncio.to_thread(self._held_against, one, project, index.source.name)
        except SupplyError as error:
            return replace(standing, problem=_problem(one.index, error))

    def _held_against(self, one: Installed, project: Project, index: str) -> Standing:
        files = [wheel.file for wheel in wheels_of(project) if wheel.version == Version(one.version)]
        reasons = [file.yanked for file in files if file.yanked is not None]
        standing = Standing(
            one.plugin,
            one.version,
            index,
            yanked=reasons[0] if files and len(reasons) == len(files) else None,
            quarantined=project.status == QUARANTINED,
        )
        try:
            best = choose(Requirement(one.plugin), project, self._machine, index)
        except SupplyError as error:
            return replace(standing, problem=_problem(index, error))
        return replace(standing, latest=best.version)

    @contextlib.asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(deadline), self._turns:
                yield
        except TimeoutError:
            raise ReleaseTimeoutError(
                "the indexes took too long to be asked about everything: ask about less"
            ) from None


async def _gather(asked: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in asked]
    return [task.result() for task in tasks]


def _problem(index: str | None, error: SupplyError) -> Problem:
    return Problem(index, error.word, error.message)


def _none_configured(plugin: str | None = None) -> IndexNotConfiguredError:
    what = "there is no index" if plugin is None else f"no index may give {plugin}"
    return IndexNotConfiguredError(f"{what}: add one under [[supply.indexes]] in the settings")
