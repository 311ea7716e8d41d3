"""A plugin that notes what it was handed, and a context to hand it."""

from __future__ import annotations

import threading
from typing import Any

from plugin_sdk import Context, Delivery, Plugin
from plugin_sdk.context import Session
from plugin_sdk.testing import MemoryHost


def context(delivery: Delivery | None = None) -> Context:
    return Context(Session(plugin="orders", host=MemoryHost({})), delivery)


class Heard(Plugin):
    """A plugin that notes what its handlers were handed, and where they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def note(self, *what: object) -> None:
        self.heard.append((threading.current_thread() is threading.main_thread(), *what))
