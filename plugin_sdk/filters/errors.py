"""What the filter language refuses."""

from __future__ import annotations

from typing import ClassVar

from plugin_sdk.errors import DescriptionError


class FilterError(DescriptionError):
    """A list of filters that the language does not allow.

    `path` is the position of what is wrong, such as `filters[0].all[1].prefix.type`; the message starts with it.
    """

    code: ClassVar[str] = "filter_invalid"

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path
