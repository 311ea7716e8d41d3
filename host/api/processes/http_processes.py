"""The host's HTTP processes: which connections they get, and what is done with what they say.

Each is kept as a background part of the host: one that dies is started again after a wait that doubles. Meanwhile, and
where there are none, the host serves what they would have.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Final

import structlog
from prometheus_client.core import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from host.api.connection import Connection
from host.api.connection_counts import Cut
from host.api.connections import Connections
from host.api.processes.http_process import Away, HttpProcess
from host.api.processes.ordinary import Judge, ordinary
from host.api.processes.wire import (
    Begin,
    Counted,
    Denied,
    Failed,
    Gone,
    KnownTokens,
    Moved,
    Note,
    Noted,
    Publish,
    Published,
    Taken,
    ToHost,
)
from host.api.refusals import Refusals
from host.api.resources.publishing import BATCH_BODIES, Publisher
from host.errors import BusbarError
from host.identity.access import Tokens
from host.observe.metrics import RequestCounts
from host.routing.event_log import Appended
from host.storage.errors import disk_failure
from plugin_sdk.events import Event

IN_FORCE_SECONDS: Final = 5.0
"""How long a process may take to go by other tokens, before it is killed for it."""

_log = structlog.get_logger(__name__)


class HttpProcessEndedError(RuntimeError):
    """An HTTP process is gone."""


class HttpProcesses:
    """All of them.

    Args:
        begin: What each serves with.
        connections: The host's own, among which those of the processes count.
        tokens: That they go by.
        bus: Where they publish.
        refusals: Told of what they refuse.
        counts: Where their requests are counted.
    """

    def __init__(
        self,
        begin: Begin,
        connections: Connections,
        tokens: Tokens,
        bus: Publisher,
        refusals: Refusals,
        counts: RequestCounts,
    ) -> None:
        self._begin = begin
        self._connections = connections
        self._tokens = tokens
        self._bus = bus
        self._refusals = refusals
        self._counts = counts
        self._judge = Judge(tokens.table, BATCH_BODIES * begin.max_event)
        self._running: list[HttpProcess] = []
        self._numbers = itertools.count(1)
        self._change = 0
        self._stopping = False
        self._doing: set[asyncio.Task[None]] = set()
        connections.mover = self
        tokens.listen(self._changed)

    async def live(self) -> None:
        """One life of one process.

        Raises:
            HttpProcessEndedError: it is over.
            OSError: it did not even begin.
        """
        process = HttpProcess(self._told)
        try:
            await process.start()
            self._running.append(process)  # at once, so that it hears of every change after these
            process.send(self._begin)
            process.send(self._known())
            status = await process.ended()
        finally:
            if process in self._running:
                self._running.remove(process)
            await process.kill()
            for away in tuple(process.away.values()):
                self._connections.forget(away)
            process.away.clear()
        if self._stopping:
            await asyncio.Event().wait()  # it was told to end, and whoever keeps it is about to be, too
        raise HttpProcessEndedError(f"it ended with status {status}")

    async def stop(self, grace: float) -> None:
        """Give them no more connections, let what they serve end within `grace` seconds, then end them."""
        self._stopping = True
        self._connections.mover = None
        await asyncio.gather(*(process.stop(grace) for process in self._running))

    def offer(self, connection: Connection, came: bytes) -> bool:
        """Hand a connection over, where a process is to serve its next request; whether it was."""
        takers = [process for process in self._running if process.takes_more]
        if not takers or self._judge(came) is None:
            return False
        process = min(takers, key=lambda one: len(one.away))
        try:
            descriptor = connection.leave()
        except OSError:
            return False
        away = Away(next(self._numbers), connection.address, connection.moves + 1, self._connections.now, process)
        process.away[away.number] = away
        process.send(Moved(away.number, away.address, came), descriptor)
        self._connections.hold(away)
        self._connections.forget(connection)
        connection.let_go()
        return True

    def whole(self, came: bytes) -> bool:
        """Whether this is one ordinary request to its last byte, and nothing more."""
        found = ordinary(came)
        return found is not None and found.head + found.body == len(came)

    def metrics(self) -> Iterator[Metric]:
        """As metrics."""
        ready = sum(process.ready for process in self._running)
        return figures(ready, sum(len(process.away) for process in self._running))

    def _known(self) -> KnownTokens:
        return KnownTokens(self._change, self._tokens.table.by_hash)

    async def _changed(self) -> None:
        """The tokens are others now: it is over when every process goes by them."""
        self._change += 1
        known = self._known()
        await asyncio.gather(*(process.go_by(known, IN_FORCE_SECONDS) for process in self._running))

    def _told(self, process: HttpProcess, message: ToHost, beside: socket.socket | None) -> None:
        match message:
            case Publish():
                self._do(self._publish(process, message))
            case Moved() if beside is not None:
                self._back(process, message, beside)
            case Gone():
                self._forget(process, message.number)
            case Counted():
                self._counts.add(message.requests, message.seconds)
                for why, count in message.cuts.items():
                    self._connections.counts.cut(Cut(why), message.last, count)
            case Note():
                self._do(self._note(process, message))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what a process waits for; how much that is at once, it bounds itself."""
        task = asyncio.get_running_loop().create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    def _forget(self, process: HttpProcess, number: int) -> Away | None:
        away = process.away.pop(number, None)
        if away is not None:
            self._connections.forget(away)
        return away

    def _back(self, process: HttpProcess, message: Moved, beside: socket.socket) -> None:
        away = self._forget(process, message.number)
        self._connections.adopt(message.address, beside, message.came, moves=0 if away is None else away.moves)

    async def _publish(self, process: HttpProcess, message: Publish) -> None:
        results: Sequence[Taken | Denied | Failed]
        try:
            found = await self._bus.publish_many([Event.trusted(body) for body in message.events])
            results = [_result(one) for one in found]
        except Exception as error:  # noqa: BLE001 - logged with its traceback, and answered
            results = [_failure(error)] * len(message.events)
        process.send(Published(message.number, list(results)))

    async def _note(self, process: HttpProcess, message: Note) -> None:
        await self._refusals.note(message.refused)
        process.send(Noted(message.number))


def _result(found: Appended | BusbarError) -> Taken | Denied:
    if isinstance(found, Appended):
        return Taken(found.sequence, found.duplicate)
    return Denied(found.word, found.message, found.kind.value, found.retry_after, found.errors)


def _failure(error: Exception) -> Denied | Failed:
    full = disk_failure(error) if isinstance(error, OSError) else None
    if full is not None:
        _log.warning("disk_refused", reason=str(error))
        return Denied(full.word, full.message, full.kind.value, full.retry_after, full.errors)
    _log.exception("publishing_failed", exc_info=error)
    return Failed()


def figures(ready: int, connections: int) -> Iterator[Metric]:
    """So many HTTP processes that serve, and connections that they have, as metrics; zeros where there are none."""
    yield GaugeMetricFamily("busbar_http_processes", "HTTP processes that serve requests.", value=ready)
    yield GaugeMetricFamily("busbar_http_processes_connections", "Connections that they have.", value=connections)
