"""A plugin's lock: which wheels it depends on, each with the hash of its bytes (PEP 751, `pylock.toml`).

It stands in the plugin's import package beside `plugin.toml`, so that the signature over the plugin's wheel is one
over it, too. Nothing is resolved here: the lock says what to take, and where it does not fit this Python and
machine the release is refused. Only wheels are taken, because installing one runs no code.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from packaging.pylock import (
    Package,
    PackageWheel,
    Pylock,
    PylockSelectError,
    PylockValidationError,
)
from packaging.utils import parse_wheel_filename

from host.supply.errors import ReleaseRefusedError
from host.supply.wheel.filename import check_bounds

LOCK: Final = "pylock.toml"
MAX_LOCK: Final = 4 * 2**20
MAX_WHEELS: Final = 128
"""Each is one more folder that a worker looks for modules in."""
DIGESTS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
"""The hashes that are believed, with the number of their hexadecimal digits."""
_VERSION: Final = "1.0"
_FILENAME: Final = re.compile(r"[A-Za-z0-9._+!-]{1,200}")


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """One wheel of a lock. All its `hashes` (algorithm, hexadecimal digits) must be those of its bytes.

    `url` is where the lock says that it can be had, `size` how many bytes it has; both may be unknown.
    """

    name: str
    version: str
    filename: str
    hashes: tuple[tuple[str, str], ...]
    size: int | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class DependencyLock:
    """What a lock selects on this Python and machine; `sha256` is the hash of the lock itself."""

    sha256: str
    wheels: tuple[LockedWheel, ...]


def read_lock(content: bytes) -> DependencyLock:
    """Read a lock, and select by Python, markers and tags what it has for this interpreter.

    Raises:
        ReleaseRefusedError: `release_lock_malformed`, `release_lock_incompatible` where it selects nothing that
            fits, `release_dependency_no_wheel` and `release_dependency_weak_hash` for what it selects.
    """
    lock = _parse(content)
    try:
        selected = list(lock.select())
    except (PylockSelectError, ValueError) as error:
        raise ReleaseRefusedError(
            "lock_incompatible", f"{LOCK} does not fit this Python and machine: {error}; lock for them, too"
        ) from None
    if len(selected) > MAX_WHEELS:
        raise ReleaseRefusedError("lock_malformed", f"{LOCK} brings {len(selected)} wheels; {MAX_WHEELS} are allowed")
    wheels = tuple(_locked(package, source) for package, source in selected)
    return DependencyLock(hashlib.sha256(content).hexdigest(), wheels)


def check_lock(lock: DependencyLock | None, signed: str | None) -> None:
    """Hold a wheel's lock against the `lockSha256` of the signed statement.

    Raises:
        ReleaseRefusedError: `release_lock_mismatch`: one of them is missing, or they differ.
    """
    if (None if lock is None else lock.sha256) == signed:
        return
    if signed is None:
        why = f"the wheel holds a {LOCK}, and the statement has no lockSha256"
    else:
        why = f"the wheel's {LOCK} is not the one that was signed" if lock else f"the wheel holds no {LOCK}"
    raise ReleaseRefusedError("lock_mismatch", f"{why}: sign the release again with 'busbar plugin sign'")


def _parse(content: bytes) -> Pylock:
    if len(content) > MAX_LOCK:
        raise ReleaseRefusedError("lock_malformed", f"{LOCK} has {len(content)} bytes; {MAX_LOCK} are allowed")
    try:
        found = tomllib.loads(content.decode())
        version = found.get("lock-version")
        if version != _VERSION:
            raise ValueError(f"its lock-version is {version!r}, and {_VERSION!r} is read here")
        _check_names(found)
        return Pylock.from_dict(found)
    except RecursionError:
        raise ReleaseRefusedError("lock_malformed", f"{LOCK} is nested too deeply") from None
    except (PylockValidationError, ValueError) as error:
        raise ReleaseRefusedError("lock_malformed", f"{LOCK} is no lock as PEP 751 has it: {error}") from None


def _check_names(found: object) -> None:
    """Refuse a lock in which anything could be a wheel's name that no parser should see, before one does."""
    waiting = [found]
    while waiting:
        match waiting.pop():
            case dict() as table:
                waiting += table.values()
            case list() as several:
                waiting += several
            case str() as text:
                for part in re.split(r"[/\\?#]", unquote(text)):
                    if part.endswith(".whl"):
                        check_bounds(part)
            case _:
                pass


def _locked(package: Package, source: object) -> LockedWheel:
    if not isinstance(source, PackageWheel):
        raise ReleaseRefusedError(
            "dependency_no_wheel",
            f"{LOCK} has no wheel of {package.name} that fits this Python and machine: only wheels are installed, "
            "because anything else runs code while it is built",
        )
    filename = source.filename
    if not _FILENAME.fullmatch(filename):
        raise ReleaseRefusedError("lock_malformed", f"{LOCK} names a wheel {ascii(filename)[:200]}")
    hashes = tuple(sorted((name, digits) for name, digits in source.hashes.items() if name in DIGESTS))
    if not hashes:
        raise ReleaseRefusedError(
            "dependency_weak_hash", f"{LOCK} has no hash of {filename} by {', '.join(DIGESTS)}: lock again with one"
        )
    for name, digits in hashes:
        if not re.fullmatch(rf"[0-9a-f]{{{DIGESTS[name]}}}", digits):
            raise ReleaseRefusedError("lock_malformed", f"the {name} of {filename} in {LOCK} is no such hash")
    return LockedWheel(
        name=package.name,
        version=str(parse_wheel_filename(filename)[1]),
        filename=filename,
        hashes=hashes,
        size=source.size,
        url=source.url,
    )
