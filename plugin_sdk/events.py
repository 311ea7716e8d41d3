"""The CloudEvents 1.0 event: one frozen value, its JSON form, and the checks at the boundary.

Specification: CloudEvents 1.0.2, `spec.md` (attributes and types) and `formats/json-format.md`.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import msgspec

from plugin_sdk.errors import InvalidEventError
from plugin_sdk.strict_json import MAX_DEPTH, StrictJsonError, dumps, loads, too_deep

SPEC_VERSION: Final = "1.0"

ATTRIBUTES: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "data_base64"}
)
"""What an event has besides its extensions."""
_COMMON: Final = ATTRIBUTES - {"dataschema", "data_base64"}
_FIELDS: Final = (
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
)
_NAME: Final = re.compile(r"[a-z0-9]+")
_MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(\s*;.*)?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
# CloudEvents 1.0.2 section "Type system", String: controls, surrogates and non-characters are out.
_FORBIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
_URI_FORBIDDEN: Final = re.compile(r'[\s<>"{}|\\^`]')
_REMEMBERED: Final = 512
"""Characters of a reference that are remembered, here and by `urlsplit`: whoever sends an event chooses it, and may
choose megabytes."""
_INT32: Final = range(-(2**31), 2**31)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One CloudEvents 1.0 event.

    `time` is the RFC 3339 text as it was sent; `occurred_at` is the same as an aware datetime.
    `data` is the JSON payload; `data_base64` stands instead of it where the payload is binary.
    `extensions` are the attributes outside the specification, by their lower-case names.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: Any = msgspec.UNSET
    data_base64: str | None = None
    extensions: dict[str, str | int | bool] = {}

    @property
    def occurred_at(self) -> datetime | None:
        """`time` as an aware datetime, or None where the producer did not say."""
        return None if self.time is None else datetime.fromisoformat(self.time.upper())

    @property
    def hops(self) -> int:
        """Through how many plugins it came; 0 where nobody said so in a way that counts.

        It is text where it came in a header, and may be any number there; more than an integer attribute may be is as
        good as that.
        """
        found = self.extensions.get("hops", 0)
        try:
            return min(max(0, int(found)), _INT32.stop - 1)
        except ValueError:
            return 0

    @property
    def content(self) -> bytes | None:
        """The binary payload, decoded; None where the payload is JSON or absent."""
        return None if self.data_base64 is None else base64.b64decode(self.data_base64)

    def to_json(self) -> bytes:
        """The event in the CloudEvents JSON format, as UTF-8 bytes."""
        return msgspec.json.encode(self.attributes())

    def attributes(self) -> dict[str, Any]:
        """Every attribute and the payload by their CloudEvents JSON names; absent ones are left out."""
        found: dict[str, Any] = {
            "specversion": SPEC_VERSION,
            "id": self.id,
            "source": self.source,
            "type": self.type,
        }
        if self.subject is not None:
            found["subject"] = self.subject
        if self.time is not None:
            found["time"] = self.time
        if self.datacontenttype is not None:
            found["datacontenttype"] = self.datacontenttype
        if self.dataschema is not None:
            found["dataschema"] = self.dataschema
        if self.extensions:
            found.update(self.extensions)
        if self.data is not msgspec.UNSET:
            found["data"] = self.data
        elif self.data_base64 is not None:
            found["data_base64"] = self.data_base64
        return found

    @classmethod
    def from_json(cls, body: bytes | str) -> Event:
        """Parse and check one event in the CloudEvents JSON format.

        Raises:
            InvalidEventError: the text is no strict JSON object (equal names, NaN and 1e400, and text that is no
                Unicode are not), or an attribute is missing, of the wrong type or malformed; it names the attribute.
        """
        return cls.from_attributes(parse_json_object(body))

    @classmethod
    def trusted(cls, body: bytes) -> Event:
        """The event of JSON bytes that were checked before, as those in the host's log were; far cheaper."""
        found: dict[str, Any] = msgspec.json.decode(body)
        del found["specversion"]
        known = {name: found.pop(name) for name in _FIELDS if name in found}
        return cls(**known, extensions=found)

    @classmethod
    def from_attributes(cls, found: dict[str, Any]) -> Event:
        """Check a decoded JSON object and make it an event; errors as in `from_json`."""
        event = cls._ordinary(found) or cls._checked(found)
        if too_deep(event.data, MAX_DEPTH):
            _refuse("data", f"nests deeper than {MAX_DEPTH} levels: flatten it")
        return event

    @classmethod
    def _ordinary(cls, found: dict[str, Any]) -> Event | None:
        """The event, where it has only the most common attributes, in printable ASCII; None where one must look closer.

        Nearly all events are so, and are checked at once here in half the time that attribute by attribute takes.
        """
        get = found.get
        id_, source, type_, subject, time = get("id"), get("source"), get("type"), get("subject"), get("time")
        kind = get("datacontenttype")
        if not (id_ and source and type_ and found.keys() <= _COMMON and get("specversion") == SPEC_VERSION):
            return None
        texts = [text for text in (id_, source, type_, subject, time, kind) if text is not None]
        if not all(texts):
            return None
        try:
            joined = "".join(texts)
        except TypeError:
            return None
        if not (joined.isascii() and joined.isprintable() and _is_reference(source)):
            return None
        if (time is not None and not _is_time(time)) or (kind is not None and kind != "application/json"):
            return None
        return cls(
            id=id_,
            source=source,
            type=type_,
            subject=subject,
            time=time,
            datacontenttype=kind,
            data=get("data", msgspec.UNSET),
        )

    @classmethod
    def _checked(cls, found: dict[str, Any]) -> Event:
        """The event, after a look at one attribute after the other."""
        version = found.get("specversion")
        if version != SPEC_VERSION:
            _refuse("specversion", f"must be the string '{SPEC_VERSION}', not {version!r}")
        if "data" in found and found.get("data_base64") is not None:
            _refuse("data_base64", "must not stand beside data: send one of the two")
        return cls(
            id=_text(found, "id", required=True),
            source=_reference(found, "source", required=True),
            type=_text(found, "type", required=True),
            subject=_text(found, "subject"),
            time=_time(found),
            datacontenttype=_media_type(found),
            dataschema=_absolute_uri(found, "dataschema"),
            data=found.get("data", msgspec.UNSET),
            data_base64=_base64(found),
            extensions=_extensions(found),
        )


def new_event(
    type: str,  # noqa: A002 - the attribute's name in the specification
    *,
    source: str,
    subject: str | None = None,
    data: Any = msgspec.UNSET,
    id: str | None = None,  # noqa: A002 - the attribute's name in the specification
    time: datetime | None = None,
    extensions: dict[str, str | int | bool] | None = None,
) -> Event:
    """A checked event made in code: a fresh UUID for `id` and now for `time` unless they are given.

    Raises:
        InvalidEventError: as `Event.from_json`; `data` is no JSON value, such as NaN, included.
    """
    found: dict[str, Any] = {
        **(extensions or {}),
        "specversion": SPEC_VERSION,
        "id": id or new_id(),
        "source": source,
        "type": type,
        "subject": subject,
        "time": (time or datetime.now(UTC)).isoformat().replace("+00:00", "Z"),
    }
    if data is not msgspec.UNSET:
        try:
            dumps(data)
        except StrictJsonError as error:
            _refuse("data", f"holds what no event can: {error}")
        found["data"] = data
        found["datacontenttype"] = "application/json"
    return Event.from_attributes(found)


def new_id() -> str:
    """A fresh id for an event: a UUID of version 7 (RFC 9562, section 5.7), so that later ids sort after earlier ones.

    A log that is indexed by id appends such ids side by side; random ones would touch a page of its index each.
    """
    number = int.from_bytes(os.urandom(10), "big")
    stamp = time_ns() // 1_000_000
    value = stamp << 80 | 0x7 << 76 | (number >> 68 & 0xFFF) << 64 | 0b10 << 62 | number & (1 << 62) - 1
    return str(uuid.UUID(int=value))


def parse_json_object(body: bytes | str) -> dict[str, Any]:
    """Decode strict JSON that is one object; errors as `parse_json`."""
    found = parse_json(body)
    if not isinstance(found, dict):
        _refuse("body", "must be one JSON object")
    return found


def parse_json(body: bytes | str) -> Any:
    """Decode strict JSON, as `plugin_sdk.strict_json` has it; how deep it nests, the event looks at.

    Raises:
        InvalidEventError: it is not; with the attribute that is no text, else with `body`.
    """
    try:
        return loads(body, depth=None)
    except StrictJsonError as error:
        raise not_strict(error) from None


def not_strict(error: StrictJsonError) -> InvalidEventError:
    """The refusal of an event that is no strict JSON."""
    first = error.path[0] if error.path else None
    attribute = first if isinstance(first, str) and first in ATTRIBUTES - {"data"} else "body"
    return InvalidEventError(f"CloudEvents attribute '{attribute}' is not strict JSON: {error}", attribute)


def _refuse(attribute: str, why: str) -> NoReturn:
    raise InvalidEventError(f"CloudEvents attribute '{attribute}' {why}", attribute)


def _text(found: dict[str, Any], name: str, *, required: bool = False) -> Any:
    value = found.get(name)
    if value is None:
        if required:
            _refuse(name, "is required")
        return None
    if not isinstance(value, str):
        _refuse(name, f"must be a string, not {type(value).__name__}")
    if not value:
        _refuse(name, "must not be empty")
    if not _plain(value):
        _refuse(name, "must not contain control characters, surrogates or non-characters")
    return value


def _plain(value: str) -> bool:
    """Whether a string holds only what CloudEvents allows; printable ASCII, by far the most, at the speed of C."""
    return (value.isascii() and value.isprintable()) or _FORBIDDEN.search(value) is None


def _reference(found: dict[str, Any], name: str, *, required: bool = False) -> Any:
    value = _text(found, name, required=required)
    if value is not None and not _is_reference(value):
        _refuse(name, "must be a URI-reference (RFC 3986), such as '/sensors/1'")
    return value


def _absolute_uri(found: dict[str, Any], name: str) -> Any:
    value = _reference(found, name)
    if value is not None and not urlsplit(value[:_REMEMBERED]).scheme:
        _refuse(name, "must be an absolute URI with a scheme")
    return value


def _is_reference(value: str) -> bool:
    if len(value) <= _REMEMBERED:
        return _well_formed(value)
    # Only what comes before the path can be malformed then, and no authority is so long.
    return not _URI_FORBIDDEN.search(value) and _well_formed(value[:_REMEMBERED])


@lru_cache(maxsize=1024)  # producers are few, and each names itself in every event
def _well_formed(value: str) -> bool:
    if _URI_FORBIDDEN.search(value):
        return False
    try:
        urlsplit(value)
    except ValueError:
        return False
    return True


def _time(found: dict[str, Any]) -> Any:
    value = _text(found, "time")
    if value is not None and not _is_time(value):
        _refuse("time", "must be an RFC 3339 timestamp, such as '2026-11-20T10:00:00Z'")
    return value


def _is_time(value: str) -> bool:
    if not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


def is_media_type(text: str) -> bool:
    """Whether a text can be the `datacontenttype` of an event: a media type (RFC 2046)."""
    return _MEDIA_TYPE.fullmatch(text) is not None and _plain(text)


def _media_type(found: dict[str, Any]) -> Any:
    value = _text(found, "datacontenttype")
    if value is not None and value != "application/json" and not is_media_type(value):
        _refuse("datacontenttype", "must be a media type (RFC 2046), such as 'application/json'")
    return value


def _base64(found: dict[str, Any]) -> Any:
    value = found.get("data_base64")
    if value is None:
        return None
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        _refuse("data_base64", "must be a string of base64 (RFC 4648 section 4)")
    return value


def _extensions(found: dict[str, Any]) -> dict[str, str | int | bool]:
    extensions: dict[str, str | int | bool] = {}
    for name, value in found.items():
        if name in ATTRIBUTES:
            continue
        if not _NAME.fullmatch(name):
            _refuse(name, "must be named with lower-case letters and digits only")
        if value is None:
            continue
        if isinstance(value, bool):
            extensions[name] = value
        elif isinstance(value, int):
            if value not in _INT32:
                _refuse(name, "must be a signed 32-bit integer; send larger numbers as text")
            extensions[name] = value
        elif isinstance(value, str):
            if not _plain(value):
                _refuse(name, "must not contain control characters, surrogates or non-characters")
            extensions[name] = value
        else:
            _refuse(name, "must be a string, a 32-bit integer or a boolean")
    return extensions
