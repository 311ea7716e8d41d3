"""Integers beyond 64 bits on the wire: JSON has them, MessagePack does not, so they travel as an extension type.

They are so rare that nothing looks for them: a message is rewritten only after the encoder has refused it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

CODE: Final = 1
"""Our extension type: an integer as a decimal number in ASCII, which is what Python bounds the length of."""
_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**64 - 1


def narrowed(value: Any) -> Any:
    """The value with every integer that MessagePack has no form for as an extension; others stay as they are.

    It is called for messages alone, whose values nest no deeper than what they were decoded from.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if _LOWEST <= value <= _HIGHEST else msgspec.msgpack.Ext(CODE, str(value).encode("ascii"))
    if isinstance(value, dict):
        return {name: narrowed(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [narrowed(one) for one in value]
    if isinstance(value, msgspec.Struct):
        changed = {}
        for name in value.__struct_fields__:
            own = getattr(value, name)
            if (narrow := narrowed(own)) is not own:
                changed[name] = narrow
        return msgspec.structs.replace(value, **changed)
    return value


def widened(code: int, data: memoryview) -> int:
    """The integer of an extension, as a decoder's `ext_hook`.

    Raises:
        ValueError: it is no such extension, or no number, or one that is too long.
    """
    text = bytes(data)
    if code != CODE or not text.removeprefix(b"-").isdigit():
        raise ValueError(f"an extension of type {code} that is no integer")
    return int(text)
