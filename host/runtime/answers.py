"""What a hook answers, held to what the hook promises, where it enters the host.

A plugin's answer is as foreign as a stranger's request: behind this it is a value of its type, that every part of the
host can keep, encode and send on.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from host.runtime.errors import HookAnswerError
from plugin_sdk.calls import Health, HealthCall, HookCall, Request, Response, ServiceCall
from plugin_sdk.strict_json import dumps, loads

MAX_REASON: Final = 2000
"""Characters of a health check's reason; it is shown in every list."""
MAX_HEADERS: Final = 100
MAX_HEADER_CHARACTERS: Final = 32 * 1024
"""Of all headers of an answer: what clients and proxies take varies, and few take more."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110, section 5.6.2)."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What no header's value may hold (RFC 9110, section 5.5): a line break would begin a header of its own."""


def decoded(call: HookCall, answer: bytes | None) -> Any:
    """The answer of a hook in a worker, which came as JSON; None for nothing.

    Raises:
        HookAnswerError: it is not what the hook promises.
    """
    if answer is None:
        return checked(call, None)
    try:
        if not isinstance(call, HealthCall | Request):
            return loads(answer)
        value = msgspec.json.decode(answer, type=_shape(call))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HookAnswerError(_name(call), str(error)) from None
    return _fit(call, value)


def checked(call: HookCall, value: Any) -> Any:
    """The answer of a hook in this process, whose values nobody has looked at; errors as in `decoded`."""
    try:
        if isinstance(call, ServiceCall):
            dumps(value)
        if not isinstance(call, HealthCall | Request):
            return value
        if value is None and isinstance(call, HealthCall):
            return Health()
        shape = _shape(call)
        if not isinstance(value, shape):
            raise HookAnswerError(_name(call), f"it is {type(value).__name__}, and must be {shape.__name__}")
        # A struct that was made in code has whatever was put into its fields.
        value = msgspec.convert(msgspec.to_builtins(value, builtin_types=(bytes,)), shape)
        if isinstance(value, Health):
            dumps(value.reason)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise HookAnswerError(_name(call), str(error)) from None
    return _fit(call, value)


def _fit(call: HookCall, value: Health | Response) -> Health | Response:
    if isinstance(value, Health):
        return Health(value.status, value.reason[:MAX_REASON])
    why = _fault(value)
    if why:
        raise HookAnswerError(_name(call), why)
    return value


def _fault(answer: Response) -> str:
    """What keeps a response from being sent; empty for nothing."""
    if not 200 <= answer.status <= 599:  # noqa: PLR2004 - final statuses of HTTP
        return f"its status {answer.status} is none that ends a request: 200 to 599 do"
    if len(answer.headers) > MAX_HEADERS:
        return f"it has {len(answer.headers)} headers: at most {MAX_HEADERS} are sent"
    if sum(len(name) + len(value) for name, value in answer.headers.items()) > MAX_HEADER_CHARACTERS:
        return f"its headers have more than {MAX_HEADER_CHARACTERS} characters"
    for name, value in answer.headers.items():
        if not _TOKEN.fullmatch(name):
            return f"{ascii(name)[:80]} is no name of a header"
        if _CONTROL.search(value):
            return f"the header {name[:80]} holds a line break or another control character"
    return ""


def _shape(call: HealthCall | Request) -> type[Health | Response]:
    return Health if isinstance(call, HealthCall) else Response


def _name(call: HookCall) -> str:
    return f"{call.method}()" if isinstance(call, ServiceCall) else str(type(call).__struct_config__.tag)
