"""What the host and its HTTP processes say to each other: values in MessagePack, one after the other.

Both ends are of one installation, so there is one version of this.
"""

from __future__ import annotations

from typing import Final

import msgspec

from host.api.refusals import Refused
from host.identity.access import Token


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """To a process, first of all: what it serves with.

    Attributes:
        max_event: Bytes of one event.
        body_bytes: Bytes of bodies that are received at once.
        head: Seconds, as all of `Deadlines`.
        log_level: What is logged, as in the settings.
        log_format: The same.
    """

    max_event: int
    body_bytes: int
    head: float
    body: float
    idle: float
    answer: float
    log_level: str
    log_format: str


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """From a process: it takes connections."""


class Moved(msgspec.Struct, tag="moved", frozen=True):
    """A connection changes sides; its socket travels beside this.

    Attributes:
        number: What the host knows it by.
        address: Of its peer, as `counted_as` has it.
        came: What was read from it and not served: the beginning of its next request.
    """

    number: int
    address: str
    came: bytes


class Gone(msgspec.Struct, tag="gone", frozen=True):
    """From a process: a connection that it had is closed."""

    number: int


class MakeRoom(msgspec.Struct, tag="room", frozen=True):
    """To a process: the place of a connection is needed. It ends it as soon as no request is served on it."""

    number: int


class KnownTokens(msgspec.Struct, tag="tokens", frozen=True):
    """To a process: every token that there is, by the hash of its secret. It answers `InForce` with the same number."""

    change: int
    tokens: dict[bytes, Token]


class InForce(msgspec.Struct, tag="in-force", frozen=True):
    """From a process: it goes by the tokens of this change."""

    change: int


class Publish(msgspec.Struct, tag="publish", frozen=True):
    """From a process: append these events, which are JSON and were checked. `Published` answers them in their order."""

    number: int
    events: list[bytes]


class Taken(msgspec.Struct, tag="taken", frozen=True):
    """An event that is durable."""

    sequence: int
    duplicate: bool


class Denied(msgspec.Struct, tag="denied", frozen=True):
    """An event that was refused: a `BusbarError`; `kind` is the value of its kind."""

    code: str
    message: str
    kind: int
    retry_after: float | None
    errors: tuple[str, ...]


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """An event at which the host itself failed; its log has why."""


class Published(msgspec.Struct, tag="published", frozen=True):
    """To a process: what became of the events of one `Publish`."""

    number: int
    results: list[Taken | Denied | Failed]


class Note(msgspec.Struct, tag="note", frozen=True):
    """From a process: a request that was refused for want of permission. `Noted` says that its trace is durable."""

    number: int
    refused: Refused


class Noted(msgspec.Struct, tag="noted", frozen=True):
    """To a process: see `Note`."""

    number: int


class Counted(msgspec.Struct, tag="counted", frozen=True):
    """From a process: what it has counted since it last said so.

    Attributes:
        requests: How many requests of each method and status.
        seconds: How long they took together.
        cuts: How many connections were ended, by the reason.
        last: The address of the last of them.
    """

    requests: list[tuple[str, int, int]]
    seconds: float
    cuts: dict[str, int]
    last: str


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """To a process: let the requests that are served end within `grace` seconds, then end."""

    grace: float


ToProcess = Begin | Moved | MakeRoom | KnownTokens | Published | Noted | Stop
ToHost = Ready | Moved | Gone | InForce | Publish | Note | Counted

WITH_SOCKET: Final = Moved
"""The one message that a socket travels beside."""
