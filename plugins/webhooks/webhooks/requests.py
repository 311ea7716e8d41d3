"""What the routes take, as models: parsed strictly once, and refused with a sentence for each field that is wrong."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, ValidationError
from pydantic.alias_generators import to_camel

from plugin_sdk.description import TYPE_GLOB
from plugin_sdk.strict_json import StrictJsonError, loads
from webhooks.errors import ApiError
from webhooks.keys import LONGEST_OVERLAP, Kind
from webhooks.messages import Format

MAX_TYPES: Final = 50
MAX_FILTERS: Final = 20
MAX_HEADERS: Final = 20
MAX_STARS: Final = 16
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?")
_OURS: Final = frozenset(
    {
        *("accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect"),
        *("host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent"),
    }
)
"""Headers that speak for the connection or the message itself; and all that begin with `webhook-` or `proxy-`."""


def _glob(value: str) -> str:
    if len(value) > 200 or not TYPE_GLOB.fullmatch(value) or value.count("*") > MAX_STARS:  # noqa: PLR2004 - a bound
        raise ValueError(f"'{value[:200]}' is no event type: write dotted words with * for any characters: 'order.*'")
    return value


def _headers(value: dict[str, str]) -> dict[str, str]:
    found = {name.lower(): text for name, text in value.items()}
    for name, text in found.items():
        if not _NAME.fullmatch(name) or name in _OURS or name.startswith(("webhook-", "proxy-")):
            raise ValueError(f"'{name[:100]}' is no header that an endpoint can set")
        if not _VALUE.fullmatch(text):
            raise ValueError(
                f"the value of '{name}' must be 1 to 1024 printable ASCII characters without blanks around"
            )
    if len(found) != len(value):
        raise ValueError("a header is there twice")
    return found


Types = Annotated[
    tuple[Annotated[str, AfterValidator(_glob)], ...],
    Field(min_length=1, max_length=MAX_TYPES),
]
Filters = Annotated[tuple[dict[str, Any], ...], Field(max_length=MAX_FILTERS)]
Headers = Annotated[dict[str, str], Field(max_length=MAX_HEADERS), AfterValidator(_headers)]
Rate = Annotated[float, Field(ge=0.01, le=1000, allow_inf_nan=False)]
Description = Annotated[str, Field(max_length=500)]


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class Create(_Body):
    """`POST /endpoints`."""

    url: str
    description: Description = ""
    types: Types = ("*",)
    filters: Filters = ()
    enabled: StrictBool = True
    rate_per_second: Rate | None = None
    headers: Headers = {}
    format: Format = "cloudevents"
    secret: str | None = None


class Update(_Body):
    """`PATCH /endpoints/{id}`: only what is given changes."""

    url: str = ""
    description: Description = ""
    types: Types = ("*",)
    filters: Filters = ()
    enabled: StrictBool = True
    rate_per_second: Rate | None = None
    headers: Headers = {}
    format: Format = "cloudevents"


class Rotate(_Body):
    """`POST /endpoints/{id}/secret/rotate`: a key of one's own, or the kind of a fresh one."""

    secret: str | None = None
    kind: Kind | None = None
    old_key_valid_seconds: Annotated[int, Field(ge=0, le=LONGEST_OVERLAP)] = 86_400


class SendTest(_Body):
    """`POST /endpoints/{id}/test`."""

    type: Annotated[str, Field(min_length=1, max_length=200)] = "webhooks.test"
    data: Any = None


class Recover(_Body):
    """`POST /endpoints/{id}/recover`: failed messages since an instant, or one of them."""

    since: AwareDatetime | None = None
    message: str | None = None


B = TypeVar("B", bound=_Body)


def parsed(model: type[B], body: bytes) -> B:
    """A request's body as its model; an empty one is an empty object.

    Raises:
        ApiError: `body_invalid`, with a sentence for each field.
    """
    try:
        found = loads(body) if body else {}
    except StrictJsonError as error:
        raise ApiError(400, "body_invalid", f"the body is no strict JSON: {error}") from None
    try:
        return model.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, "))))
            for item in error.errors()
        )
        raise ApiError(400, "body_invalid", problems) from None
