"""Who sends wrong tokens, and how often: guesses are seen and slowed by address, and a valid token is never held up.

Whoever shares an address with a guesser, behind one proxy or on one machine, comes in with a valid token as ever: 256
random bits are not guessed at any speed, so all that is to be gained is quiet, and a guesser who is seen.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.metrics_core import CounterMetricFamily

from host.errors import BusbarError, ErrorKind
from plugin_sdk.resilience import TokenBucket

ALLOWED: Final = 20
"""Different wrong tokens of one address before it is slowed, and how many come back in a `WINDOW`."""
WINDOW: Final = 60.0
AGAIN: Final = 0.1
"""What a wrong token counts that the address has sent before: whoever repeats an old token does not guess."""
REMEMBERED: Final = 32
"""Wrong tokens that are known again, of one address."""
MAX_ADDRESSES: Final = 4096
"""Addresses that are counted; the one that was quiet for longest is forgotten first."""


class TooManyAttemptsError(BusbarError):
    """An address has sent too many wrong tokens."""

    code = "too_many_attempts"
    kind = ErrorKind.BUSY


@dataclass(slots=True)
class _Address:
    bucket: TokenBucket
    sent: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


class Guesses:
    """Counts wrong tokens.

    Args:
        now: The monotonic time, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._wrong = 0

    def wrong(self, address: str, secret: str) -> None:
        """Count a token that was wrong.

        Args:
            address: Of who sent it, as `counted_as` has it.
            secret: The token. Of it a part of a hash is kept, for a while and in memory.

        Raises:
            TooManyAttemptsError: the address has sent too many.
        """
        self._wrong += 1
        known = self._addresses.pop(address, None)
        if known is None:
            known = _Address(TokenBucket(ALLOWED / WINDOW, ALLOWED, self._now))
        self._addresses[address] = known
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        digest = hashlib.sha256(secret.encode(errors="surrogatepass")).digest()[:8]
        cost = AGAIN if digest in known.sent else 1.0
        known.sent[digest] = None
        if len(known.sent) > REMEMBERED:
            known.sent.popitem(last=False)
        if not known.bucket.take(cost):
            raise TooManyAttemptsError(
                f"{address} has sent too many wrong tokens: wait, and send one that is valid",
                retry_after=WINDOW / ALLOWED,
            )

    def metrics(self) -> Iterator[Metric]:
        """As metrics."""
        yield CounterMetricFamily("busbar_wrong_tokens", "Tokens sent that were wrong.", value=self._wrong)
