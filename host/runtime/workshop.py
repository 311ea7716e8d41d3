"""What workers are made with, and how much is taken from each: one `Workshop` for a host."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from host.runtime.cpu_watch import CpuWatch
from host.runtime.data_watch import DataWatch
from host.runtime.fork_server import ForkServer
from host.runtime.requests import RequestRates
from host.runtime.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What the host takes from a worker. Times are in seconds.

    Attributes:
        heartbeat: Between a worker's signs of life.
        unread: How long it may leave unread what the host sends.
        messages: Messages a second that are no answers; above it, it is read more slowly.
        arriving: Bytes a second of all that it sends; above it, too.
        log_lines: Lines a second that are kept; more are counted and dropped.
        rates: Its requests.
    """

    heartbeat: float = 0.5
    unread: float = 5.0
    messages: float = 2000.0
    arriving: float = 32.0 * 2**20
    log_lines: float = 500.0
    rates: RequestRates = field(default_factory=RequestRates)


class Closer(Protocol):
    """Something that was opened for a worker and is closed when it ends."""

    def close(self) -> None:
        """End it."""
        ...


class Egress(Protocol):
    """Serves the doors of workers: the one way to the network."""

    def open(self, plugin: str, granted: tuple[str, ...], listener: socket.socket) -> Closer:
        """Serve a door, and let through what is granted."""
        ...


@dataclass(frozen=True, slots=True)
class Workshop:
    """What workers are made with; one for a host.

    `modified` is called with the id of a plugin whose files on disk a worker found to be other than were verified.
    """

    fork_server: ForkServer
    sandbox: Sandbox
    limits: WorkerLimits = WorkerLimits()
    data_watch: DataWatch | None = None
    cpu_watch: CpuWatch | None = None
    egress: Egress | None = None
    modified: Callable[[str], None] = lambda _plugin: None
