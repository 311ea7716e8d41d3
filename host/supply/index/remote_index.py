"""One index, asked: its projects, the attestations of a file, and the bytes of a wheel."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import quote

from yarl import URL

from host.supply.errors import ReleaseRefusedError, ReleaseTooLargeError
from host.supply.index.errors import IndexAnswerError, IndexDeniedError
from host.supply.index.index_source import IndexSource
from host.supply.index.project_page import Project, ProjectFile
from host.supply.index.simple_api import ACCEPT, LIST_BYTES, PAGE_BYTES, parse_names, parse_project
from host.supply.index.transport import Page, Transport, absolute

SUFFIX: Final = ".intoto.jsonl"
MAX_ATTESTATIONS: Final = 4 * 2**20


class RemoteIndex:
    """An index of the settings. Methods raise what `Transport` raises, besides what they say."""

    def __init__(self, source: IndexSource, transport: Transport) -> None:
        self.source = source
        self._transport = transport

    async def project(self, name: str) -> Project | None:
        """A project by its normalised name; None where the index says that there is none."""
        page = await self._transport.page(self.source.url / name / "", ACCEPT, PAGE_BYTES)
        return None if page is None else await asyncio.to_thread(parse_project, page, name, self.source.name)

    async def names(self) -> tuple[str, ...] | None:
        """The projects that it has, sorted; None where it does not tell."""
        page = await self._transport.page(self.source.url, ACCEPT, LIST_BYTES)
        return None if page is None else await asyncio.to_thread(parse_names, page, self.source.name)

    async def attestations(self, file: ProjectFile) -> bytes:
        """What is said about the file: where the index says, else beside it, else by the settings' template.

        Empty where there is nothing in any of these places.

        Raises:
            ReleaseRefusedError: `release_digest_mismatch`, they are not those that the index names.
        """
        offered = file.attestations
        if offered is not None:
            page = await self._transport.page(offered.url, "*/*", MAX_ATTESTATIONS)
            if page is None:
                raise IndexAnswerError(
                    f"index {self.source.name} names attestations of {file.filename} that are not there"
                )
            if offered.sha256 is not None and hashlib.sha256(page.body).hexdigest() != offered.sha256:
                raise _mismatch("the attestations", file, self.source.name)
            return page.body
        for url in self._places(file):
            page = await self._guessed(url)
            if page is not None:
                return page.body
        return b""

    async def wheel(self, file: ProjectFile, path: Path, max_bytes: int) -> None:
        """Write the file to `path`, which must not exist; on any failure there is nothing.

        Raises:
            ReleaseTooLargeError: it has more than `max_bytes`, or than the index says.
            ReleaseRefusedError: `release_digest_mismatch`, its bytes are not those that the index names.
        """
        limit = max_bytes if file.size is None else min(file.size, max_bytes)
        if file.size is not None and file.size > max_bytes:
            raise ReleaseTooLargeError(
                "size_limit", f"{file.filename} has {file.size} bytes; this host takes {max_bytes}"
            )
        opened = await asyncio.to_thread(path.open, "xb")
        try:
            digest = hashlib.sha256()

            def store(piece: bytes) -> None:
                digest.update(piece)
                opened.write(piece)

            try:
                there = await self._transport.download(file.url, limit, lambda piece: asyncio.to_thread(store, piece))
            finally:
                await asyncio.to_thread(opened.close)
            if not there:
                raise IndexAnswerError(f"index {self.source.name} names {file.filename}, and it is not there")
            if file.sha256 is not None and digest.hexdigest() != file.sha256:
                raise _mismatch("the bytes", file, self.source.name)
        except BaseException:  # whatever ended it: no half of a file is left; raised again
            await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))
            raise

    # -- inside

    def _places(self, file: ProjectFile) -> list[URL]:
        places = [file.url.with_path(file.url.raw_path + SUFFIX, encoded=True)]
        if self.source.attestations:
            filled = self.source.attestations.replace("{filename}", quote(file.filename, safe=""))
            places.append(absolute(self.source.url, filled.replace("{url}", str(file.url)), self.source.name))
        return places

    async def _guessed(self, url: URL) -> Page | None:
        """A document that the index does not name: servers refuse, or show a page, what they do not have."""
        page = None
        with contextlib.suppress(IndexDeniedError):
            page = await self._transport.page(url, "*/*", MAX_ATTESTATIONS)
        return None if page is None or page.content_type == "text/html" else page


def _mismatch(what: str, file: ProjectFile, index: str) -> ReleaseRefusedError:
    return ReleaseRefusedError(
        "digest_mismatch",
        f"{what} of {file.filename} are not those that index {index} names: try again, or ask who runs it",
    )
