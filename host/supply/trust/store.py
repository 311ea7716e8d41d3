"""The trust store: which publishers and keys this host believes, for which plugin ids, until when.

It is sealed: what is found changed at the start, or is an older copy, is believed in no part until an administrator
has looked at it and confirmed it. What was read at the start is kept in memory, and only this host changes it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from host.storage.database import Database
from host.storage.errors import SealBrokenError
from host.storage.keyring import Keyring
from host.storage.seals import Seal
from host.supply.errors import (
    PolicyNotFoundError,
    PolicyRefusedError,
    PublisherNotFoundError,
    PublisherRefusedError,
    TrustStoreTamperedError,
)
from host.supply.trust.keys import PublicKey
from host.supply.trust.publishers import (
    MAX_KEYS,
    MAX_TEXT,
    KeyState,
    Publisher,
    TrustedKey,
    TrustPolicy,
    TrustSnapshot,
    check_policy,
    check_publisher,
)
from plugin_sdk.clock import Clock

MAX_PUBLISHERS: Final = 1000
MAX_POLICIES: Final = 1000
MAX_KEPT: Final = 1000
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

_PUBLISHERS: Final = "SELECT id, title, plugins, max_isolation, contact FROM publishers ORDER BY id"
_KEYS: Final = (
    "SELECT publisher, public, not_before, not_after, state, reason, changed_at FROM publisher_keys "
    "ORDER BY publisher, changed_at, kid"
)
_POLICIES: Final = "SELECT namespace, threshold, publishers, predicates FROM trust_policies ORDER BY namespace"
_KEPT: Final = "SELECT sha256, reason FROM trust_kept ORDER BY sha256"
_REVOKED: Final = "SELECT kid, publisher FROM revoked_keys ORDER BY kid"
_SEALED: Final = (_PUBLISHERS, _KEYS, _POLICIES, _KEPT, _REVOKED)

_SAVE_PUBLISHER: Final = (
    "INSERT INTO publishers (id, title, plugins, max_isolation, contact, added_at) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET title = excluded.title, plugins = excluded.plugins, "
    "max_isolation = excluded.max_isolation, contact = excluded.contact"
)
_SAVE_KEY: Final = (
    "INSERT OR REPLACE INTO publisher_keys "
    "(publisher, kid, public, not_before, not_after, state, reason, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_REVOKE_FOR_EVER: Final = "INSERT OR IGNORE INTO revoked_keys (kid, publisher, reason, at) VALUES (?, ?, ?, ?)"

_log = structlog.get_logger(__name__)


class TrustStore:
    """Publishers, keys and policies, in the host's database. Every change is one transaction.

    `load` is called once, before anything else.
    """

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._seal = Seal(database, keyring, "trust store", _SEALED)
        self._listeners: list[Callable[[], None]] = []
        self._held = TrustSnapshot(())
        self._revoked: dict[str, str] = {}
        self._changing = asyncio.Lock()
        self.tampered = ""

    async def load(self) -> None:
        """Read what the database holds, and whether it is what this host wrote."""
        try:
            await self._seal.check()
        except SealBrokenError as error:
            self.tampered = error.message
            _log.error("trust_store_tampered", reason=error.message)
        except sqlite3.Error as error:
            self.tampered = f"the trust store holds what this host cannot have written: {error}"
        try:
            await self._read()
        except (ValueError, TypeError, LookupError, sqlite3.Error) as error:
            # No row that this host wrote: it is believed in no part, and the host says so to whoever asks.
            self.tampered = f"the trust store holds what cannot be read ({type(error).__name__}: {error})"
            _log.error("trust_store_tampered", reason=self.tampered)

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change."""
        self._listeners.append(changed)

    # -- reading

    async def snapshot(self) -> TrustSnapshot:
        """What is believed now.

        Raises:
            TrustStoreTamperedError: nothing is, for the store was changed behind the host's back.
        """
        self._untampered()
        return self._held

    def shown(self) -> TrustSnapshot:
        """What the store holds, believed or not; for people to look at."""
        return self._held

    def get(self, publisher: str) -> Publisher:
        """One publisher.

        Raises:
            PublisherNotFoundError: there is none of that id.
        """
        found = self._held.publisher(publisher)
        if found is None:
            raise PublisherNotFoundError(f"publisher {publisher} not found: GET /api/v1/publishers lists them")
        return found

    # -- publishers and keys

    async def add(self, publisher: Publisher, *, replace: bool = False) -> None:
        """Trust a publisher.

        Raises:
            PublisherRefusedError: it is malformed, or there is one of that id and `replace` is not set. A
                replaced publisher keeps the state of keys that were revoked or retired.
        """
        check_publisher(publisher)
        async with self._changing:
            known = self._held.publisher(publisher.id)
            if known is not None and not replace:
                raise PublisherRefusedError(
                    f"publisher {publisher.id} exists: add a key to it, or remove it first",
                    code="publisher_exists",
                )
            if known is None and len(self._held.publishers) >= MAX_PUBLISHERS:
                raise PublisherRefusedError(f"a host trusts at most {MAX_PUBLISHERS} publishers")
            settled = {key.public.id for key in known.keys if key.state is not KeyState.ACTIVE} if known else set()
            fresh = [key for key in publisher.keys if key.public.id not in settled]
            for key in fresh:
                self._refuse_taken(key, publisher.id)
            now = self._clock.now().timestamp()
            row = (
                publisher.id,
                publisher.title,
                json.dumps(publisher.plugins),
                publisher.max_isolation,
                publisher.contact,
                now,
            )
            # Known keys stay as old as they are: a file that is read again enrols none anew.
            since = {key.public.id: key.changed_at for key in known.keys} if known else {}
            rows = [_key_row(publisher.id, key, since.get(key.public.id, now)) for key in fresh]

            def write(connection: sqlite3.Connection) -> None:
                connection.execute(_SAVE_PUBLISHER, row)
                connection.execute(
                    "DELETE FROM publisher_keys WHERE publisher = ? AND state = 'active'", (publisher.id,)
                )
                connection.executemany(_SAVE_KEY, rows)
                _revoke_for_ever(connection, publisher.id, fresh, now)

            await self._change(write)

    async def remove(self, publisher: str) -> None:
        """Trust a publisher no more; its revoked keys stay revoked for everyone.

        Raises:
            PublisherNotFoundError: there is none of that id.
        """
        self.get(publisher)
        await self._run("DELETE FROM publishers WHERE id = ?", (publisher,))

    async def add_key(self, publisher: str, key: TrustedKey) -> None:
        """Trust one more key of a publisher.

        Raises:
            PublisherNotFoundError: there is no such publisher.
            PublisherRefusedError: the key is known or revoked, or there are too many.
        """
        async with self._changing:
            known = self.get(publisher)
            if any(one.public == key.public for one in known.keys):
                raise PublisherRefusedError(f"{publisher} has this key already; its state is kept", code="key_exists")
            if len(known.keys) >= MAX_KEYS:
                raise PublisherRefusedError(f"a publisher has at most {MAX_KEYS} keys")
            self._refuse_taken(key, publisher)
            row = _key_row(publisher, key, self._clock.now().timestamp())
            await self._change(lambda connection: _execute(connection, _SAVE_KEY, row))

    async def retire_key(self, publisher: str, key_id: str, reason: str) -> None:
        """Believe this key for what is installed, and for nothing new.

        Raises:
            PublisherNotFoundError: there is no such publisher or key.
            PublisherRefusedError: it is revoked; that is not taken back.
        """
        if self._key(publisher, key_id).state is KeyState.REVOKED:
            raise PublisherRefusedError(f"the key {key_id} is revoked, and stays so", code="key_revoked")
        await self._set_state(publisher, key_id, KeyState.RETIRED, reason)

    async def revoke_key(self, publisher: str, key_id: str, reason: str) -> None:
        """Believe nothing that this key signed, for ever. Revoking it again changes nothing.

        Raises:
            PublisherNotFoundError: there is no such publisher or key.
        """
        if self._key(publisher, key_id).state is not KeyState.REVOKED:
            await self._set_state(publisher, key_id, KeyState.REVOKED, reason)

    # -- policies, and what is kept

    async def set_policy(self, policy: TrustPolicy) -> None:
        """Say how many publishers must have signed the plugins of a namespace; replaces the policy it had.

        Raises:
            PolicyRefusedError: it is malformed, or can never be met.
        """
        async with self._changing:
            check_policy(policy, self._held.publishers)
            if len(self._held.policies) >= MAX_POLICIES and all(
                one.namespace != policy.namespace for one in self._held.policies
            ):
                raise PolicyRefusedError(f"a host has at most {MAX_POLICIES} policies")
            row = (policy.namespace, policy.threshold, json.dumps(policy.publishers), json.dumps(policy.predicates))
            await self._change(
                lambda connection: _execute(
                    connection,
                    "INSERT OR REPLACE INTO trust_policies (namespace, threshold, publishers, predicates) "
                    "VALUES (?, ?, ?, ?)",
                    row,
                )
            )

    async def drop_policy(self, namespace: str) -> None:
        """Leave a namespace to the policy above it.

        Raises:
            PolicyNotFoundError: it has none.
        """
        if all(policy.namespace != namespace for policy in self._held.policies):
            raise PolicyNotFoundError(f"there is no trust policy for '{namespace}'")
        await self._run("DELETE FROM trust_policies WHERE namespace = ?", (namespace,))

    async def keep(self, sha256: str, reason: str) -> None:
        """Let an installed release run on although a key that signed it was revoked.

        Raises:
            PolicyRefusedError: that is no hash, or too many are kept.
        """
        if not _SHA256.fullmatch(sha256):
            raise PolicyRefusedError("a release is named by the 64 hex digits of its SHA-256")
        if len(self._held.kept) >= MAX_KEPT:
            raise PolicyRefusedError(f"at most {MAX_KEPT} releases are kept: let go of one")
        await self._run(
            "INSERT OR REPLACE INTO trust_kept (sha256, reason, at) VALUES (?, ?, ?)",
            (sha256, reason[:MAX_TEXT], self._clock.now().timestamp()),
        )

    async def let_go(self, sha256: str) -> None:
        """Keep a release no longer.

        Raises:
            PolicyNotFoundError: it is not kept.
        """
        if sha256 not in self._held.kept:
            raise PolicyNotFoundError(f"the release {sha256[:16]}… is not kept")
        await self._run("DELETE FROM trust_kept WHERE sha256 = ?", (sha256,))

    async def confirm(self) -> None:
        """Believe what the store holds from now on: someone has looked at it and answers for it."""
        async with self._changing:
            await self._read()  # first: what cannot even be read is not confirmed
            await self._seal.renew()
            self.tampered = ""
        self._tell()

    # -- inside

    def _untampered(self) -> None:
        if self.tampered:
            raise TrustStoreTamperedError(
                f"{self.tampered}: look at it with 'busbar publisher list', mend it, then 'busbar publisher confirm'"
            )

    def _key(self, publisher: str, key_id: str) -> TrustedKey:
        found = next((key for key in self.get(publisher).keys if key.public.id == key_id), None)
        if found is None:
            raise PublisherNotFoundError(f"{publisher} has no key {key_id}", code="key_not_found")
        return found

    def _refuse_taken(self, key: TrustedKey, publisher: str) -> None:
        """One key is one publisher's, and a revoked one nobody's: else a threshold could be met by one hand."""
        if key.public.id in self._revoked and key.state is not KeyState.REVOKED:
            raise PublisherRefusedError(
                f"this key was revoked as {self._revoked[key.public.id]}'s, for ever: make a new one",
                code="key_revoked",
            )
        for other, known in self._held.every_key():
            if known.public == key.public and other.id != publisher:
                raise PublisherRefusedError(f"this key is {other.id}'s: each publisher has its own", code="key_exists")

    async def _set_state(self, publisher: str, key_id: str, state: KeyState, reason: str) -> None:
        async with self._changing:
            now = self._clock.now().timestamp()
            key = replace(self._key(publisher, key_id), state=state, reason=reason[:MAX_TEXT])

            def write(connection: sqlite3.Connection) -> None:
                connection.execute(_SAVE_KEY, _key_row(publisher, key, now))
                _revoke_for_ever(connection, publisher, [key], now)

            await self._change(write)

    async def _run(self, sql: str, parameters: Sequence[Any]) -> None:
        async with self._changing:
            await self._change(lambda connection: _execute(connection, sql, parameters))

    async def _change(self, write: Callable[[sqlite3.Connection], None]) -> None:
        """One transaction with its seal; a store that was tampered with is not sealed by the way."""
        self._untampered()

        def sealed(connection: sqlite3.Connection) -> int:
            write(connection)
            return self._seal.stamp(connection)

        serial = await self._database.write(sealed)
        await self._read()
        self._tell()
        await self._seal.keep(serial)

    async def _read(self) -> None:
        publishers, keys, policies, kept, revoked = await self._database.write(
            lambda connection: [connection.execute(query).fetchall() for query in _SEALED]
        )
        by_publisher: dict[str, list[TrustedKey]] = {}
        for name, *key in keys:
            by_publisher.setdefault(name, []).append(_key(*key))
        self._revoked = dict(tuple(row) for row in revoked)
        self._held = TrustSnapshot(
            tuple(
                Publisher(
                    name, title, tuple(json.loads(plugins)), tuple(by_publisher.get(name, ())), isolation, contact
                )
                for name, title, plugins, isolation, contact in publishers
            ),
            tuple(
                TrustPolicy(namespace, threshold, tuple(json.loads(counted)), tuple(json.loads(predicates)))
                for namespace, threshold, counted, predicates in policies
            ),
            frozenset(sha256 for sha256, _ in kept),
        )

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _key_row(publisher: str, key: TrustedKey, now: float) -> tuple[Any, ...]:
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


def _key(
    public: str, not_before: float | None, not_after: float | None, state: str, reason: str, changed_at: float
) -> TrustedKey:
    return TrustedKey(PublicKey.parse(public), not_before, not_after, KeyState(state), reason, changed_at)


def _revoke_for_ever(connection: sqlite3.Connection, publisher: str, keys: Sequence[TrustedKey], now: float) -> None:
    connection.executemany(
        _REVOKE_FOR_EVER,
        [(key.public.id, publisher, key.reason, now) for key in keys if key.state is KeyState.REVOKED],
    )


def _execute(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> None:
    connection.execute(sql, parameters)
