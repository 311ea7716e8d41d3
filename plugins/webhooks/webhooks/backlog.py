"""The messages of each endpoint, durable in the kv: those that wait, in order of when they are due, and those done.

What a key names is all that has to be known of a message until it is sent, so a restart reads names, not values:

    pending/<endpoint>/<due in ms>/<attempts so far>/<message>
    done/<endpoint>/<done in ms>/<delivered or failed>/<message>

A message moves by writing its new key before its old one goes. A worker killed in between leaves both; then done
stands before pending, and later before earlier.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec

from plugin_sdk import HostError
from plugin_sdk.context import KeyValueStore
from webhooks.endpoints import keys_under
from webhooks.messages import Message

PENDING: Final = "pending/"
DONE: Final = "done/"
QUOTA: Final = "kv_quota_exceeded"
_TRIMMED_AT_ONCE: Final = 20

Fate = Literal["delivered", "failed"]


class FullError(Exception):
    """There is no room for another message."""


class Done(NamedTuple):
    """A message that is done: when, in ms, and how."""

    when: int
    outcome: str
    message: str


class Waiting(NamedTuple):
    """A message that waits: until when, in ms, and how many attempts are kept with it."""

    due: int
    tried: int


class Backlog:
    """The messages of one endpoint, by name: what waits until when, and what is done, the oldest first."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.waiting: dict[str, Waiting] = {}
        self.done: list[Done] = []
        self._finished: set[str] = set()
        self._queue: list[tuple[int, str]] = []
        self._queued: dict[str, int] = {}  # what is not being sent; other entries of the queue are left over

    def knows(self, message: str) -> bool:
        """Whether a message is here already, waiting or done."""
        return message in self.waiting or message in self._finished

    def schedule(self, message: str, waiting: Waiting) -> None:
        """Have a message wait until it is due."""
        self.waiting[message] = waiting
        self.retake(message, waiting.due)

    def retake(self, message: str, at: int) -> None:
        """Have a message that was taken be taken again, not before an instant in ms; its key stays."""
        self._queued[message] = at
        heapq.heappush(self._queue, (at, message))

    def first(self) -> int | None:
        """When the first message is to be taken, in ms; None where none waits."""
        while self._queue:
            at, message = self._queue[0]
            if self._queued.get(message) == at:
                return at
            heapq.heappop(self._queue)
        return None

    def take(self) -> str:
        """Take the message that `first` is about; it is not taken again until it is scheduled anew."""
        _, message = heapq.heappop(self._queue)
        del self._queued[message]
        return message

    def forget(self, message: str) -> None:
        """Forget a message that waits."""
        self.waiting.pop(message, None)
        self._queued.pop(message, None)

    def settle(self, entry: Done) -> None:
        """Have a message be done."""
        self.forget(entry.message)
        self._finished.add(entry.message)
        insort(self.done, entry)

    def unsettle(self, entry: Done) -> None:
        """Forget a message that is done."""
        del self.done[bisect_left(self.done, entry)]
        self._finished.discard(entry.message)

    def key(self, message: str) -> str:
        """Where a message that waits is kept."""
        return self.key_of(message, self.waiting[message])

    def key_of(self, message: str, waiting: Waiting) -> str:
        """Where a message that waits so is kept."""
        return f"{PENDING}{self.endpoint}/{waiting.due:013d}/{waiting.tried:02d}/{message}"

    def done_key(self, entry: Done) -> str:
        """Where a message that is done is kept."""
        return f"{DONE}{self.endpoint}/{entry.when:013d}/{entry.outcome}/{entry.message}"


class Backlogs:
    """The messages of all endpoints.

    Every method that changes something has made it durable when it returns. Of one message, only one is called at a
    time.
    """

    def __init__(self, kv: KeyValueStore) -> None:
        self._kv = kv
        self._of: dict[str, Backlog] = {}

    async def load(self, endpoints: Iterable[str]) -> None:
        """Read the names of what is kept; what belongs to no endpoint any more is removed."""
        self._of = {endpoint: Backlog(endpoint) for endpoint in endpoints}
        stale: list[str] = []
        async for key in keys_under(self._kv, DONE):
            _, endpoint, when, outcome, message = key.split("/")
            backlog = self._of.get(endpoint)
            if backlog is None or backlog.knows(message):
                stale.append(key)
            else:
                backlog.settle(Done(int(when), outcome, message))
        async for key in keys_under(self._kv, PENDING):
            _, endpoint, due, tried, message = key.split("/")
            backlog = self._of.get(endpoint)
            if backlog is None or (backlog.knows(message) and message not in backlog.waiting):
                stale.append(key)
                continue
            if message in backlog.waiting:
                stale.append(backlog.key(message))
            backlog.schedule(message, Waiting(int(due), int(tried)))
        for key in stale:
            await self._kv.delete(key)

    def of(self, endpoint: str) -> Backlog:
        """The messages of an endpoint."""
        return self._of.setdefault(endpoint, Backlog(endpoint))

    async def add(self, message: Message, *, bound: int) -> bool:
        """Keep a new message; False where it is known already.

        Raises:
            FullError: `bound` messages of its endpoint wait already, or the plugin's quota is used up by such.
        """
        backlog = self.of(message.endpoint)
        if backlog.knows(message.id):
            return False
        if len(backlog.waiting) >= bound:
            raise FullError(f"{bound} messages wait for {message.endpoint} already")
        waiting = _waiting(message)
        backlog.waiting[message.id] = waiting  # known from here on, so that a second delivery of the event adds nothing
        try:
            await self._set(backlog.key(message.id), message)
        except BaseException:  # what is not kept does not wait; raised again
            backlog.forget(message.id)
            raise
        backlog.schedule(message.id, waiting)
        return True

    async def read(self, endpoint: str, message: str) -> Message | None:
        """A message that waits."""
        backlog = self.of(endpoint)
        return await self._read(backlog.key(message)) if message in backlog.waiting else None

    async def postpone(self, message: Message) -> None:
        """Keep a message after a failed attempt, until `message.due`."""
        backlog = self.of(message.endpoint)
        if message.id not in backlog.waiting:
            return  # its endpoint was deleted meanwhile
        old, waiting = backlog.key(message.id), _waiting(message)
        new = backlog.key_of(message.id, waiting)
        await self._set(new, message)
        backlog.schedule(message.id, waiting)
        if new != old:
            await self._kv.delete(old)

    async def finish(self, message: Message, outcome: Fate, now: float, *, kept: int) -> None:
        """Keep what became of a message, and at most `kept` that are done; a failed one keeps its event."""
        backlog = self.of(message.endpoint)
        if message.id not in backlog.waiting:
            return  # its endpoint was deleted meanwhile
        old, when = backlog.key(message.id), _ms(now)
        if outcome == "delivered":
            message = msgspec.structs.replace(message, event=None)
        entry = Done(when, outcome, message.id)
        await self._set(backlog.done_key(entry), message)
        backlog.settle(entry)
        await self._kv.delete(old)
        await self._trim(backlog, max(0, len(backlog.done) - kept))

    async def read_done(self, endpoint: str, entry: Done) -> Message | None:
        """A message that is done."""
        return await self._read(self.of(endpoint).done_key(entry))

    async def revive(self, message: Message, entry: Done, now: float) -> None:
        """Have a failed message wait again, with all its attempts before it."""
        backlog = self.of(message.endpoint)
        fresh = msgspec.structs.replace(message, due=now, failures=0)
        waiting = _waiting(fresh)
        backlog.unsettle(entry)
        backlog.waiting[message.id] = waiting
        try:
            await self._set(backlog.key(message.id), fresh)
        except BaseException:  # what is not kept does not wait; raised again
            backlog.settle(entry)
            raise
        await self._kv.delete(backlog.done_key(entry))
        backlog.schedule(message.id, waiting)

    async def drop(self, endpoint: str) -> None:
        """Forget all messages of an endpoint that is gone."""
        self._of.pop(endpoint, None)
        for prefix in (f"{PENDING}{endpoint}/", f"{DONE}{endpoint}/"):
            async for key in keys_under(self._kv, prefix):
                await self._kv.delete(key)

    async def _read(self, key: str) -> Message | None:
        found = await self._kv.get(key)
        return None if found is None else msgspec.convert(found, Message)

    async def _set(self, key: str, message: Message) -> None:
        """Write, giving up the oldest messages that are done where the quota is used up."""
        while True:
            try:
                await self._kv.set(key, message)
            except HostError as error:
                if error.word != QUOTA:
                    raise
                oldest = min((one for one in self._of.values() if one.done), key=lambda one: one.done[0], default=None)
                if oldest is None:
                    raise FullError("the plugin's quota is used up by messages that wait") from error
                await self._trim(oldest, _TRIMMED_AT_ONCE)
            else:
                return

    async def _trim(self, backlog: Backlog, count: int) -> None:
        for entry in backlog.done[:count]:
            if entry in backlog.done:
                backlog.unsettle(entry)
                await self._kv.delete(backlog.done_key(entry))


def _waiting(message: Message) -> Waiting:
    return Waiting(_ms(message.due), len(message.attempts))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
