"""What purged plugins kept, their keys, values and data folders: gone before anyone else comes under their id.

That it is to go is written in the transaction that ends the plugin's record. So it goes, whenever the host was
killed meanwhile, and whoever installs a plugin of the same id is not started before it is gone. Keys and values are in
another file than that debt, and the folder in none: they go first, each in steps that can be taken twice, and the debt
is crossed out last.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from host.lifecycle.errors import PurgeUnfinishedError
from host.lifecycle.trouble import sentence
from host.port.key_values import KeyValues
from host.runtime.data_removal import remove_aside, set_aside
from host.runtime.examiner import EXAMINED
from host.storage.database import Database

_log = structlog.get_logger(__name__)


class Purges:
    """Removes what purged plugins kept.

    Args:
        database: Where it is written whose belongings are to go.
        key_values: Keys and values of all plugins.
        data: The folder with the data folders of all plugins.
    """

    def __init__(self, database: Database, key_values: KeyValues, data: Path) -> None:
        self._database = database
        self._key_values = key_values
        self._data = data
        # Whether a folder is the purged plugin's or that of the next is known only as long as nobody else moves it.
        self._clearing = asyncio.Lock()

    async def clear(self, plugin: str) -> None:
        """Forget keys and values and take the folder out of reach, if they are to go.

        No worker of the purged plugin may run any more.

        Raises:
            PurgeUnfinishedError: the folder is still there.
        """
        async with self._clearing:
            if not await self._database.read("SELECT 1 FROM purges WHERE plugin = ?", (plugin,)):
                return
            await self._key_values.purge(plugin)
            try:
                await asyncio.to_thread(set_aside, self._data, plugin)
            except OSError as error:
                raise PurgeUnfinishedError(
                    f"the data folder of {plugin} could not be taken away ({error.strerror}): look at "
                    f"{self._data / plugin}; no plugin of this id is started before it is gone"
                ) from None
            await self._database.write(
                lambda connection: connection.execute("DELETE FROM purges WHERE plugin = ?", (plugin,)).rowcount
            )

    async def sweep(self) -> None:
        """Remove what was taken out of reach.

        Raises:
            PurgeUnfinishedError: not all of it could be.
        """
        try:
            left = await asyncio.to_thread(remove_aside, self._data)
        except OSError as error:
            raise PurgeUnfinishedError(f"{self._data} cannot be read ({error.strerror}): look at the disk") from None
        if left:
            raise PurgeUnfinishedError(
                f"{left} data folders are out of every plugin's reach, but could not be removed: look at the disk and "
                f"at {self._data}/.removed-*; it is tried again at the next start"
            )

    async def resume(self) -> None:
        """Finish what a stop of the host interrupted, throw-away folders of examinations included; call at the start.

        What cannot be finished is in the log: the host starts all the same, and the plugin in question does not.
        """
        for row in await self._database.read("SELECT plugin FROM purges"):
            try:
                await self.clear(row["plugin"])
                _log.warning("purge_finished", plugin=row["plugin"])
            except Exception as error:  # noqa: BLE001 - logged; nothing starts under this id before it is cleared
                _log.error("data_not_removed", plugin=row["plugin"], reason=sentence(error))
        try:
            await asyncio.to_thread(set_aside, self._data, EXAMINED)
            await self.sweep()
        except (PurgeUnfinishedError, OSError) as error:
            _log.error("data_not_removed", reason=str(error))
