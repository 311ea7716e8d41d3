"""What many owners want written, in groups of which each owner has its share.

While one group is written the next collects: one item of each owner in turn, round after round, up to a bound on the
group. So an owner that writes without end waits for itself alone; any other finds at most the group that is under way
and its own place in the next one before it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

from host.storage.errors import StorageBusyError, StorageFailedError

Item = TypeVar("Item")

MAX_ITEMS: Final = 128
"""Items of one owner that may wait; one more is refused with `storage_busy`."""
MAX_BYTES: Final = 4 * 2**20
"""What the waiting items of one owner may weigh; one item alone may weigh more."""
GROUP_ITEMS: Final = 64
"""Items of a group: some milliseconds of writing, for which whoever comes next has to wait."""
GROUP_BYTES: Final = 2**20
"""What a group may weigh; one item alone may weigh more."""

Submit = Callable[[Item, int], "asyncio.Future[Any]"]


@dataclass(slots=True)
class _Queue(Generic[Item]):
    """What one owner has waiting, each with its weight and who waits for it."""

    items: deque[tuple[Item, int, asyncio.Future[Any]]] = field(default_factory=deque)
    weight: int = 0


class FairGroups(Generic[Item]):
    """Hands items on in groups, a group after the other. Everything here is on the loop.

    Args:
        submit: Hands on one item with its weight; the future is done when the item is written. What is submitted in
            one turn of the loop is written together.
    """

    def __init__(self, submit: Submit[Item]) -> None:
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._queues: OrderedDict[str, _Queue[Item]] = OrderedDict()
        self._under_way = 0
        self._called = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, owner: str, item: Item, *, weight: int = 0, owed: bool = False) -> asyncio.Future[Any]:
        """Queue an item behind those of its owner; the future has what comes of it.

        Cancelling it while the item waits gives the item up; once it is in a group, that undoes nothing.

        Args:
            owner: Whose it is.
            item: What `submit` gets.
            weight: Bytes that it keeps in memory while it waits.
            owed: It is the host's own and taken in any case; there is never more than one of an owner.

        Raises:
            StorageBusyError: too much of this owner's waits already.
            StorageFailedError: the groups are closed.
        """
        if self._closed:
            raise StorageFailedError("the keys and values are closed because the host is stopping: try again shortly")
        queue = self._queues.get(owner)
        if queue is None:
            queue = self._queues[owner] = _Queue()
        elif not owed and (len(queue.items) >= MAX_ITEMS or queue.weight + weight > MAX_BYTES):
            raise StorageBusyError(
                f"more of {owner}'s waits to be written than may: try again in a moment", retry_after=1.0
            )
        answer: asyncio.Future[Any] = self._loop.create_future()
        queue.items.append((item, weight, answer))
        queue.weight += weight
        self._idle.clear()
        if not self._under_way and not self._called:
            # Not at once: whoever else writes in this turn of the loop comes along.
            self._called = True
            self._loop.call_soon(self._hand_over)
        return answer

    async def close(self) -> None:
        """Have written what waits; later items are refused. Closing again does nothing."""
        self._closed = True
        await self._idle.wait()

    def _hand_over(self) -> None:
        """Submit the next group, unless one is under way; the end of that one comes back to it."""
        self._called = False
        items = weight = 0
        while self._queues and items < GROUP_ITEMS and weight < GROUP_BYTES:
            owner, queue = self._queues.popitem(last=False)
            item, weighs, answer = queue.items.popleft()
            queue.weight -= weighs
            if queue.items:
                self._queues[owner] = queue  # behind all others: the next group begins where this one ends
            if answer.done():
                continue  # nobody waits for it any more
            items, weight = items + 1, weight + weighs
            self._begin(item, weighs, answer)
        if self._under_way:
            return
        if self._queues:  # all of the group was refused at once
            self._called = True
            self._loop.call_soon(self._hand_over)
        else:
            self._idle.set()

    def _begin(self, item: Item, weight: int, answer: asyncio.Future[Any]) -> None:
        try:
            written = self._submit(item, weight)
        except (StorageBusyError, StorageFailedError) as error:
            answer.set_exception(error)
            return
        self._under_way += 1
        written.add_done_callback(partial(self._written, answer))

    def _written(self, answer: asyncio.Future[Any], written: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        error = written.exception()  # nobody cancels it: it is handed to nobody
        if not answer.done():
            if error is None:
                answer.set_result(written.result())
            else:
                answer.set_exception(error)
        if not self._under_way:
            self._hand_over()
