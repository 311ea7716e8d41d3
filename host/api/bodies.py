"""How many bytes of request bodies are being received: bounded in all, with a part that strangers cannot use up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from host.errors import BusbarError, ErrorKind
from host.identity.access import Token

FREE: Final = 64 * 1024
"""Bytes of one body that are not counted: as many may wait in any connection anyway."""
KNOWN_BYTES: Final = 64 * 2**20
"""Bytes of all bodies that are being received from callers with a token."""
STRANGERS_BYTES: Final = 32 * 2**20
"""Of all others: webhooks, and the routes of plugins."""
BUSY_SECONDS: Final = 1.0


class BodiesBusyError(BusbarError):
    """As many bytes of bodies are being received as may be."""

    code = "bodies_busy"
    kind = ErrorKind.UNAVAILABLE


class Bodies:
    """Counts what is being received. One for a host, on its loop.

    What comes after the body was read has bounds of its own: the writer's queue, a plugin's bulkhead.
    """

    def __init__(self, *, known: int = KNOWN_BYTES, strangers: int = STRANGERS_BYTES) -> None:
        self._limits = {True: known, False: strangers}
        self._open = {True: 0, False: 0}

    @contextmanager
    def receiving(self, *, known: bool) -> Iterator[Receiving]:
        """Count one body for as long as it is being received; `known` says whether its sender has a token."""
        body = Receiving(self, known)
        try:
            yield body
        finally:
            self._open[known] -= body.counted

    def add(self, size: int, *, known: bool) -> None:
        """Count so many bytes more.

        Raises:
            BodiesBusyError: they would be too many.
        """
        if self._open[known] + size > self._limits[known]:
            raise BodiesBusyError(
                f"this host is receiving {self._limits[known]} bytes of other requests: try again in a moment",
                retry_after=BUSY_SECONDS,
            )
        self._open[known] += size


class Receiving:
    """One body that is being received."""

    def __init__(self, bodies: Bodies, known: bool) -> None:
        self._bodies = bodies
        self._known = known
        self.counted = 0

    def grown(self, size: int) -> None:
        """Count a body that has `size` bytes by now; errors as in `Bodies.add`."""
        more = size - FREE - self.counted
        if more > 0:
            self._bodies.add(more, known=self._known)
            self.counted += more


TOKEN: Final[web.RequestKey[Token]] = web.RequestKey("token", Token)
"""Where a request has the token that it came with, if it was a valid one."""
BODIES: Final[web.RequestKey[Bodies]] = web.RequestKey("bodies", Bodies)
"""Where a request has them."""
