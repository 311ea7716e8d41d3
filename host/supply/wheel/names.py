"""Names inside a wheel: which are allowed, and which two would be one file on some machine."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from host.supply.errors import WheelRefusedError
from host.supply.wheel.structure import Entry

MAX_PATH: Final = 512
MAX_COMPONENT: Final = 200
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_STARTUP: Final = frozenset({"sitecustomize", "usercustomize"})
"""What `site` imports by itself, be it a module, a package or an extension module."""


def decode_names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The names of the entries as text, each checked, in order.

    Raises:
        WheelRefusedError: one is unsafe, or two collide.
    """
    names = tuple(_decode(entry) for entry in entries)
    for name in names:
        check_path(name)
    _check_collisions(names)
    return names


def check_path(name: str) -> None:
    """Refuse a path that is not plain, relative and portable.

    Raises:
        WheelRefusedError: `wheel_unsafe_path` or `wheel_bad_name`.
    """
    shown = ascii(name)[:120]
    if "\\" in name:
        raise WheelRefusedError("unsafe_path", f"{shown} has a backslash")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise WheelRefusedError("unsafe_path", f"{shown} is an absolute path")
    if not name or not name.isprintable() or unicodedata.normalize("NFC", name) != name or ":" in name:
        if unicodedata.normalize("NFC", name) != name:
            raise WheelRefusedError("path_collision", f"{shown} is not in Unicode's NFC form")
        raise WheelRefusedError("bad_name", f"{shown} holds characters that are not allowed")
    if len(name.encode()) > MAX_PATH:
        raise WheelRefusedError("bad_name", f"a path is longer than {MAX_PATH} bytes")
    for part in name.removesuffix("/").split("/"):
        if part in {"", ".", ".."}:
            raise WheelRefusedError("unsafe_path", f"{shown} has an empty or dotted part")
        if part.endswith((".", " ")) or _RESERVED.fullmatch(part) or len(part.encode()) > MAX_COMPONENT:
            raise WheelRefusedError(
                "bad_name", f"{shown} has a part that is reserved, too long, or ends in a dot or blank"
            )


def check_contents(names: Iterable[str], dist_info: str, data: AbstractSet[str] = frozenset()) -> None:
    """Refuse what nothing that a worker imports may bring: start-up hooks, bytecode, signatures of other formats.

    `data` are the kinds of files that the wheel's own .data folder may hold; by default it may have none.

    Raises:
        WheelRefusedError: with the rule.
    """
    own_data = dist_info.removesuffix(".dist-info") + ".data"
    for name in names:
        first, _, below = name.partition("/")
        last = name.rpartition("/")[2]
        if first.endswith(".data") and not (
            data and first == own_data and (not below or below.partition("/")[0] in data)
        ):
            allowed = f"only {', '.join(sorted(data))} in {own_data}" if data else "a plugin needs no .data folder"
            raise WheelRefusedError("data_dir", f"{name}: {allowed}")
        if last.endswith(".pth") or any(part.partition(".")[0] in _STARTUP for part in name.split("/")):
            raise WheelRefusedError("startup_hook", f"{name} would run whenever Python starts")
        if last.endswith((".pyc", ".pyo")) or "__pycache__" in name.split("/"):
            raise WheelRefusedError("bytecode_in_wheel", f"{name}: bytecode cannot be read by anyone; ship the source")
        if name in {f"{dist_info}/RECORD.jws", f"{dist_info}/RECORD.p7s"}:
            raise WheelRefusedError(
                "deprecated_signature_file", f"{name} is deprecated by PEP 815: sign beside the wheel"
            )


def _decode(entry: Entry) -> str:
    if b"\0" in entry.name:
        raise WheelRefusedError("bad_name", "a name holds a NUL")
    try:
        return entry.name.decode("utf-8" if entry.utf8 else "ascii")
    except UnicodeDecodeError:
        raise WheelRefusedError("bad_name", f"{ascii(entry.name)[:120]} is not UTF-8, or not marked as it") from None


def _check_collisions(names: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        bare = name.removesuffix("/")
        if name in seen.values():
            raise WheelRefusedError("duplicate_entry", f"{name} stands twice in the archive")
        folded = unicodedata.normalize("NFKC", bare).casefold()
        if folded in seen:
            raise WheelRefusedError("path_collision", f"{name!a} and {seen[folded]!a} are one file on some machines")
        seen[folded] = name
    folders = {key for key, name in seen.items() if name.endswith("/")}
    for folded in seen:
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in seen and parent not in folders:
                raise WheelRefusedError("path_collision", f"{parent!a} is a file and a folder")
