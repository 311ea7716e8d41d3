"""Tasks that take their first step at once, instead of at the loop's next turn.

A hook that never waits is done already when its call has been read. Python 3.12 calls it an eager task; this is made
of what asyncio documents for those who make tasks of their own ("Extending", task lifetime support): the task exists,
is the current one, and owns the context while the first step runs here. It goes on from where that step stopped.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any


def eager_task(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """A task of `coroutine` whose first step has been taken; None where that was its last, too.

    It is called from a callback of the loop: no other task may be the current one.

    Args:
        coroutine: What to run; its first step lets nothing out but its end, so it turns what is raised into a message.
        loop: The running loop.
    """
    begun = _Begun(coroutine)
    context = contextvars.copy_context()
    task: asyncio.Task[None] = asyncio.Task(begun, loop=loop, context=context)
    asyncio.tasks._enter_task(loop, task)  # noqa: SLF001 - documented in "Extending"
    try:
        context.run(begun.first_step)
    finally:
        asyncio.tasks._leave_task(loop, task)  # noqa: SLF001 - as above
    return None if begun.ended else task


class _Begun(Coroutine[Any, Any, None]):
    """A coroutine whose first step is taken ahead of the task that runs the rest."""

    __slots__ = ("_coroutine", "_waiting", "_went_on", "ended")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._waiting: Any = None
        self._went_on = False
        self.ended = False

    def first_step(self) -> None:
        """Run up to the first wait."""
        try:
            self._waiting = self._coroutine.send(None)
        except StopIteration:
            self.ended = True

    def send(self, value: Any) -> Any:
        """Go on; the first time that is to wait for what the first step waits for."""
        if self._went_on:
            return self._coroutine.send(value)
        return self._go_on()

    def throw(self, typ: Any, val: BaseException | object = None, tb: TracebackType | None = None) -> Any:
        """Raise an error where the coroutine waits, as the task does to cancel it.

        A task that is cancelled before its own first step throws without knowing that it waits for something already.
        It is cancelled then as asyncio cancels one that waits: by that which it waits for, where it can be.
        """
        if not self._went_on:
            waiting = self._go_on()
            if waiting is not None and waiting.cancel():
                return waiting
        return self._coroutine.throw(typ) if val is None else self._coroutine.throw(typ, val, tb)

    def close(self) -> None:
        """End the coroutine where it waits."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """Not for it: its task runs it, and is what can be awaited."""
        raise TypeError("an eager coroutine is run by its task: await that")

    def _go_on(self) -> Any:
        self._went_on = True
        if self.ended:
            raise StopIteration
        return self._waiting
