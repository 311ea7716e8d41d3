"""The command line's HTTP client: one request at a time against a running daemon."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

DEFAULT_URL: Final = "http://127.0.0.1:8700"
TIMEOUT_SECONDS: Final = 120.0
"""A change waits for the plugin's start, which may take a minute."""
CONNECT_SECONDS: Final = 10.0
LONG_SECONDS: Final = 900.0
"""An install may fetch dependencies, and scan them, before the plugin starts."""


class RequestFailedError(Exception):
    """The daemon refused; `code` is its word for why."""

    def __init__(self, message: str, code: str, errors: list[str]) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.errors = errors


class NoDaemonError(Exception):
    """Nothing answers at the address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said: the envelope's data, its message, and the page it belongs to."""

    data: Any
    message: str
    pagination: dict[str, int] | None


def request(
    method: str,
    path: str,
    *,
    body: Any = None,
    query: Mapping[str, object] | None = None,
    files: Mapping[str, Path] | None = None,
    content_type: str = "application/json",
    seconds: float = TIMEOUT_SECONDS,
) -> Answer:
    """Ask the daemon named by BUSBAR_URL, with the token in BUSBAR_TOKEN, and wait up to `seconds` for its answer.

    Raises:
        RequestFailedError: it refused, answered with something that is no Busbar answer, or did not answer in time.
        NoDaemonError: nothing listens there.
    """
    raw, status = asyncio.run(_sent(method, path, body, query or {}, files or {}, content_type, seconds))
    return _parsed(raw, status)


def document(path: str) -> bytes:
    """A document of the daemon that has no envelope around it; errors as in `request`."""
    raw, status = asyncio.run(_sent("GET", path, None, {}, {}, "", TIMEOUT_SECONDS))
    if status != 200:  # noqa: PLR2004 - OK
        _parsed(raw, status)  # a refusal comes in an envelope, and is raised
        raise RequestFailedError(f"the answer has status {status} and no document", "answer_unreadable", [])
    return raw


def segment(value: str) -> str:
    """A value as one segment of a path."""
    return quote(value, safe="")


async def _sent(
    method: str,
    path: str,
    body: Any,
    query: Mapping[str, object],
    files: Mapping[str, Path],
    content_type: str,
    seconds: float,
) -> tuple[bytes, int]:
    """The body of the answer, and its status."""
    import aiohttp  # noqa: PLC0415 - loading it takes longer than a command that needs no daemon

    url = os.environ.get("BUSBAR_URL", DEFAULT_URL).rstrip("/")
    headers = {"Authorization": f"Bearer {_token()}"} if _token() else {}
    data: Any = None
    if files:
        data = aiohttp.FormData()
        for field, file in files.items():
            data.add_field(field, await asyncio.to_thread(file.read_bytes), filename=file.name)
    elif body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = content_type
    parameters = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in query.items()
        if value is not None
    }
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url + path, params=parameters, data=data, headers=headers) as response,
        ):
            return await response.read(), response.status
    except aiohttp.ClientConnectionError as error:
        raise NoDaemonError(
            f"no daemon answers at {url} ({error or type(error).__name__}): start one with 'busbar run', "
            "or name another with BUSBAR_URL"
        ) from None
    except aiohttp.InvalidURL:
        raise NoDaemonError(f"BUSBAR_URL is no URL: {url}") from None
    except TimeoutError:
        raise RequestFailedError(
            f"the daemon at {url} did not answer within {seconds:g} s: look whether it is at it still, then ask again",
            "no_answer",
            [],
        ) from None


def _token() -> str:
    return os.environ.get("BUSBAR_TOKEN", "")


def _parsed(raw: bytes, status: int) -> Answer:
    if status == 204:  # noqa: PLR2004 - No Content
        return Answer(None, "", None)
    try:
        envelope = json.loads(raw)
        succeeded = bool(envelope["success"])
    except (ValueError, KeyError, TypeError):
        raise RequestFailedError(
            f"the answer (status {status}) is not Busbar's: is BUSBAR_URL right?", "answer_unreadable", []
        ) from None
    if not succeeded:
        message = envelope.get("message", "the request failed")
        if status == 401 and not _token():  # noqa: PLR2004 - Unauthorized
            message += " Set BUSBAR_TOKEN to a token of this daemon."
        raise RequestFailedError(message, envelope.get("code", "failed"), envelope.get("errors", []))
    return Answer(envelope.get("data"), envelope.get("message", ""), envelope.get("pagination"))
