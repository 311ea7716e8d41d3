"""The body of a request: bounded as it comes, bounded as it unpacks, and an answer for each way to be malformed.

The server is told to leave a body as it was sent (`auto_decompress` of aiohttp is off): a coding is undone here, where
its output has the endpoint's bound and its faults are the sender's.
"""

from __future__ import annotations

import zlib
from typing import Final

from aiohttp import hdrs, web

from host.api.bodies import BODIES, FREE, TOKEN
from host.api.errors import BadRequestError, BodyTooLargeError, UnsupportedCodingError

ACCEPTED: Final = "gzip, deflate"
"""Content codings that are undone; others (RFC 9110, section 8.4.1) need libraries that nothing else here does."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_RAW_DEFLATE: Final = -zlib.MAX_WBITS


async def read_bounded(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes as it came and as it is without its content coding.

    Raises:
        BodyTooLargeError: it has more.
        BodiesBusyError: too many bytes are being received in other requests.
        BadRequestError: it is not framed, or not coded, as its headers say; or its sender left.
        UnsupportedCodingError: its coding is none that is undone here.
    """
    coding = content_coding(request)
    body = await _received(request, limit)
    return _decoded(body, coding, limit) if coding and body else body


def content_coding(request: web.BaseRequest) -> str:
    """The one content coding of a request; empty for none.

    Raises:
        UnsupportedCodingError: it is none that is undone here, or there are several.
    """
    if hdrs.CONTENT_ENCODING not in request.headers:
        return ""
    written = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING))
    codings = [name for part in written.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not codings:
        return ""
    coding = codings[0].removeprefix("x-")
    if len(codings) > 1 or coding not in {"gzip", "deflate"}:
        raise UnsupportedCodingError(
            f"a body is read with one Content-Encoding of {ACCEPTED}, or none, not with '{ascii(written)[1:101]}'"
        )
    return coding


async def _received(request: web.BaseRequest, limit: int) -> bytes:
    content = request.content
    if content.is_eof() and content.exception() is None and content.total_bytes <= min(limit, FREE):
        return content.read_nowait()  # it is all here, and too little to be counted
    if (request.content_length or 0) <= limit:
        body = bytearray()
        try:
            with request[BODIES].receiving(known=TOKEN in request) as received:
                while chunk := await content.readany():
                    body += chunk
                    if len(body) > limit:
                        break
                    received.grown(len(body))
                else:
                    return bytes(body)
        except web.RequestPayloadError as error:
            raise BadRequestError(
                f"the body is not framed as its headers say: {error}", code="body_malformed"
            ) from None
        except ConnectionError:
            raise BadRequestError("the body ended before its end", code="body_malformed") from None
    raise BodyTooLargeError(f"the body has more than {limit} bytes")


def _decoded(body: bytes, coding: str, limit: int) -> bytes:
    """Undo a coding, of which no more than the bound is ever unpacked."""
    window = _GZIP
    if coding == "deflate":
        # RFC 9110 means the zlib format (RFC 1950); many senders send what is inside of it, which begins otherwise.
        window = _ZLIB if body[0] & 0xF == zlib.DEFLATED else _RAW_DEFLATE
    unpacking = zlib.decompressobj(window)
    try:
        plain = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise _broken(coding, str(error)) from None
    if len(plain) > limit:
        raise BodyTooLargeError(f"the body has more than {limit} bytes without its Content-Encoding")
    if not unpacking.eof:
        raise _broken(coding, "it ends too soon")
    if unpacking.unused_data:
        raise _broken(coding, "more comes after its end")
    return plain


def _broken(coding: str, why: str) -> BadRequestError:
    return BadRequestError(f"the body is not {coding}, as its Content-Encoding says: {why}", code="body_malformed")
