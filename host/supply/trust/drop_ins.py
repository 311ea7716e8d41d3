"""Publishers and trust policies from files: `*.toml` in a folder that the operator's own tools keep.

A file has a `[publisher]` table with `[[keys]]`, or `[[policies]]`, or both.
"""

from __future__ import annotations

import asyncio
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from host.storage.beneath import read_plain
from host.storage.errors import OddFileError, unreadable
from host.supply.errors import KeyRefusedError, PublisherRefusedError
from host.supply.trust.keys import PublicKey
from host.supply.trust.publishers import KeyState, Publisher, TrustedKey, TrustPolicy
from host.supply.trust.store import TrustStore

MAX_DROP_IN: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class DropIn:
    """What one file says."""

    publisher: Publisher | None
    policies: tuple[TrustPolicy, ...]


async def load_drop_ins(trust: TrustStore, folder: Path) -> tuple[str, ...]:
    """Take what the `*.toml` files of a folder say that the store does not have yet; what was taken, in words.

    A missing folder holds none. What a file no longer says of a publisher goes; a file that is gone takes nothing
    away: a publisher is removed, and a key revoked, by saying so.

    Raises:
        SupplyError: a file is malformed and is named, or the store refuses what it says; none is taken after it.
        StorageFailedError: the machine refuses to read one.
    """
    paths = await asyncio.to_thread(lambda: sorted(folder.glob("*.toml")))
    found = [await asyncio.to_thread(read_drop_in, path) for path in paths]
    taken: list[str] = []
    for publisher in [one.publisher for one in found if one.publisher is not None]:
        known = trust.shown().publisher(publisher.id)
        if known is None or not _same(known, publisher):
            await trust.add(publisher, replace=True)
            taken.append(f"publisher {publisher.id}")
        for key in publisher.keys:
            held = next(one for one in trust.get(publisher.id).keys if one.public == key.public)
            if key.state is KeyState.REVOKED and held.state is not KeyState.REVOKED:
                await trust.revoke_key(publisher.id, key.public.id, key.reason)
                taken.append(f"revocation of {key.public.id[:16]}… of {publisher.id}")
            elif key.state is KeyState.RETIRED and held.state is KeyState.ACTIVE:
                await trust.retire_key(publisher.id, key.public.id, key.reason)
                taken.append(f"retirement of {key.public.id[:16]}… of {publisher.id}")
    for policy in [policy for one in found for policy in one.policies]:
        if policy not in trust.shown().policies:
            await trust.set_policy(policy)
            taken.append(f"policy of {policy.namespace}")
    return tuple(taken)


def read_drop_in(path: Path) -> DropIn:
    """What one file says.

    Raises:
        PublisherRefusedError: it is malformed, or no plain file; a pipe keeps nobody waiting.
        StorageFailedError: the machine refuses to read it.
    """
    try:
        found = tomllib.loads(read_plain(path, MAX_DROP_IN).decode())
        _known(path, found, {"publisher", "keys", "policies"})
        if not found:
            raise PublisherRefusedError(f"{path} says nothing: it has a [publisher] with [[keys]], or [[policies]]")
        publisher = _publisher(path, found) if "publisher" in found or "keys" in found else None
        return DropIn(publisher, tuple(_policy(path, policy) for policy in found.get("policies", ())))
    except OddFileError as error:
        raise PublisherRefusedError(error.message) from None
    except OSError as error:
        raise unreadable(str(path), error) from error
    except (tomllib.TOMLDecodeError, ValueError, TypeError, AttributeError, RecursionError, KeyRefusedError) as error:
        raise PublisherRefusedError(f"{path} is no publisher: {error}") from None
    except KeyError as error:
        raise PublisherRefusedError(f"{path} is no publisher: there is no {error}") from None


def _publisher(path: Path, found: dict[str, Any]) -> Publisher:
    about = found["publisher"]
    _known(path, about, {"id", "title", "plugins", "max_isolation", "contact"})
    keys = []
    for key in found["keys"]:
        _known(path, key, {"public", "not_before", "not_after", "state", "reason"})
        keys.append(
            TrustedKey(
                PublicKey.parse(str(key["public"])),
                _instant(key.get("not_before")),
                _instant(key.get("not_after")),
                KeyState(key.get("state", "active")),
                str(key.get("reason", "")),
            )
        )
    return Publisher(
        id=str(about["id"]),
        title=str(about.get("title", about["id"])),
        plugins=_names(about["plugins"]),
        keys=tuple(keys),
        max_isolation=str(about.get("max_isolation", "process")),
        contact=str(about.get("contact", "")),
    )


def _policy(path: Path, found: dict[str, Any]) -> TrustPolicy:
    _known(path, found, {"namespace", "threshold", "publishers", "predicates"})
    threshold = found.get("threshold", 1)
    if not isinstance(threshold, int) or isinstance(threshold, bool):
        raise PublisherRefusedError(f"{path}: a threshold is a whole number")
    return TrustPolicy(
        str(found["namespace"]),
        threshold,
        _names(found.get("publishers", [])),
        _names(found.get("predicates", [])),
    )


def _known(path: Path, table: dict[str, Any], names: set[str]) -> None:
    unknown = set(table) - names
    if unknown:
        raise PublisherRefusedError(f"{path}: unknown key '{min(unknown)}': known are {', '.join(sorted(names))}")


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("plugins, publishers and predicates are lists of strings")
    return tuple(value)


def _same(known: Publisher, wanted: Publisher) -> bool:
    """Whether the store has what the file says; a key that was retired or revoked since stays so."""
    active = {(key.public.id, key.not_before, key.not_after) for key in known.keys if key.state is KeyState.ACTIVE}
    settled = {key.public.id for key in known.keys if key.state is not KeyState.ACTIVE}
    said = {(key.public.id, key.not_before, key.not_after) for key in wanted.keys if key.public.id not in settled}
    return (known.title, known.plugins, known.max_isolation, known.contact) == (
        wanted.title,
        wanted.plugins,
        wanted.max_isolation,
        wanted.contact,
    ) and active == said


def _instant(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise PublisherRefusedError("not_before and not_after are TOML times with an offset")
    return value.astimezone(UTC).timestamp()
