"""Running a check in a child process: limited, isolated, in an empty folder, and gone when nobody waits any more.

Source of strangers can make a parser burn time and memory; in a child that costs a finding, in the host it would
cost the host.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PACKAGES: Final = Path(__file__).parents[3]
_BOOT: Final = "import sys; sys.path.append(sys.argv.pop(1)); from host.supply.scan.confined import main; main()"
_TAIL: Final = 4096
_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What a child may use: CPU seconds, bytes of address space, of one file, and of what it prints."""

    cpu_seconds: int = 120
    memory_bytes: int = 2 * 2**30
    file_bytes: int = 16 * 2**20
    output_bytes: int = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit status (negative for a signal), what it printed, and the end of its stderr."""

    status: int
    out: bytes
    err: bytes
    too_much: bool = False

    @property
    def last_words(self) -> str:
        """The last line it wrote on stderr."""
        lines = self.err.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


@asynccontextmanager
async def scratch() -> AsyncIterator[Path]:
    """An empty folder that is removed afterwards."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="busbar-scan-"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def run(
    module: str,
    *arguments: str,
    folder: Path,
    limits: ChildLimits,
    site: bool,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run `python -m module` in `folder`, and wait for its end.

    Takes as long as the child does: callers bound it with `asyncio.timeout`, and a child whose caller is
    cancelled is killed with all that it started.

    Args:
        module: What runs.
        arguments: Its arguments.
        folder: Where it runs, and what it takes for its home.
        limits: What it may use.
        site: Whether it sees installed packages; without, the standard library and this package only.
        environment: Variables that it gets; it inherits none.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-B", "-X", "utf8", *(() if site else ("-S",))),
        *("-c", _BOOT, str(_PACKAGES)),
        *(str(limits.cpu_seconds), str(limits.memory_bytes), str(limits.file_bytes)),
        module,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={"LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder), **(environment or {})},
        start_new_session=True,  # so that what it started dies with it
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    assert process.stderr is not None  # noqa: S101 - asked for above
    try:
        async with asyncio.TaskGroup() as group:
            out = group.create_task(_head(process.stdout, limits.output_bytes))
            err = group.create_task(_tail(process.stderr))
            ended = group.create_task(_wait(process, out))
    finally:
        if process.returncode is None:
            _kill(process)
            await process.wait()
    return Ended(ended.result(), out.result(), err.result(), too_much=len(out.result()) > limits.output_bytes)


async def _wait(process: asyncio.subprocess.Process, out: asyncio.Task[bytes]) -> int:
    await out  # it ends with the child, or with more output than is allowed: then nobody reads on
    if process.stdout is not None and not process.stdout.at_eof():
        _kill(process)
    return await process.wait()


async def _head(stream: asyncio.StreamReader, limit: int) -> bytes:
    """What is printed, up to one byte more than the limit."""
    found = bytearray()
    while len(found) <= limit and (chunk := await stream.read(_CHUNK)):
        found += chunk
    return bytes(found[: limit + 1])


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The end of what is printed, however much it is."""
    found = b""
    while chunk := await stream.read(_CHUNK):
        found = (found + chunk)[-_TAIL:]
    return found


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
