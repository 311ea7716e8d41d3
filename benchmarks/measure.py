"""What a benchmark answers, and how it is printed: one JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and its peer's, measured in the same run; both are in `unit`."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float

    def line(self) -> str:
        """The figure as one line of JSON."""
        found = {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "peer": self.peer,
            "peerValue": round(self.peer_value, 3),
            "ratio": round(self.value / self.peer_value, 3),
        }
        return json.dumps(found)
