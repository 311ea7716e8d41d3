"""The child of `source_checks`: walks trees of source, and prints what the rules find as one JSON object.

Started as a module, with the path of a request as its argument; imports the standard library alone. Before each
file it says on stderr which it is, so that its parent knows where it died.
"""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import struct
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Final

from host.supply.scan import source_rules, source_text
from host.supply.scan.source_text import Note, UnreadableError

MAX_MESSAGE: Final = 300
MAX_SOURCE: Final = 2**20
"""Bytes of one source file; its tree takes several hundred times as much memory."""
MAX_ODD: Final = 256 * 1024
"""Bytes of a file that is not named as source, up to which it is tried as source."""
MAX_KEPT: Final = 500
"""Findings that are kept of each severity."""
_SOURCE: Final = (".py", ".pyw")
_NATIVE: Final = (".so", ".pyd", ".dll", ".dylib")
_NATIVE_MAGIC: Final = (b"\x7fELF", b"MZ\x90\x00", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa")
_ARCHIVES: Final = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_BYTECODE_VERSIONS: Final = range(2900, 4500)
"""The magic numbers of Python 3."""
_CODE: Final = re.compile(rb"\b(?:import|exec|eval|__import__|getattr)\b")
_HEAD: Final = 16
_TOO_COMPLEX: Final[Note] = (
    "source-too-complex",
    "high",
    0,
    f"could not be analysed: it is too large, or nests more than {source_rules.MAX_DEPTH} levels deep",
)


class _Findings:
    """What was found, bounded by severity, so that a flood of small things cannot wash out the great ones."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str, str, int, str]] = []
        self.counts: Counter[str] = Counter()

    def add(self, path: str, note: Note) -> None:
        rule, severity, line, message = note
        self.counts[severity] += 1
        if self.counts[severity] <= MAX_KEPT:
            shown = message[:MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
            self.kept.append((rule, severity, path, line, shown))


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Look at every file of the trees in the request; the answer is what is printed."""
    warnings.simplefilter("ignore")  # of the parser, about odd escapes
    sys.setrecursionlimit(10 * source_rules.MAX_DEPTH)
    findings = _Findings()
    files = 0
    for tree in request["trees"]:
        for path, shown in _walk(Path(tree["folder"])):
            files += 1
            print(ascii(shown), file=sys.stderr, flush=True)  # noqa: T201 - for the parent
            label = f"{tree['label']}/{shown}" if tree["label"] else shown
            for note in _look(path, own=tree["own"], network=request["network"], inline=request["inline"]):
                findings.add(label, note)
    left_out = {severity: count - MAX_KEPT for severity, count in findings.counts.items() if count > MAX_KEPT}
    return {"files": files, "findings": findings.kept, "leftOut": left_out}


def _walk(root: Path) -> list[tuple[Path, str]]:
    found = []
    for base, folders, files in os.walk(root, followlinks=False, onerror=_unreadable):
        folders.sort()
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        for name in sorted((*files, *links)):
            path = Path(base) / name
            shown = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
            found.append((path, shown))
    return found


def _unreadable(error: OSError) -> None:
    raise error


def _look(path: Path, *, own: bool, network: bool, inline: bool) -> list[Note]:
    """What one file is, and what is wrong with it. Of a dependency only what hides code from everybody."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return [("not-a-file", "high", 0, "is no plain file")]
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if path.suffix == ".pyc" or _is_bytecode(head):
        return [("bytecode", "high", 0, "is bytecode, which nobody can read: ship the source")]
    if path.suffix in _SOURCE:
        return _source(path, status.st_size, own=own, network=network, inline=inline)
    if path.suffix in _NATIVE and head.startswith(_NATIVE_MAGIC):
        return [("compiled-code", "medium" if own else "low", 0, "is compiled, and not looked into")]
    if head.startswith(_NATIVE_MAGIC):
        return [("compiled-code", "medium", 0, "is a program or a library, and not looked into")]
    if head.startswith(_ARCHIVES):
        return [("archive", "medium" if own else "low", 0, "is an archive, and not looked into")]
    if own and status.st_size <= MAX_ODD and path.suffix != ".pyi":
        return _odd(path, network=network, inline=inline)
    return []


def _source(path: Path, size: int, *, own: bool, network: bool, inline: bool) -> list[Note]:
    if size > MAX_SOURCE:
        if not own:
            return []
        return [("source-too-large", "high", 0, f"has {size} bytes; source of more than {MAX_SOURCE} is not analysed")]
    try:
        text = source_text.decode(path.read_bytes())
    except UnreadableError as error:
        return [error.args[0]]
    if not own:
        return [note for note in source_text.notes(text) if note[1] == "high"]
    try:
        return [*source_text.notes(text), *_parsed(text, network=network, inline=inline)]
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL
        line = getattr(error, "lineno", None) or 0
        return [("source-unparsable", "high", line, f"could not be analysed: {getattr(error, 'msg', None) or error}")]
    except (MemoryError, RecursionError, source_rules.TooDeepError):  # the parser's own stack ends in a MemoryError
        return [_TOO_COMPLEX]


def _odd(path: Path, *, network: bool, inline: bool) -> list[Note]:
    """A file that is not named as source: where it is source all the same, it is looked at as such, and noted."""
    raw = path.read_bytes()
    if not _CODE.search(raw):
        return []
    try:
        text = source_text.decode(raw)
        found = [*source_text.notes(text), *_parsed(text, network=network, inline=inline)]
    except (UnreadableError, SyntaxError, ValueError):
        return []
    except (MemoryError, RecursionError, source_rules.TooDeepError):  # the parser's own stack ends in a MemoryError
        return [_TOO_COMPLEX]
    return [("hidden-source", "medium", 0, "is Python source that is not named so"), *found] if found else []


def _parsed(text: str, *, network: bool, inline: bool) -> list[Note]:
    return list(source_rules.notes(ast.parse(text), network=network, inline=inline))


def _is_bytecode(head: bytes) -> bool:
    if len(head) < _HEAD or head[2:4] != b"\r\n":
        return False
    (version,) = struct.unpack_from("<H", head)
    return version in _BYTECODE_VERSIONS


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))  # noqa: T201 - for the parent
