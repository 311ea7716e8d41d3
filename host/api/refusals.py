"""Requests that were refused for want of permission: each is counted, and leaves its trace in the audit trail.

Whoever is refused chooses how often. So the trail has the first refusal of each kind (who, what, why) of an address
before its answer goes out, and the others as a count, once for each `INTERVAL`. However many there are, of however
many addresses, an interval has at most `AT_ONCE + LISTED + 1` entries, and the trail keeps them apart from changes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog
from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily

from host.errors import BusbarError
from host.identity.peers import counted_as
from host.observe.audit import Audit

ACTION: Final = "access.refuse"
FIRST: Final = 10
"""Kinds of refusals of one address that have an entry each in an interval, for the first of them."""
AT_ONCE: Final = 60
"""Such entries of all addresses together in an interval; each costs a write to the disk."""
LISTED: Final = 20
"""Addresses with an entry for their count, those with the most; the others share one."""
INTERVAL: Final = 60.0
"""Seconds for which refusals are counted together."""
MAX_ADDRESSES: Final = 1024
"""Addresses that are told apart in an interval."""
OTHERS: Final = "others"
_SHOWN: Final = 200

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was refused.

    Attributes:
        actor: Who asked: `token:…`, `anonymous`, or `unknown` for a token that nobody knows.
        remote: The address it came from.
        method: Of HTTP.
        route: The path of the endpoint, with its parts unnamed.
        path: The path that was asked for.
        status: What was answered.
        code: The word of the refusal.
        token: The id of the token, where it has one.
    """

    actor: str
    remote: str | None
    method: str
    route: str
    path: str
    status: int
    code: str
    token: str = ""


class Notes(Protocol):
    """Whoever is told of refusals."""

    async def note(self, refused: Refused) -> None:
        """As `Refusals.note`."""
        ...


@dataclass(slots=True)
class _Address:
    """What an address was refused in this interval. `counted` are those without an entry of their own."""

    written: set[tuple[str, str, str]] = field(default_factory=set)
    counted: Counter[str] = field(default_factory=Counter)
    last: Refused | None = None


class Refusals:
    """Counts refusals, and writes them into the audit trail."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._addresses: dict[str, _Address] = {}
        self._at_once = 0
        self._counts: Counter[tuple[int, str]] = Counter()

    async def note(self, refused: Refused) -> None:
        """Count a refusal; where it is the first of its kind, its entry is durable when this returns.

        A trail that cannot be written now makes it one that is counted: the request is refused in any case.
        """
        self._counts[refused.status, refused.code] += 1
        address = counted_as(refused.remote)
        if address not in self._addresses and len(self._addresses) >= MAX_ADDRESSES:
            address = OTHERS
        known = self._addresses.setdefault(address, _Address())
        kind = (refused.actor, _target(refused), refused.code)
        few = len(known.written) < FIRST and self._at_once < AT_ONCE and address != OTHERS
        if few and kind not in known.written:
            known.written.add(kind)
            self._at_once += 1
            if await self._record(refused.actor, _target(refused), _detail(address, refused)):
                return
        known.counted[refused.code] += 1
        known.last = refused

    async def run(self) -> None:
        """Write what was counted, once for each interval, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.write()

    async def write(self) -> None:
        """Write what was counted, and begin another interval."""
        found, self._addresses = self._addresses, {}
        self._at_once = 0
        rest = found.pop(OTHERS, _Address()).counted
        counted = {address: known for address, known in found.items() if known.last is not None}
        ranked = sorted(counted, key=lambda address: counted[address].counted.total(), reverse=True)
        for address in ranked[:LISTED]:
            known = counted[address]
            if known.last is not None:
                detail = {**_detail(address, known.last), "more": dict(known.counted)}
                await self._record(known.last.actor, _target(known.last), detail)
        for address in ranked[LISTED:]:
            rest += counted[address].counted
        if rest:
            addresses = max(0, len(ranked) - LISTED)
            await self._record("anonymous", "-", {"address": OTHERS, "addresses": addresses, "more": dict(rest)})

    def metrics(self) -> Iterator[Metric]:
        """As metrics."""
        refusals = CounterMetricFamily(
            "busbar_http_refusals", "Requests refused for want of permission.", labels=("status", "code")
        )
        for (status, code), count in sorted(self._counts.items()):
            refusals.add_metric((str(status), code), count)
        yield refusals

    async def _record(self, actor: str, target: str, detail: dict[str, Any]) -> bool:
        """Write an entry; whether it could be."""
        try:
            await self._audit.record(actor=actor, action=ACTION, target=target, detail=detail, outcome="refused")
        except BusbarError as error:
            _log.warning("refusal_not_audited", code=error.word, reason=error.message, refused=detail)
            return False
        return True


def _target(refused: Refused) -> str:
    return f"{refused.method[:16]} {refused.route}"


def _detail(address: str, refused: Refused) -> dict[str, Any]:
    path = refused.path.encode("utf-8", "backslashreplace").decode()[:_SHOWN]
    detail = {"address": address, "path": path, "status": refused.status, "code": refused.code}
    return {**detail, "token": refused.token} if refused.token else detail
