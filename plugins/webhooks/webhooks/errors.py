"""What the routes refuse, as an answer: a status, a stable code, and a sentence that says how to mend it."""

from __future__ import annotations

from plugin_sdk import PluginError


class ApiError(PluginError):
    """A request that is answered with an error."""

    code = "webhooks_refused"

    def __init__(self, status: int, word: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.word = word
