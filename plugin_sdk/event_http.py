"""CloudEvents over HTTP: which of the three modes a request is in, and the events that it carries.

Source: the CloudEvents HTTP protocol binding 1.0.2 and its JSON format. The mode is told by the content type alone:
batched, structured, else binary.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

from plugin_sdk.errors import InvalidEventError
from plugin_sdk.events import Event, not_strict, parse_json
from plugin_sdk.strict_json import StrictJsonError, loads_items

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
PREFIX: Final = "ce-"
MAX_BATCH: Final = 1000
"""Events of one batch."""
_ANY_BATCH: Final = "application/cloudevents-batch"
_ANY_STRUCTURED: Final = "application/cloudevents"
_JSON_TYPE: Final = re.compile(r"[^/]+/(?:[^;\s]+\+)?json")
_RESERVED: Final = frozenset({"data", "data_base64", "datacontenttype"})


class UnknownFormatError(Exception):
    """A CloudEvents content type in a format that is not JSON."""


def media_type(content_type: str | None) -> str:
    """A content type without its parameters, in lower case; empty where there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_batch(media: str) -> bool:
    """Whether a request of this media type carries a batch.

    Raises:
        UnknownFormatError: it does, in another format than JSON.
    """
    if not media.startswith(_ANY_BATCH):
        return False
    if media != BATCHED:
        raise UnknownFormatError(f"a batch is read as {BATCHED}, not as {media}")
    return True


def is_structured(media: str) -> bool:
    """Whether a request of this media type, which is no batch's, carries one event with all its attributes.

    Raises:
        UnknownFormatError: it does, in another format than JSON.
    """
    if not media.startswith(_ANY_STRUCTURED):
        return False
    if media != STRUCTURED:
        raise UnknownFormatError(f"an event is read as {STRUCTURED}, not as {media}")
    return True


def parse_batch(body: bytes, most: int = MAX_BATCH) -> list[Event | InvalidEventError]:
    """The events of a batch, each read and checked by itself; an empty one is a batch, too.

    Raises:
        InvalidEventError: the body is no JSON array, or its events have different versions of the specification.
        TooManyItemsError: there are more than `most` events.
    """
    try:
        found = loads_items(body, most)
    except StrictJsonError as error:
        raise not_strict(error) from None
    if found is None:
        _refuse("body", "must be a JSON array of events")
    versions = {repr(one.get("specversion")) for one in found if isinstance(one, dict)}
    if len(versions) > 1:
        _refuse("specversion", f"must be the same in all events of a batch, not {', '.join(sorted(versions))}")
    return [_item(one) for one in found]


def _item(found: Any) -> Event | InvalidEventError:
    if isinstance(found, StrictJsonError):
        return not_strict(found)
    try:
        if not isinstance(found, dict):
            _refuse("body", "must hold JSON objects")
        return Event.from_attributes(found)
    except InvalidEventError as error:
        return error


def parse_binary(headers: Iterable[tuple[str, str]], content_type: str | None, body: bytes) -> Event:
    """The event whose attributes are headers and whose payload is the body.

    Raises:
        InvalidEventError: an attribute is missing, malformed or there twice; it names the attribute.
    """
    found: dict[str, Any] = {}
    for header, value in headers:
        name = header.lower()
        if not name.startswith(PREFIX):
            continue
        name = name.removeprefix(PREFIX)
        if name in _RESERVED:
            _refuse(name, "is no header: the content type and the body say it")
        if name in found:
            _refuse(name, "is there twice")
        found[name] = _decoded(name, value)
    if content_type:
        found["datacontenttype"] = content_type
    if body:
        found.update(_payload(content_type, body))
    return Event.from_attributes(found)


def _payload(content_type: str | None, body: bytes) -> dict[str, Any]:
    media = media_type(content_type)
    if _JSON_TYPE.fullmatch(media):
        try:
            return {"data": parse_json(body)}
        except InvalidEventError as error:
            raise InvalidEventError(str(error).replace("'body'", "'data'"), "data") from None
    if media.startswith("text/"):
        try:
            return {"data": body.decode()}
        except UnicodeDecodeError:
            pass  # text of another encoding is bytes to us
    return {"data_base64": base64.b64encode(body).decode()}


def _decoded(name: str, value: str) -> str:
    """A header's value as the attribute that it stands for (HTTP binding, section 3.1.3.2)."""
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode() if "%" in text else text.encode().decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        _refuse(name, "must be percent-encoded UTF-8")


def _refuse(attribute: str, why: str) -> NoReturn:
    raise InvalidEventError(f"CloudEvents attribute '{attribute}' {why}", attribute)
