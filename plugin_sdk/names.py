"""The names of what a plugin describes: subscriptions, schedules and services."""

from __future__ import annotations

import re
from typing import Final

from plugin_sdk.errors import DescriptionError

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check_name(what: str, name: str) -> None:
    """Refuse what cannot be the name of a `what`.

    Raises:
        DescriptionError: it is no name.
    """
    if not NAME.fullmatch(name):
        raise DescriptionError(
            f"'{name}' is no name for a {what}: write lower-case letters, digits and _, a letter first"
        )
