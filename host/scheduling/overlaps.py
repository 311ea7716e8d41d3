"""What becomes of a firing while an earlier one of its schedule is not settled, and how that is known."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from host.routing.router import Router
from host.scheduling.misfires import Due, Reason, Skipped
from host.storage.database import Database
from plugin_sdk.calls import SCHEDULES
from plugin_sdk.schedule import Schedule

# A retry counts before the cursor: an attempt that is under way may stand there, settled above the cursor as read.
# Without a cursor nobody will ever deliver it.
_UNSETTLED: Final = (
    "SELECT asked.value FROM json_each(?2) AS asked "
    "WHERE EXISTS (SELECT 1 FROM retries WHERE subscription = ?1 AND sequence = asked.value) "
    "OR (asked.value > (SELECT position FROM cursors WHERE subscription = ?1) "
    "AND NOT EXISTS (SELECT 1 FROM settled_ahead WHERE subscription = ?1 AND sequence = asked.value))"
)


class FiringOutcomes(Protocol):
    """Which firings are still to be dealt with."""

    async def unsettled(self, plugin: str, sequences: Collection[int]) -> set[int]:
        """Those of the firings (by their sequence in the log) whose delivery has no outcome yet."""
        ...


class FiringCancels(Protocol):
    """A way to end a firing's delivery before it ends by itself."""

    def cancel(self, plugin: str, sequence: int) -> bool:
        """Have the delivery of a firing dropped; False where there is none that could be."""
        ...


class LogOutcomes:
    """`FiringOutcomes` out of the cursors and retries in the database; reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unsettled(self, plugin: str, sequences: Collection[int]) -> set[int]:
        """Those of the firings whose delivery has no outcome yet; one query, however many are asked for."""
        if not sequences:
            return set()
        asked = json.dumps(sorted(sequences))
        rows = await self._database.read(_UNSETTLED, (f"{plugin}/{SCHEDULES}", asked))
        return {row[0] for row in rows}


class ConsumerCancels:
    """`FiringCancels` by way of the consumer that delivers a plugin's firings."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def cancel(self, plugin: str, sequence: int) -> bool:
        """Have a delivery dropped, whether it runs or waits; False where the plugin is not hosted."""
        consumer = self._router.consumer(f"{plugin}/{SCHEDULES}")
        if consumer is None:
            return False
        consumer.supersede(sequence)
        return True


@dataclass(frozen=True, slots=True)
class Admitted:
    """What may fire now, what waits for its turn, what was skipped, and whether what runs is to be cancelled."""

    fire: tuple[Due, ...]
    queued: float | None
    skipped: tuple[Skipped, ...]
    cancel: bool = False


def admit(schedule: Schedule, running: int, queued: float | None, came: Sequence[Due]) -> Admitted:
    """Apply the overlap policy to what came due, the waiting firing before it, while `running` are not settled."""
    pending = [*([] if queued is None else [Due(queued, Reason.QUEUED)]), *came]
    if schedule.overlap == "cancel-previous":
        return Admitted(tuple(pending[-1:]), None, _overlapped(pending[:-1]), cancel=bool(pending) and running > 0)
    room = max(0, schedule.max_running - running) if schedule.overlap == "allow" else int(not running)
    fire, left = pending[:room], pending[room:]
    waiting = None
    if schedule.overlap == "queue" and left:
        waiting, left = left[0].due, left[1:]
    return Admitted(tuple(fire), waiting, _overlapped(left))


def _overlapped(left: Sequence[Due]) -> tuple[Skipped, ...]:
    return (Skipped(left[0].due, left[-1].due, len(left), Reason.OVERLAP),) if left else ()
