"""JSON at the edge: one strict reader, and the writer that writes all that the reader lets in and nothing else.

Readers of JSON differ where RFC 8259 leaves them room: of two equal names one keeps the first and one the last, `1e400`
is infinity or null, half of a surrogate pair is a character to one and a crash to the next. What comes in is held
here to what all of them take for the same (I-JSON, RFC 7493, but for the size of integers): no name twice in an object,
finite numbers, text that is Unicode, bounded depth, integers of bounded length.

msgspec does nearly all of it at its own speed. Only what it cannot see is looked for here, and closely only where the
bytes could hold it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 64
"""How deep arrays and objects may nest; far above real data, far below any recursion limit on the way."""
MAX_DIGITS: Final = 4300
"""Digits of an integer: what CPython reads and writes (`sys.int_info`); the time for more grows with their square."""
MAX_LOOKED: Final = 100_000
"""Values that are looked at to say where a fault is; what has more is refused without that, for the loop's sake."""

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode

Path = tuple[str | int, ...]

_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_ENDLESS: Final = b"0" * (MAX_DIGITS + 1)
_DIGITS: Final = b"0123456789"
_BLANKS: Final = b" \t\r\n"
_SHOWN: Final = 200
_DEEPEST: Final = 1000
"""Levels that any parser or encoder goes down; a value made in code may hold itself."""
_REFUSALS: Final = (msgspec.MsgspecError, TypeError, ValueError, RecursionError)


class StrictJsonError(ValueError):
    """Not JSON, or JSON that readers disagree on; `path` leads to the value at fault, empty where it is the whole."""

    def __init__(self, why: str, path: Path = ()) -> None:
        self.path = path
        super().__init__(f"{_written(path)} {why}" if path else why)


class TooManyItemsError(Exception):
    """An array of more items than its reader takes."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} items")
        self.count = count


def loads(text: bytes | str, *, depth: int | None = MAX_DEPTH) -> Any:
    """Decode strict JSON in UTF-8; `depth` is how deep it may nest, None where the caller looks for itself.

    Raises:
        StrictJsonError: it is not, with why and where.
    """
    raw = _bytes(text)
    try:
        found = _decode(raw)
        again = _encode(found)
        # Of equal names msgspec keeps the last without a word. Where it writes the same bytes again, none was lost.
        sure = (again == raw or not _may_repeat(raw, again)) and not _may_be_endless(raw)
    except _REFUSALS:
        sure = False
    if not sure:
        found = _read(raw)
        fault = _fault(found)
        if fault is not None:
            raise fault
    if depth is not None and raw.count(b"[") + raw.count(b"{") > depth and too_deep(found, depth):
        raise StrictJsonError(f"nests deeper than {depth} levels: flatten it")
    return found


def loads_items(text: bytes | str, most: int) -> list[Any | StrictJsonError] | None:
    """Decode an array whose items stand each for itself: one that is at fault is its error. None where it is no array.

    How deep an item nests is for the caller to look at.

    Raises:
        StrictJsonError: the text as a whole is no JSON.
        TooManyItemsError: there are more than `most` items.
    """
    try:
        found = loads(text, depth=None)
        sound = True
    except StrictJsonError:
        found = _read(_bytes(text))
        if not isinstance(found, list):
            raise
        sound = False
    if not isinstance(found, list):
        return None
    if len(found) > most:
        raise TooManyItemsError(len(found))
    return found if sound else [_fault(item, MAX_LOOKED // len(found)) or item for item in found]


def dumps(value: Any, *, depth: int | None = MAX_DEPTH) -> bytes:
    """Encode a value, so that `loads` decodes it.

    Raises:
        StrictJsonError: it has a part that JSON has no form for, or that `loads` refuses.
    """
    try:
        raw = _encode(value)
        if b"null" in raw or _may_be_endless(raw):  # a number that is not finite is written as null
            plain = msgspec.to_builtins(value, str_keys=True)
            for fault in _faults(plain, math.inf):
                raise fault
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError(f"nests deeper than {MAX_DEPTH} levels: flatten it") from None
    except _REFUSALS as error:
        raise next(_faults(value, MAX_LOOKED), StrictJsonError(f"is no JSON value: {error}")) from None
    if depth is not None and raw.count(b"[") + raw.count(b"{") > depth and too_deep(_decode(raw), depth):
        raise StrictJsonError(f"nests deeper than {depth} levels: flatten it")
    return raw


def too_deep(value: Any, depth: int) -> bool:
    """Whether a decoded value nests deeper than `depth`; level by level, so that depth costs no recursion."""
    level = [value] if isinstance(value, _NESTS) else []
    for _ in range(depth):
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            below += [child for child in children if isinstance(child, _NESTS)]
        if not below:
            return False
        level = below
    return bool(level)


_NESTS: Final = (dict, list)


# -- what the bytes can tell


def _bytes(text: bytes | str) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _may_repeat(raw: bytes, again: bytes) -> bool:
    """Whether a name may stand twice in an object: not where only blanks differ, else the names are counted."""
    if again.translate(None, _BLANKS) == raw.translate(None, _BLANKS):
        return False
    try:
        _UNIQUE.decode(raw.decode())
    except (ValueError, RecursionError):
        return True
    return False


def _may_be_endless(raw: bytes) -> bool:
    """Whether there may be an integer of too many digits; those of a fraction, or in a string, look the same."""
    if len(raw) <= MAX_DIGITS:
        return False
    # So many digits in a row have one of them at every place that is looked at; most texts have letters at all of them.
    met = raw[:: MAX_DIGITS + 1]
    return met.translate(None, _DIGITS) != met and _ENDLESS in raw.translate(_ZEROS)


# -- what only a closer look can tell


class _Unreadable:
    """Stands in a decoded value for what cannot be decoded; no encoder knows it."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


def _read(raw: bytes) -> Any:
    """Decode JSON with whatever is at fault in it: bytes that are no UTF-8 become lone surrogates."""
    try:
        return _LENIENT.decode(raw.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise StrictJsonError(f"nests deeper than {MAX_DEPTH} levels: flatten it") from None
    except ValueError as error:
        raise StrictJsonError(f"is no JSON in UTF-8: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Unreadable:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(name for name, _ in pairs)
    twice = next(name for name in counts if counts[name] > 1)
    return _Unreadable(f"has the name {ascii(twice)[:_SHOWN]} twice in one object: give each name once")


def _integer(digits: str) -> int | _Unreadable:
    length = len(digits.lstrip("-"))
    if length > MAX_DIGITS:
        return _Unreadable(f"is an integer of {length} digits: at most {MAX_DIGITS} are read")
    return int(digits)


def _real(digits: str) -> float | _Unreadable:
    found = float(digits)
    if math.isinf(found):
        return _Unreadable(f"is {digits[:_SHOWN]}, which is beyond what readers of JSON hold")
    return found


def _constant(name: str) -> _Unreadable:
    return _Unreadable(f"is {name}, which is no JSON number")


_UNIQUE: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_int=len, parse_float=len)
"""Reads for the names alone: the numbers have been seen."""
_LENIENT: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant
)


def _fault(value: Any, most: int = MAX_LOOKED) -> StrictJsonError | None:
    """What is at fault in a value that was read with its faults; where, if `most` values are enough to find it."""
    try:
        _encode(value)
    except _REFUSALS:
        return next(_faults(value, most), StrictJsonError("holds a value that readers of JSON disagree on"))
    return None


def _faults(value: Any, most: float) -> Iterator[StrictJsonError]:
    """What is at fault in a value, among its first `most` parts; level by level, so that depth costs no recursion."""
    level: list[tuple[Path, Any]] = [((), value)]
    looked = levels = 0
    while level and levels < _DEEPEST:
        below: list[tuple[Path, Any]] = []
        for path, item in level:
            looked += 1
            if looked + len(below) > most:
                return
            why = _why(item)
            if why is not None:
                yield StrictJsonError(why, path)
            if isinstance(item, dict):
                below += [((*path, name), child) for name, child in item.items()]
            elif isinstance(item, list | tuple):
                below += [((*path, at), child) for at, child in enumerate(item)]
        level = below
        levels += 1


def _why(item: Any) -> str | None:
    """What is at fault in a value itself, its children aside."""
    why: str | None = None
    if isinstance(item, str):
        if not _is_unicode(item):
            why = "holds half of a surrogate pair, or bytes that are no UTF-8: send Unicode text"
    elif isinstance(item, dict):
        odd = next((name for name in item if isinstance(name, str) and not _is_unicode(name)), None)
        if odd is not None:
            why = f"has the name {ascii(odd)[:_SHOWN]}, which is no Unicode text"
    elif isinstance(item, float):
        if not math.isfinite(item):
            why = f"is {item}, which is no JSON number"
    elif isinstance(item, int):
        if item.bit_length() > MAX_DIGITS * 3 and abs(item) >= 10**MAX_DIGITS:
            why = f"is an integer of more than {MAX_DIGITS} digits"
    elif isinstance(item, _Unreadable):
        why = item.why
    return why


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written(path: Path) -> str:
    """A path as people write it: `data.items[3].name`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (str(part) if str(part).isidentifier() else ascii(part))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
