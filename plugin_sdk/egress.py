"""The way out of a worker: an HTTP client that goes through the host's egress broker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from plugin_sdk.errors import PermissionDeniedError

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver

CODE_HEADER: Final = "X-Busbar-Code"
"""Where the broker's refusals carry their code."""
PROXY_VARIABLE: Final = "HTTPS_PROXY"
TOTAL_SECONDS: Final = 60.0
MAX_REFUSAL: Final = 4096
"""Bytes of a refusal's sentence that are read."""
MAX_TARGET: Final = 300
"""Characters of a host and port that an error names: more is no name, and errors travel and are kept."""
_OF_THE_GRANTS: Final = frozenset({"network_not_granted", "address_refused"})


def http_session(resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """A client session that goes through the broker where there is one; one request takes a minute at most.

    `resolver` looks names up where there is no broker to do it; the machine's own way where none is given.

    What is not granted raises `PermissionDeniedError`, with the grant that is missing; what is not reached,
    `aiohttp.ClientError`.
    """
    import aiohttp  # noqa: PLC0415 - a worker pays for it only where it is used

    async def refusals(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        target = f"{request.url.host}:{request.url.port}"[:MAX_TARGET]
        try:
            response = await handler(request)
        except aiohttp.ClientHttpProxyError as error:
            code = "" if error.headers is None else error.headers.get(CODE_HEADER, "")
            if code in _OF_THE_GRANTS:
                raise _denied(target, code) from None
            raise
        code = response.headers.get(CODE_HEADER, "")
        if not code or request.url.scheme != "http" or request.proxy is None:
            return response
        # Bounded, for a server outside can write this header too: all it gains is that its answer counts as none.
        sentence = (await response.content.read(MAX_REFUSAL)).decode(errors="replace").strip()
        response.close()
        if code in _OF_THE_GRANTS:
            raise _denied(target, code)
        raise aiohttp.ClientConnectionError(sentence)

    return aiohttp.ClientSession(
        connector=None if resolver is None else aiohttp.TCPConnector(resolver=resolver),
        timeout=aiohttp.ClientTimeout(total=TOTAL_SECONDS),
        proxy=os.environ.get(PROXY_VARIABLE),
        middlewares=(refusals,),
    )


def _denied(target: str, code: str) -> PermissionDeniedError:
    if code == "address_refused":
        sentence = f"{target} is at no public address: to reach it, have the address itself granted"
    else:
        sentence = f"{target} is not granted: list it under permissions.network in plugin.toml and have it granted"
    return PermissionDeniedError(sentence, code)
