"""The deliveries that a worker has in its hands: sent, answered, cancelled, asked back. A worker is taken for hostile.

Each is answered once, by what the host asked for: an end of what nobody made, or something given back that nobody asked
for, ends the worker, so none keeps the host busy with deliveries that come and go without an attempt. No delivery took
longer than since it was sent, whatever its worker says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from host.runtime.hook_outcomes import error_of
from host.runtime.runtime import Handed, Hands
from plugin_sdk.calls import Flight
from plugin_sdk.errors import DeadLetter
from plugin_sdk.worker.wire import Cancel, Deliver, Done, GoOn, Raised, Recall, Recalled, UncarriableError


class HandedOver:
    """Deliveries of one worker.

    Args:
        send: Sends a message to it; what cannot be carried is raised.
        now: The loop's time.
        broken: Called with why, where the worker does not keep to the protocol.

    Attributes:
        given_up: Those that were cancelled and have not ended, by number, and since when.
    """

    def __init__(self, send: Callable[[Any], None], now: Callable[[], float], broken: Callable[[str], None]) -> None:
        self._send = send
        self._now = now
        self._broken = broken
        self._hands: Hands | None = None
        self._handed: dict[int, tuple[Handed, float]] = {}  # and when each was sent
        self.given_up: dict[int, float] = {}
        self._asked_back: set[int] = set()

    def __len__(self) -> int:
        return len(self._handed)

    def fly(self, first: int, flight: Flight, handed: Sequence[Handed], hands: Hands) -> None:
        """Send deliveries, which have the numbers from `first` on.

        Raises:
            DeadLetter: they cannot be carried, at whatever attempt.
        """
        self._hands = hands
        deliveries = [(one.stored.sequence, one.attempt, one.stored.body) for one in handed]
        try:
            self._send(Deliver(first, flight, deliveries))
        except UncarriableError as error:
            raise DeadLetter(f"it cannot be handed to a worker: {error}") from None
        now = self._now()
        for number, one in enumerate(handed, first):
            one.number = number
            self._handed[number] = one, now

    def cancel(self, handed: Handed) -> None:
        """Cancel a delivery; its answer still comes, unless the hook does not heed the cancellation."""
        if self._handed.pop(handed.number, None) is not None:
            self._asked_back.discard(handed.number)
            self.given_up[handed.number] = self._now()
            self._send(Cancel(handed.number))

    def recall(self, handed: Sequence[Handed]) -> None:
        """Ask for deliveries back; the worker answers which of them it had not begun."""
        numbers = [one.number for one in handed if one.number in self._handed]
        self._asked_back.update(numbers)
        self._send(Recall(numbers))

    def go_on(self) -> None:
        """Begin deliveries again."""
        self._send(GoOn())

    # -- what the worker answers

    def done(self, message: Done) -> None:
        """Some ended well."""
        if not message.ids or len(message.ids) != len(message.seconds):
            self._broken("an end of deliveries that is of none, or has not a time for each")
            return
        now = self._now()
        landings: list[tuple[Handed, Exception | None, float]] = []
        for number, seconds in zip(message.ids, message.seconds, strict=True):
            found = self._handed.pop(number, None)
            self._asked_back.discard(number)
            if found is not None:
                landings.append((found[0], None, min(seconds, now - found[1])))
            elif self.given_up.pop(number, None) is None:
                self._broken(f"an end of a delivery {number} that nobody made")
        if landings and self._hands is not None:
            self._hands.landed(landings)

    def raised(self, message: Raised) -> bool:
        """One raised; whether it is a delivery at all."""
        found = self._handed.pop(message.id, None)
        self._asked_back.discard(message.id)
        if found is None or self._hands is None:
            return self.given_up.pop(message.id, None) is not None
        self._hands.landed([(found[0], error_of(message), min(message.seconds, self._now() - found[1]))])
        return True

    def recalled(self, message: Recalled) -> None:
        """Some were not begun, and will not be."""
        back: list[Handed] = []
        for number in message.ids:
            found = self._handed.pop(number, None) if number in self._asked_back else None
            self._asked_back.discard(number)
            if found is not None:
                back.append(found[0])
            elif self.given_up.pop(number, None) is None:
                self._broken(f"a delivery {number} is given back that nobody asked for")
                break
        if not message.ids:
            self._broken("deliveries are given back, and they are none")
        if back and self._hands is not None:
            self._hands.recalled(back)

    def died(self, error: Exception) -> None:
        """The worker ended: so did all that it had."""
        handed, self._handed = self._handed, {}
        self.given_up.clear()
        self._asked_back.clear()
        if handed and self._hands is not None:
            self._hands.landed([(one, error, 0.0) for one, _ in handed.values()])
