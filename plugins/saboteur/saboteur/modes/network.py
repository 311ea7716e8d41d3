"""Hooks that misuse their way out of the sandbox; without a network grant there is none, and they say so."""

import asyncio
import contextlib
import os
from urllib.parse import urlsplit

from plugin_sdk import Context

SILENT = 300
ODD = (
    *("a..b:443", f"{'a' * 64}.example.com:443", f"{'a.' * 500}b:443", ".:443", "-:443", "exa%6dple.com:443"),
    *("[fe80::1%25lo]:443", "[::1:443", "0x7f.1:443", "user@example.com:443", "example.com:0", "example.com:+80"),
    *("b\xfccher.example:443", "a\0b.example:443", "\xb9.example:\xb2", "example.com", ""),
)

_held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []


async def silent_names(context: Context) -> None:
    """Ask for three hundred names whose server may be silent, or as many as there are descriptors; never hang up."""
    with contextlib.suppress(OSError):
        for number in range(SILENT):
            _held.append(await _asked(f"n{number}.silent.example:443"))  # noqa: PERF401 - held however far it gets


async def odd_names(context: Context) -> None:
    """Ask for what is no name, and complain of whatever is not answered with a refusal."""
    for target in ODD:
        reader, writer = await _asked(target)
        status = (await reader.readline()).split()
        writer.close()
        if len(status) < 2 or not status[1].startswith(b"4"):  # noqa: PLR2004 - version and status
            raise RuntimeError(f"{target[:40]!r} was answered with {status}")


async def door_flood(context: Context) -> None:
    """Open connections as fast as the door takes them, some without a word, and leave them to their fate."""
    for number in range(2000):
        _, writer = await _asked(f"n{number}.silent.example:443") if number % 2 else await _connected()
        writer.transport.abort()


async def _asked(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await _connected()
    writer.write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode("latin-1"))
    return reader, writer


async def _connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the host's broker."""
    door = urlsplit(os.environ.get("HTTPS_PROXY", ""))
    if door.hostname is None:
        raise RuntimeError("there is no way out: no network is granted")
    return await asyncio.open_connection(door.hostname, door.port)
