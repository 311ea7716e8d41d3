"""Getting the wheels that a lock names: from folders of this machine, or from where the operator allows.

Where the bytes come from decides nothing: they are taken by their hashes alone, which stand in the signed lock. The
allowed origins keep a publisher from making the host call any address. Bounded in bytes and time, all together.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import aiohttp
from yarl import URL

from host.resolver import ClientResolver, Resolver
from host.storage.beneath import open_plain
from host.storage.errors import OddFileError, unreadable
from host.supply.dependencies.lock import LockedWheel
from host.supply.errors import ReleaseRefusedError, ReleaseTooLargeError
from host.supply.sealed_tree import on_disk
from plugin_sdk.worker.file_errors import is_of_the_file

CHUNK: Final = 256 * 1024
REDIRECTS: Final = 5
SILENT_SECONDS: Final = 30.0
"""How long a server may say nothing."""
_REDIRECTED: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class DependencySources:
    """Where wheels of dependencies come from, in this order.

    Attributes:
        directories: Folders that are looked through for a wheel's own file name.
        origins: Beginnings of URLs; a wheel is fetched from where the lock says only below one of them.
        max_bytes: What all the wheels of one plugin may have together.
        seconds: How long getting them may take altogether.
        resolver: Looks the names of their addresses up.
    """

    directories: tuple[Path, ...] = ()
    origins: tuple[str, ...] = ()
    max_bytes: int = 256 * 2**20
    seconds: float = 300.0
    resolver: Resolver = field(default_factory=Resolver)


async def fetch_wheels(wanted: Sequence[LockedWheel], folder: Path, sources: DependencySources) -> None:
    """Put every wheel into `folder` under its own name; each has been compared with its hashes then.

    Raises:
        ReleaseRefusedError: `release_dependency_unavailable`, `release_dependency_mismatch` (wrong bytes),
            `release_dependency_timeout`, `release_dependency_size_limit`.
    """
    left = sources.max_bytes
    try:
        async with asyncio.timeout(sources.seconds):
            for wheel in wanted:
                left -= await _fetch(wheel, folder / wheel.filename, sources, left)
    except TimeoutError:
        raise ReleaseRefusedError(
            "dependency_timeout", f"the dependencies did not come within {sources.seconds:g} s: try again"
        ) from None


async def _fetch(wheel: LockedWheel, target: Path, sources: DependencySources, left: int) -> int:
    arriving = await asyncio.to_thread(_Arriving, wheel, target, left)
    try:
        for directory in sources.directories:
            if await asyncio.to_thread(arriving.copy, directory / wheel.filename):
                break
        else:
            await _download(wheel, arriving, sources)
    finally:
        await asyncio.to_thread(arriving.close)
    return arriving.size


class _Arriving:
    """A wheel that is being written: bounded, hashed on the way, compared at the end."""

    def __init__(self, wheel: LockedWheel, target: Path, left: int) -> None:
        self._wheel = wheel
        self._left = left
        self._digests = {name: hashlib.new(name) for name, _ in wheel.hashes}
        with on_disk():
            self._file = target.open("xb")
        self.size = 0

    def copy(self, source: Path) -> bool:
        """Take it from a file; false where there is none. Never a link: the bytes are this release's own."""
        try:
            with os.fdopen(open_plain(source), "rb") as file:
                while chunk := file.read(CHUNK):
                    self.write(chunk)
        except (FileNotFoundError, NotADirectoryError, OddFileError):
            return False
        except OSError as error:
            if is_of_the_file(error):
                raise _unavailable(self._wheel, f"{source} cannot be read ({error.strerror})") from None
            raise unreadable(str(source), error) from error
        self.done(str(source))
        return True

    def write(self, chunk: bytes) -> None:
        """Take some of its bytes."""
        self.size += len(chunk)
        if self.size > self._left or (self._wheel.size is not None and self.size > self._wheel.size):
            raise ReleaseTooLargeError(
                "dependency_size_limit",
                f"{self._wheel.filename} has more bytes than its lock says, or than supply.dependency_size leaves",
            )
        for digest in self._digests.values():
            digest.update(chunk)
        with on_disk():
            self._file.write(chunk)

    def done(self, source: str) -> None:
        """Compare what came, and make it durable."""
        for name, digits in self._wheel.hashes:
            if self._digests[name].hexdigest() != digits:
                raise ReleaseRefusedError(
                    "dependency_mismatch",
                    f"{self._wheel.filename} from {source} has not the {name} that the signed lock demands",
                )
        with on_disk():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with on_disk():  # which writes what is left of a wheel that was refused
            self._file.close()


async def _download(wheel: LockedWheel, arriving: _Arriving, sources: DependencySources) -> None:
    url, origin = _allowed(wheel, sources.origins)
    # As it is, because the hash is one of the wheel, not of what a server packed it into; and no proxy from the
    # environment, which would be one more place to be sent to.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=ClientResolver(sources.resolver)),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS),
    ) as session:
        try:
            for _ in range(REDIRECTS + 1):
                async with session.get(url, allow_redirects=False) as response:
                    if response.status in _REDIRECTED:
                        url = url.join(URL(response.headers.get("Location", "")))
                        if not below(url, origin):
                            raise _unavailable(wheel, f"{origin} sends away to {url.host}, which is another origin")
                        continue
                    if response.status != 200:  # noqa: PLR2004 - HTTP
                        raise _unavailable(wheel, f"{url.host} answers {response.status}")
                    async for chunk in response.content.iter_chunked(CHUNK):
                        await asyncio.to_thread(arriving.write, chunk)
                    return await asyncio.to_thread(arriving.done, str(url.host))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unavailable(wheel, f"{url.host} cannot be asked ({type(error).__name__})") from None
    raise _unavailable(wheel, f"{origin} redirects more than {REDIRECTS} times")


def _allowed(wheel: LockedWheel, origins: Sequence[str]) -> tuple[URL, URL]:
    """Where a wheel may be fetched from, and which origin allows that."""
    if wheel.url is None:
        raise _unavailable(wheel, "its lock names no URL")
    try:
        url = URL(wheel.url)
    except ValueError:
        raise _unavailable(wheel, "its lock names no proper URL") from None
    for origin in map(URL, origins):
        if below(url, origin):
            return url, origin
    raise _unavailable(wheel, f"what its lock names, at {url.host}, is below none of supply.dependency_origins")


def below(url: URL, origin: URL) -> bool:
    """Whether a URL has the scheme, host and port of `origin`, and a path that goes on from its path, folder-wise."""
    if url.scheme not in {"https", "http"} or url.user is not None or url.password is not None:
        return False
    if (url.scheme, url.host, url.port) != (origin.scheme, origin.host, origin.port):
        return False
    # Decoded twice: a server may decode once more than we do before it looks for dots.
    parts = unquote(unquote(url.raw_path)).replace("\\", "/").split("/")
    return ".." not in parts and "/".join(parts).startswith(origin.path.rstrip("/") + "/")


def _unavailable(wheel: LockedWheel, why: str) -> ReleaseRefusedError:
    return ReleaseRefusedError(
        "dependency_unavailable",
        f"the dependency {wheel.filename} cannot be had: {why}; put the wheel into one of supply.wheel_directories, or "
        "allow where it comes from in supply.dependency_origins",
    )
