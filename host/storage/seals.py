"""Seals: sets of rows that nobody but the host may change, checked when the host takes them up.

A seal is a MAC over the rows and a serial number that grows with every change. The serial is kept a second time
in a file of its own, so that an older copy of the database, seal and all, is found out too. Who has the key of
the keyring can forge both: it belongs on another disk, or into the credentials directory.
"""

from __future__ import annotations

import asyncio
import hmac
import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from host.storage.beneath import Folder
from host.storage.database import Database
from host.storage.errors import KeyringError, OddFileError, SealBrokenError, unreadable
from host.storage.keyring import Keyring
from host.storage.state_folder import SEALS
from plugin_sdk.worker.file_errors import is_of_the_file

_log = structlog.get_logger(__name__)
MAX_SERIAL: Final = 4096
"""Bytes of a serial's file; one has some 60."""
_SEAL: Final = "SELECT serial, mac FROM seals WHERE name = ?"
_STAMP: Final = "INSERT OR REPLACE INTO seals (name, serial, mac) VALUES (?, ?, ?)"


class Seal:
    """The seal over one set of rows.

    Args:
        database: Where the rows are; the file with the serial stands beside it.
        keyring: Whose key makes the MAC.
        name: What is sealed, in a word.
        rows: Queries whose answers, in their order, are what is sealed.
    """

    def __init__(self, database: Database, keyring: Keyring, name: str, rows: Sequence[str]) -> None:
        self._database = database
        self._keyring = keyring
        self._name = name
        self._rows = tuple(rows)
        self._folder = database.path.parent

    async def check(self) -> None:
        """Hold the rows against their seal, and the seal against the serial in the file.

        Raises:
            SealBrokenError: they were changed, replaced by an older copy, or are no longer sealed.
            StorageFailedError: the machine refuses to say.
        """
        highest = await asyncio.to_thread(self._highest)
        seal, content, empty = await self._database.write(self._read)
        if seal is None and empty and not highest:
            # A fresh host: nothing is there, so nothing is believed. From now on the file is there as well.
            await self.keep(0)
            return
        if seal is None:
            raise SealBrokenError(f"the {self._name} has lost its seal")
        serial, mac = seal
        if highest is None:
            raise SealBrokenError(f"the {self._name} has lost its serial: it may be an older copy")
        if not hmac.compare_digest(mac, self._mac(serial, content)):
            raise SealBrokenError(f"the {self._name} was changed by someone else than this host")
        if serial < highest:
            raise SealBrokenError(f"the {self._name} is an older copy: number {serial} of {highest}")
        if serial > highest:  # the host was stopped between the two writes
            await self.keep(serial)

    def stamp(self, connection: sqlite3.Connection, *, above: int = 0) -> int:
        """Seal the rows as this transaction leaves them, in the writer's thread; pass the serial on to `keep`."""
        seal, content, _ = self._read(connection)
        serial = max(above, 0 if seal is None else seal[0]) + 1
        connection.execute(_STAMP, (self._name, serial, self._mac(serial, content)))
        return serial

    async def keep(self, serial: int) -> None:
        """Note the serial of a seal that is durable; a disk that refuses it is made up for at the next check."""
        try:
            await asyncio.to_thread(self._write, serial)
        except (OSError, OddFileError) as error:
            _log.warning("seal_serial_not_kept", seal=self._name, error=str(error))

    async def renew(self) -> None:
        """Seal what is there, whatever it is: someone has looked at it and answers for it."""
        try:
            highest = await asyncio.to_thread(self._highest)
        except SealBrokenError:
            highest = None
        serial = await self._database.write(lambda connection: self.stamp(connection, above=highest or 0))
        await self.keep(serial)

    def _read(self, connection: sqlite3.Connection) -> tuple[tuple[int, bytes] | None, bytes, bool]:
        seal = connection.execute(_SEAL, (self._name,)).fetchone()
        rows = [[tuple(row) for row in connection.execute(query)] for query in self._rows]
        return (None if seal is None else (int(seal[0]), bytes(seal[1]))), msgspec.json.encode(rows), not any(rows)

    def _mac(self, serial: int, content: bytes) -> bytes:
        return self._keyring.mac(b"%d\n%s" % (serial, content), f"seal:{self._name}")

    def _highest(self) -> int | None:
        """The serial in the file, None where there is none.

        Raises:
            SealBrokenError: it is not what this host wrote.
            StorageFailedError: the machine refuses to read it, which says nothing of what is in it.
        """
        try:
            with Folder.at(self._folder) as folder, folder.below(SEALS) as seals:
                sealed = seals.read(self._name, MAX_SERIAL)
            return int(self._keyring.open(sealed, f"seal:{self._name}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            if not is_of_the_file(error):
                raise unreadable(f"the serial of the {self._name}", error) from error
            raise SealBrokenError(f"the serial of the {self._name} cannot be read: {error}") from None
        except (OddFileError, KeyringError, ValueError) as error:
            raise SealBrokenError(f"the serial of the {self._name} cannot be read: {error}") from None

    def _write(self, serial: int) -> None:
        with Folder.at(self._folder) as folder, folder.below(SEALS, make=0o700) as seals:
            seals.replace(self._name, self._keyring.seal(str(serial), f"seal:{self._name}"))
