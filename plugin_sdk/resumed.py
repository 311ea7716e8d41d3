"""Going on with an awaitable whose first step was taken by hand.

Taking the first step by hand tells, at the price of a function call, whether an awaitable has to wait at all.
The guard makes no timer and the worker no second turn of the loop for one that does not.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Resumed(Generic[T]):
    """Awaits a call whose first step was taken already, and yielded `waiting`."""

    __slots__ = ("_call", "_waiting")

    def __init__(self, call: Generator[Any, Any, T], waiting: Any) -> None:
        self._call = call
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, T]:
        # This is `yield from self._call`, entered after its first yield (PEP 380 spells it out).
        waiting = self._waiting
        while True:
            try:
                sent = yield waiting
            except GeneratorExit:
                self._call.close()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown on into the call, whatever it is
                try:
                    waiting = self._call.throw(error)
                except StopIteration as done:
                    result: T = done.value
                    return result
            else:
                try:
                    waiting = self._call.send(sent)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]  # a generator's value is T by its type
