"""API tokens and roles. A token's secret is shown once; the host keeps only its SHA-256.

A plain hash is right here: the secret is 256 random bits, so there is nothing to guess that a slow hash would protect.
Wrong ones are counted all the same (`host.identity.guesses`).
Each row has a MAC of the host's key over it: who can write the database alone can neither make a token nor raise one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec
import structlog

from host.errors import BusbarError, ErrorKind
from host.identity.guesses import Guesses
from host.storage.database import Database
from host.storage.keyring import Keyring
from plugin_sdk.clock import Clock

PREFIX: Final = "bbt_"
MAX_TOKENS: Final = 1000
MAX_NAME: Final = 200
LATEST: Final = 253_402_300_799.0
"""The last second that RFC 3339 can write: a token that expires later could not be shown."""

_log = structlog.get_logger(__name__)


class Role(Enum):
    """What a caller may do; each may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        return _RANK[self] >= _RANK[needed]


_RANK: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


class TokenNotFoundError(BusbarError):
    """No token of that id."""

    code = "token_not_found"
    kind = ErrorKind.NOT_FOUND


class TokenRefusedError(BusbarError):
    """A token that cannot be made."""

    code = "token_refused"
    kind = ErrorKind.INVALID


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. Times are seconds since the epoch."""

    id: str
    name: str
    role: Role
    created_at: float
    expires_at: float | None


class TokenTable:
    """Tokens by the hashes of their secrets, for the look-up at every request. It holds no secret.

    Args:
        clock: Says which have expired.

    Attributes:
        by_hash: The tokens; whoever holds the table changes it here.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.by_hash: dict[bytes, Token] = {}

    def find(self, secret: str) -> Token | None:
        """The token with this secret, unless it has expired.

        The look-up is by the hash of what was sent, so its timing says nothing about any secret.
        """
        # What no header may hold comes as surrogates (PEP 383), and is no secret either.
        token = self.by_hash.get(hashlib.sha256(secret.encode(errors="surrogatepass")).digest())
        if token is None or token.expires_at is None:
            return token
        return token if self._clock.now().timestamp() < token.expires_at else None


class Tokens:
    """The tokens of one host, in memory for the look-up at every request, in the database for good.

    Attributes:
        table: The tokens that there are now.
    """

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self.table = TokenTable(clock)
        self._by_hash = self.table.by_hash
        self._listeners: list[Callable[[], Awaitable[None]]] = []
        self.guesses = Guesses(clock.monotonic)
        """Counts the wrong tokens that come."""

    async def load(self) -> None:
        """Read what the database holds; call once, before anything else."""
        for row in await self._database.read("SELECT * FROM tokens"):
            hashed = bytes(row["hash"])
            try:
                token = Token(row["id"], row["name"], Role(row["role"]), row["created_at"], row["expires_at"])
            except ValueError:  # one that cannot be read keeps nobody else's from being believed
                _log.error("token_not_believed", token=row["id"], reason="its role is none")
                continue
            if hmac.compare_digest(bytes(row["mac"]), self._mac(token, hashed)):
                self._by_hash[hashed] = token
            else:
                _log.error("token_not_believed", token=token.id, reason="this host did not write it as it is")

    def listen(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Have `listener` know of every change; a change is answered once it is in force there, too."""
        self._listeners.append(listener)

    def find(self, secret: str) -> Token | None:
        """As `TokenTable.find`."""
        return self.table.find(secret)

    def all(self) -> tuple[Token, ...]:
        """Every token, the oldest first."""
        return tuple(sorted(self._by_hash.values(), key=lambda token: token.created_at))

    async def create(self, name: str, role: Role, expires_at: float | None = None) -> tuple[Token, str]:
        """Make a token; the token and its secret, which cannot be had again.

        Raises:
            TokenRefusedError: a bad name, an expiry in the past, or too many tokens.
        """
        now = self._clock.now().timestamp()
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise TokenRefusedError(f"a token's name is printable, with 1 to {MAX_NAME} characters")
        if expires_at is not None and expires_at <= now:
            raise TokenRefusedError("expiresAt is in the past")
        if expires_at is not None and not expires_at <= LATEST:  # NaN included
            raise TokenRefusedError("expiresAt is after the year 9999, which nobody could be shown")
        if len(self._by_hash) >= MAX_TOKENS:
            raise TokenRefusedError(f"there are {MAX_TOKENS} tokens already: revoke some")
        secret = PREFIX + secrets.token_urlsafe(32)
        hashed = hashlib.sha256(secret.encode()).digest()
        token = Token(secrets.token_hex(6), name, role, now, expires_at)
        row = self._row(token, hashed)
        await self._database.write(lambda connection: _insert(connection, row))
        self._by_hash[hashed] = token
        await self._tell()
        return token, secret

    async def bootstrap(self, *, again: bool = False) -> str | None:
        """The secret of a first administrator's token; None where one was ever made.

        Args:
            again: Whether the host knows from elsewhere that one was made, whatever the database says of it.
        """
        if await self._database.read("SELECT 1 FROM bootstrap"):
            return None
        if again:
            _log.error("bootstrap_forgotten", reason="the database knows of no first token, and one was made: none is")
            return None
        secret = PREFIX + secrets.token_urlsafe(32)
        hashed = hashlib.sha256(secret.encode()).digest()
        now = self._clock.now().timestamp()
        token = Token(secrets.token_hex(6), "administrator", Role.ADMIN, now, None)
        row = self._row(token, hashed)

        def write(connection: sqlite3.Connection) -> None:
            _insert(connection, row)
            connection.execute("INSERT INTO bootstrap (one, at) VALUES (1, ?)", (now,))

        await self._database.write(write)
        self._by_hash[hashed] = token
        return secret

    async def revoke(self, token_id: str) -> None:
        """Make a token worthless at once.

        Raises:
            TokenNotFoundError: there is none of that id.
        """
        hashed = next((hashed for hashed, token in self._by_hash.items() if token.id == token_id), None)
        if hashed is None:
            raise TokenNotFoundError(f"token {token_id} not found: GET /api/v1/tokens lists them")
        await self._database.write(lambda connection: _delete(connection, token_id))
        self._by_hash.pop(hashed, None)
        await self._tell()

    async def _tell(self) -> None:
        for listener in self._listeners:
            await listener()

    def _mac(self, token: Token, hashed: bytes) -> bytes:
        about = (token.id, token.name, token.role.value, hashed.hex(), token.created_at, token.expires_at)
        return self._keyring.mac(msgspec.json.encode(about), "token")

    def _row(self, token: Token, hashed: bytes) -> tuple[Any, ...]:
        mac = self._mac(token, hashed)
        return (token.id, token.name, token.role.value, hashed, token.created_at, token.expires_at, mac)


def _insert(connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    connection.execute(
        "INSERT INTO tokens (id, name, role, hash, created_at, expires_at, mac) VALUES (?, ?, ?, ?, ?, ?, ?)", row
    )


def _delete(connection: sqlite3.Connection, token_id: str) -> None:
    connection.execute("DELETE FROM tokens WHERE id = ?", (token_id,))
