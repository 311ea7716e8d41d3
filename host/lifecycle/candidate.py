"""A release that gets ready to take over from another one: it runs beside it, without a single event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from host.lifecycle.hosted_plugin import HostedPlugin


class Candidate:
    """Gets a release ready, in a task of its own: what runs meanwhile takes every change that is made to it.

    Args:
        hosted: The release; it is started by `start`.
        alone: It shares the host's process with the release before it, which therefore may not run meanwhile.
    """

    def __init__(self, hosted: HostedPlugin, *, alone: bool) -> None:
        self.hosted = hosted
        self.sha256 = hosted.release.sha256
        self.alone = alone
        self._task: asyncio.Task[None] | None = None

    def start(self, ended: Callable[[], None]) -> None:
        """Start it; `ended` is called once it is ready, or has shown that it never will be."""
        self._task = asyncio.create_task(self.hosted.prepare(), name=f"candidate {self.hosted.record.id}")
        self._task.add_done_callback(lambda _done: ended())

    @property
    def ended(self) -> bool:
        """Whether it is known how it is."""
        return self._task is not None and self._task.done()

    def check(self) -> None:
        """Return where it is ready; call it once that is known.

        Raises:
            UpgradeFailedError: it did not get well. And whatever nobody foresaw.
        """
        if self._task is not None:
            self._task.result()

    async def give_up(self) -> None:
        """Wait for it no more. It is left to be stopped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if not self._task.cancelled():
                self._task.exception()  # nobody asks any more how it is
