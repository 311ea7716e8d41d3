"""Asking an index over HTTP: bounded in time, bytes and places, whatever the other side does.

Redirects are followed by hand, because each has to be looked at; bodies are unpacked by hand, because what counts is
what comes out of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from host.resolver import ClientResolver, Resolver
from host.supply.errors import ReleaseTooLargeError
from host.supply.index.errors import (
    BadOriginError,
    IndexAnswerError,
    IndexDeniedError,
    IndexUnavailableError,
    ReleaseTimeoutError,
)
from host.supply.index.index_source import IndexSource, Origin, origin_of

MAX_REDIRECTS: Final = 5
MAX_URL: Final = 4096
MAX_CONNECTIONS: Final = 32
MAX_KEPT_PAGE: Final = 2 * 2**20
"""Larger pages are asked for anew each time."""
LONGEST_RETRY: Final = 3600.0
RETRY_AFTER: Final = 30.0
"""Seconds after which an index that says nothing about it may be asked again."""
_ETAG: Final = re.compile(r"[!-~]{1,200}")
_GZIP: Final = 16 + zlib.MAX_WBITS
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Seconds and bytes that an index may take.

    Args:
        connect: Until there is a connection.
        silence: Between two pieces of an answer.
        page: For a page or attestations in all, redirects included.
        file: For a wheel in all: 64 MiB at some 75 KB a second.
        kept: Bytes of pages that are kept to be asked about by their ETag, for each index.
    """

    connect: float = 10.0
    silence: float = 20.0
    page: float = 30.0
    file: float = 900.0
    kept: int = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Page:
    """A document as it came. `url` is where it was in the end, after redirects."""

    url: URL
    content_type: str
    body: bytes


def new_session(limits: TransportLimits, resolver: Resolver) -> aiohttp.ClientSession:
    """A session without cookies, netrc and proxies of the environment, which unpacks nothing by itself."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, resolver=ClientResolver(resolver)),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.silence),
        headers={"User-Agent": "busbar"},
    )


class Transport:
    """GET requests to one index, and to where its files may be.

    Every method raises:
        BadOriginError: it points, or redirects, to where it may not.
        ReleaseTooLargeError: more bytes than allowed, packed or unpacked.
        ReleaseTimeoutError: it takes too long, in all or between two pieces.
        IndexUnavailableError: no connection, one that broke off, a 5xx or a 429.
        IndexDeniedError: a 401 or a 403.
        IndexAnswerError: any other answer that is none.
    """

    def __init__(self, session: aiohttp.ClientSession, source: IndexSource, limits: TransportLimits) -> None:
        self._session = session
        self._source = source
        self._limits = limits
        self._pages = _KeptPages(limits.kept)

    async def page(self, url: URL, accept: str, limit: int) -> Page | None:
        """A document of at most `limit` bytes; None where there is none."""
        kept = self._pages.find(url)
        headers = {"Accept": accept, "Accept-Encoding": "gzip"}
        if kept is not None:
            headers["If-None-Match"] = kept[0]
        async with self._asked(url, headers, self._limits.page) as response:
            if response.status in _GONE:
                return None
            if response.status == 304 and kept is not None:  # noqa: PLR2004 - Not Modified
                return kept[1]
            self._check_status(response)
            body = bytearray()
            async for piece in self._unpacked(response, limit):
                body += piece
            page = Page(response.url, response.content_type, bytes(body))
            self._pages.keep(url, response.headers.get("ETag", ""), page)
            return page

    async def download(self, url: URL, limit: int, write: Callable[[bytes], Awaitable[None]]) -> bool:
        """Hand the bytes of a file to `write`, piece by piece; whether there is such a file."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        async with self._asked(url, headers, self._limits.file) as response:
            if response.status in _GONE:
                return False
            self._check_status(response)
            async for piece in self._unpacked(response, limit):
                await write(piece)
            return True

    # -- inside

    @contextlib.asynccontextmanager
    async def _asked(
        self, url: URL, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        name = self._source.name
        try:
            async with asyncio.timeout(seconds), self._followed(url, headers) as response:
                yield response
        except TimeoutError:
            raise ReleaseTimeoutError(
                f"index {name} takes too long to answer: try again later, or ask who runs it"
            ) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise IndexUnavailableError(
                f"index {name} cannot be asked ({_why(error)}): look whether it is up and reachable from here",
                retry_after=RETRY_AFTER,
            ) from None

    @contextlib.asynccontextmanager
    async def _followed(self, url: URL, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        for _ in range(MAX_REDIRECTS + 1):
            origin = self._origin(url)
            sent = dict(headers)
            if self._source.authorization is not None and origin == origin_of(self._source.url):
                sent["Authorization"] = self._source.authorization
            async with self._session.get(url, headers=sent, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                url = absolute(url, response.headers.get("Location", ""), self._source.name)
        raise IndexAnswerError(f"index {self._source.name} redirects more than {MAX_REDIRECTS} times")

    def _origin(self, url: URL) -> Origin:
        """The origin of an address that may be asked."""
        origin = origin_of(url)
        if origin is None or origin not in self._source.origins or url.user is not None or url.password is not None:
            shown = f"a {url.scheme or 'relative'} address" if origin is None else "{}://{}:{}".format(*origin)
            raise BadOriginError(
                f"index {self._source.name} points to {shown}: if its files may come from there, add the origin to "
                "the index's file_origins in the settings"
            )
        return origin

    def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status, name = response.status, self._source.name
        if status == 200:  # noqa: PLR2004 - OK
            return
        if status >= 500 or status == 429:  # noqa: PLR2004 - its failure, or too many requests
            raise IndexUnavailableError(
                f"index {name} answers with status {status}: try again later",
                retry_after=_retry_after(response.headers.get("Retry-After", "")),
            )
        if status in {401, 403}:
            raise IndexDeniedError(f"index {name} does not let this host in (status {status}): set the index's token")
        raise IndexAnswerError(f"index {name} answers with status {status}: is its address right?")

    async def _unpacked(self, response: aiohttp.ClientResponse, limit: int) -> AsyncIterator[bytes]:
        """The body, unpacked; as many bytes as `limit` at most, of what is sent and of what comes out of it."""
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip", "x-gzip", ""}:
            raise IndexAnswerError(f"index {self._source.name} answers in the encoding {ascii(encoding)[:40]}")
        if (response.content_length or 0) > limit:
            raise self._too_large(limit)
        unpacker = zlib.decompressobj(_GZIP) if "gzip" in encoding else None
        received = size = 0
        async for chunk in response.content.iter_any():
            received += len(chunk)
            piece = chunk
            if unpacker is not None:
                try:
                    piece = unpacker.decompress(chunk, limit - size + 1)  # one more than allowed is enough to know
                except zlib.error:
                    raise IndexAnswerError(f"index {self._source.name} answers with broken gzip") from None
            size += len(piece)
            if max(size, received) > limit:
                raise self._too_large(limit)
            yield piece
        if unpacker is not None and not unpacker.eof:
            raise IndexUnavailableError(f"index {self._source.name} broke off in its answer", retry_after=RETRY_AFTER)

    def _too_large(self, limit: int) -> ReleaseTooLargeError:
        return ReleaseTooLargeError("size_limit", f"index {self._source.name} answers with more than {limit} bytes")


def absolute(base: URL, address: str, index: str) -> URL:
    """An address of an index, seen from the page where it stands; without its fragment.

    Raises:
        BadOriginError: it is no address.
    """
    try:
        if len(address) > MAX_URL or not address.isprintable():
            raise ValueError("too long, or characters that no address has")
        return base.join(URL(address)).with_fragment(None)
    except ValueError:
        raise BadOriginError(f"index {index} points to {ascii(address)[:120]}, which is no address") from None


class _KeptPages:
    """Pages by address, with their ETags, the least lately used forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._pages: OrderedDict[URL, tuple[str, Page]] = OrderedDict()

    def find(self, url: URL) -> tuple[str, Page] | None:
        """The page and its ETag as they were last seen."""
        if url in self._pages:
            self._pages.move_to_end(url)
        return self._pages.get(url)

    def keep(self, url: URL, etag: str, page: Page) -> None:
        """Keep the page in the place of what was there; without an ETag nobody could ask about it."""
        before = self._pages.pop(url, None)
        self._size -= 0 if before is None else len(before[1].body)
        if not _ETAG.fullmatch(etag) or len(page.body) > MAX_KEPT_PAGE:
            return
        self._pages[url] = (etag, page)
        self._size += len(page.body)
        while self._size > self._limit:
            _, (_, oldest) = self._pages.popitem(last=False)
            self._size -= len(oldest.body)


def _retry_after(value: str) -> float:
    return min(float(value), LONGEST_RETRY) if value.isascii() and value.isdigit() else RETRY_AFTER


def _why(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text)[:200]
