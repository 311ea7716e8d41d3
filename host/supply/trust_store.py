"""The trust store: which publishers and keys this host believes, for which plugin ids, until when."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

from host.storage.database import Database
from host.supply.errors import KeyRefusedError, PublisherNotFoundError, PublisherRefusedError
from host.supply.keys import PublicKey
from plugin_sdk.clock import Clock

PUBLISHER_ID: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_PUBLISHERS: Final = 1000
MAX_KEYS: Final = 32
MAX_TEXT: Final = 500
MAX_DROP_IN: Final = 256 * 1024


class KeyState(Enum):
    """`retired` keys verify what is installed, not what is new; `revoked` ones verify nothing."""

    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key of a publisher. Times are seconds since the epoch; None is without a bound."""

    public: PublicKey
    not_before: float | None = None
    not_after: float | None = None
    state: KeyState = KeyState.ACTIVE
    reason: str = ""
    changed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who signs, with which keys, and for which plugins: ids, or namespaces that reach to the next `-`."""

    id: str
    title: str
    plugins: tuple[str, ...]
    keys: tuple[TrustedKey, ...]
    max_isolation: str = "process"
    contact: str = ""

    def may_sign(self, plugin: str) -> bool:
        """Whether `plugin` is in one of the publisher's namespaces (PEP 752: equal, or starts with `name-`)."""
        name = canonicalize_name(plugin)
        return any(name == own or name.startswith(own + "-") for own in map(canonicalize_name, self.plugins))


@dataclass(frozen=True, slots=True)
class TrustSnapshot:
    """The trust store at one instant; what verification decides by."""

    publishers: tuple[Publisher, ...]

    def publisher(self, publisher: str) -> Publisher | None:
        """The publisher of that id."""
        return next((one for one in self.publishers if one.id == publisher), None)


class TrustStore:
    """Publishers and keys, in the host's database. Every change is one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change."""
        self._listeners.append(changed)

    async def snapshot(self) -> TrustSnapshot:
        """The whole store, as it stands."""
        publishers = await self._database.read("SELECT * FROM publishers ORDER BY id")
        keys = await self._database.read("SELECT * FROM publisher_keys ORDER BY publisher, changed_at, kid")
        by_publisher: dict[str, list[TrustedKey]] = {}
        for row in keys:
            by_publisher.setdefault(row["publisher"], []).append(_key(row))
        return TrustSnapshot(
            tuple(
                Publisher(
                    id=row["id"],
                    title=row["title"],
                    plugins=tuple(json.loads(row["plugins"])),
                    keys=tuple(by_publisher.get(row["id"], ())),
                    max_isolation=row["max_isolation"],
                    contact=row["contact"],
                )
                for row in publishers
            )
        )

    async def get(self, publisher: str) -> Publisher:
        """One publisher.

        Raises:
            PublisherNotFoundError: there is none of that id.
        """
        found = (await self.snapshot()).publisher(publisher)
        if found is None:
            raise PublisherNotFoundError(f"publisher {publisher} not found: GET /api/v1/publishers lists them")
        return found

    async def add(self, publisher: Publisher, *, replace: bool = False) -> None:
        """Trust a publisher.

        Raises:
            PublisherRefusedError: it is malformed, or there is one of that id and `replace` is not set. A
                replaced publisher keeps the state of keys that were revoked or retired.
        """
        check(publisher)
        known = (await self.snapshot()).publisher(publisher.id)
        if known is not None and not replace:
            raise PublisherRefusedError(
                f"publisher {publisher.id} exists: add a key to it, or remove it first",
                code="publisher_exists",
            )
        now = self._clock.now().timestamp()
        kept = {key.public.id for key in known.keys if key.state is not KeyState.ACTIVE} if known else set()
        row = (
            publisher.id,
            publisher.title,
            json.dumps(publisher.plugins),
            publisher.max_isolation,
            publisher.contact,
            now,
        )
        rows = [_row(publisher.id, key, now) for key in publisher.keys if key.public.id not in kept]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO publishers (id, title, plugins, max_isolation, contact, added_at) "
                "VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET title = excluded.title, plugins = excluded.plugins, "
                "max_isolation = excluded.max_isolation, contact = excluded.contact",
                row,
            )
            connection.execute("DELETE FROM publisher_keys WHERE publisher = ? AND state = 'active'", (publisher.id,))
            connection.executemany(_INSERT_KEY, rows)

        await self._database.write(write)
        self._tell()

    async def remove(self, publisher: str) -> None:
        """Trust a publisher no more.

        Raises:
            PublisherNotFoundError: there is none of that id.
        """
        await self.get(publisher)
        await self._database.write(
            lambda connection: _execute(connection, "DELETE FROM publishers WHERE id = ?", (publisher,))
        )
        self._tell()

    async def add_key(self, publisher: str, key: TrustedKey) -> None:
        """Trust one more key of a publisher.

        Raises:
            PublisherNotFoundError: there is no such publisher.
            PublisherRefusedError: it has the key already, or too many.
        """
        known = await self.get(publisher)
        if any(one.public == key.public for one in known.keys):
            raise PublisherRefusedError(f"{publisher} has this key already; its state is kept", code="key_exists")
        if len(known.keys) >= MAX_KEYS:
            raise PublisherRefusedError(f"a publisher has at most {MAX_KEYS} keys")
        row = _row(publisher, key, self._clock.now().timestamp())
        await self._database.write(lambda connection: _execute(connection, _INSERT_KEY, row))
        self._tell()

    async def revoke_key(self, publisher: str, key_id: str, reason: str) -> None:
        """Believe nothing that this key signed, for ever.

        Raises:
            PublisherNotFoundError: there is no such publisher or key.
        """
        known = await self.get(publisher)
        if not any(one.public.id == key_id for one in known.keys):
            raise PublisherNotFoundError(f"{publisher} has no key {key_id}", code="key_not_found")
        values = (reason[:MAX_TEXT], self._clock.now().timestamp(), publisher, key_id)
        await self._database.write(
            lambda connection: _execute(
                connection,
                "UPDATE publisher_keys SET state = 'revoked', reason = ?, changed_at = ? "
                "WHERE publisher = ? AND kid = ?",
                values,
            )
        )
        self._tell()

    async def load_drop_ins(self, folder: Path) -> tuple[str, ...]:
        """Take the publishers of `*.toml` files in a folder; the ids taken. A missing folder holds none.

        Raises:
            PublisherRefusedError: a file is malformed; it is named, and none after it is taken.
        """
        taken: list[str] = []
        for path in await asyncio.to_thread(lambda: sorted(folder.glob("*.toml"))):
            publisher = await asyncio.to_thread(read_drop_in, path)
            known = (await self.snapshot()).publisher(publisher.id)
            if known is None or not _same(known, publisher):
                await self.add(publisher, replace=True)
                taken.append(publisher.id)
        return tuple(taken)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def check(publisher: Publisher) -> None:
    """Refuse a malformed publisher.

    Raises:
        PublisherRefusedError: with what is wrong.
    """
    if not PUBLISHER_ID.fullmatch(publisher.id) or len(publisher.id) > 64:  # noqa: PLR2004 - the rule
        raise PublisherRefusedError("a publisher's id has lower-case letters and digits in words joined by '-'")
    if not publisher.plugins:
        raise PublisherRefusedError(f"publisher {publisher.id} must name the plugins it may sign")
    for name in publisher.plugins:
        if not PUBLISHER_ID.fullmatch(name):
            raise PublisherRefusedError(f"'{name}' is no plugin id and no namespace")
    if not 0 < len(publisher.keys) <= MAX_KEYS:
        raise PublisherRefusedError(f"a publisher has 1 to {MAX_KEYS} keys")
    if publisher.max_isolation not in {"process", "inline"}:
        raise PublisherRefusedError("maxIsolation is 'process' or 'inline'")
    for text in (publisher.title, publisher.contact):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise PublisherRefusedError(f"titles and contacts are printable, and at most {MAX_TEXT} characters")


def read_drop_in(path: Path) -> Publisher:
    """The publisher of one drop-in file: a `[publisher]` table and `[[keys]]`.

    Raises:
        PublisherRefusedError: it is malformed.
    """
    try:
        if path.stat().st_size > MAX_DROP_IN:
            raise PublisherRefusedError(f"{path} is larger than {MAX_DROP_IN} bytes")
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        about = found["publisher"]
        unknown = set(about) - {"id", "title", "plugins", "max_isolation", "contact"} | set(found) - {
            "publisher",
            "keys",
        }
        if unknown:
            raise PublisherRefusedError(f"{path}: unknown key '{min(unknown)}'")
        return Publisher(
            id=str(about["id"]),
            title=str(about.get("title", about["id"])),
            plugins=tuple(str(name) for name in about["plugins"]),
            keys=tuple(
                TrustedKey(
                    PublicKey.parse(str(key["public"])),
                    _instant(key.get("not_before")),
                    _instant(key.get("not_after")),
                )
                for key in found["keys"]
            ),
            max_isolation=str(about.get("max_isolation", "process")),
            contact=str(about.get("contact", "")),
        )
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError, AttributeError, KeyRefusedError) as error:
        raise PublisherRefusedError(f"{path} is no publisher: {error}") from None
    except KeyError as error:
        raise PublisherRefusedError(f"{path} is no publisher: there is no {error}") from None


_INSERT_KEY: Final = (
    "INSERT OR IGNORE INTO publisher_keys (publisher, kid, public, not_before, not_after, state, reason, changed_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def _row(publisher: str, key: TrustedKey, now: float) -> tuple[Any, ...]:
    return (
        publisher,
        key.public.id,
        str(key.public),
        key.not_before,
        key.not_after,
        key.state.value,
        key.reason,
        now,
    )


def _key(row: sqlite3.Row) -> TrustedKey:
    return TrustedKey(
        PublicKey.parse(row["public"]),
        row["not_before"],
        row["not_after"],
        KeyState(row["state"]),
        row["reason"],
        row["changed_at"],
    )


def _same(known: Publisher, wanted: Publisher) -> bool:
    def keys(publisher: Publisher) -> set[tuple[str, float | None, float | None]]:
        return {(key.public.id, key.not_before, key.not_after) for key in publisher.keys}

    return (known.title, known.plugins, known.max_isolation, known.contact) == (
        wanted.title,
        wanted.plugins,
        wanted.max_isolation,
        wanted.contact,
    ) and keys(wanted) <= keys(known)


def _instant(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise PublisherRefusedError("not_before and not_after are TOML times with an offset")
    return value.astimezone(UTC).timestamp()


def _execute(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> None:
    connection.execute(sql, parameters)
