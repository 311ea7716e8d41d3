"""Receiving a release: a multipart form with a wheel, which is spooled, and its attestations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import IO, Final

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from host.api.body import content_coding
from host.api.errors import BadRequestError, BodyTooLargeError, UnsupportedCodingError

MAX_ATTESTATIONS: Final = 4 * 2**20
CHUNK: Final = 256 * 1024
_MALFORMED: Final = (ValueError, RuntimeError, HttpProcessingError, web.RequestPayloadError, ConnectionError)
"""What aiohttp's reader raises at a form: bad boundaries, headers of parts, codings of parts, framing; who left."""


async def receive(request: web.BaseRequest, spooled: IO[bytes], max_wheel: int) -> tuple[str, bytes]:
    """Spool the wheel and keep the attestations: either may come first. The wheel's file name, and the attestations.

    Raises:
        BadRequestError: the form is malformed, or has not just these two parts.
        UnsupportedCodingError: it has a content coding.
        BodyTooLargeError: the wheel has more than `max_wheel` bytes, or the attestations have too many.
    """
    if content_coding(request):
        raise UnsupportedCodingError("a form is sent without a Content-Encoding: a wheel is compressed already")
    filename: str | None = None
    attestations: bytes | None = None
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "wheel" and filename is None:
                filename = part.filename or ""
                await _spool(part, spooled, max_wheel)
            elif isinstance(part, BodyPartReader) and part.name == "attestations" and attestations is None:
                attestations = await _small(part)
            else:
                raise BadRequestError(
                    "the form has the parts 'wheel' and 'attestations', once each", code="form_invalid"
                )
    except _MALFORMED as error:
        raise BadRequestError(f"the form is malformed: {error}", code="form_invalid") from None
    if not filename:
        raise BadRequestError("the form has no part 'wheel' with a file name", code="form_invalid")
    return filename, attestations or b""


async def _spool(part: BodyPartReader, file: IO[bytes], limit: int) -> None:
    size = 0
    while chunk := await part.read_chunk(CHUNK):
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(f"a wheel has at most {limit} bytes", code="release_size_limit")
        await asyncio.to_thread(file.write, chunk)
    await asyncio.to_thread(file.seek, 0)


async def _small(part: BodyPartReader) -> bytes:
    content = bytearray()
    while chunk := await part.read_chunk(CHUNK):
        content += chunk
        if len(content) > MAX_ATTESTATIONS:
            raise BodyTooLargeError(f"attestations have at most {MAX_ATTESTATIONS} bytes", code="release_size_limit")
    return bytes(content)


async def chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """What was spooled, piece by piece."""
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk
