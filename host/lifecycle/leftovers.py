"""What an uninstall left behind because the host was stopped in the middle of it: finished at the next start.

The registry forgets a plugin first. A cursor of a plugin that is no longer in it would hold the log for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from host.registry.registry import Registry
from host.routing.event_log import EventLog
from host.routing.replay_store import ReplayStore
from host.scheduling.scheduler import Scheduler
from host.storage.errors import StorageBusyError, StorageFailedError

_log = structlog.get_logger(__name__)


async def clear_leftovers(registry: Registry, log: EventLog, replays: ReplayStore, scheduler: Scheduler) -> None:
    """Drop what belongs to plugins that are not installed: as their uninstall would have, purged or not.

    A plugin that was purged has no history either; the others keep their dead letters and their attempt log.
    """
    installed = {record.id for record in registry.all()}
    for plugin in sorted(await scheduler.plugins() - installed):
        with _apart(plugin):
            await scheduler.forget(plugin)
    for plugin in sorted(await log.plugins() - installed):
        with _apart(plugin):
            purged = await registry.history(plugin) is None
            await replays.cancel_all(plugin)
            if purged:
                await log.forget(plugin)
            elif not await log.retire(plugin, ()):
                continue  # all that is left is what an uninstall keeps
            _log.warning("uninstall_finished", plugin=plugin, purged=purged)


@contextmanager
def _apart(plugin: str) -> Iterator[None]:
    """What cannot be finished for one plugin keeps neither the others' from it, nor the host from starting."""
    try:
        yield
    except (StorageFailedError, StorageBusyError):
        raise
    except Exception:  # noqa: BLE001 - logged with its traceback; the next start tries again
        _log.exception("uninstall_not_finished", plugin=plugin)
