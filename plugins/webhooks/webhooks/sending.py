"""One attempt: a signed request to an endpoint, and what came of it."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import aiohttp
from yarl import URL

from plugin_sdk import Context, PermissionDeniedError
from plugin_sdk.clock import Clock
from plugin_sdk.webhooks import sign
from webhooks.endpoints import Endpoint
from webhooks.keys import signing
from webhooks.messages import Attempt, Message, rendered
from webhooks.schedule import parse_retry_after

TIMEOUT: Final = 20.0
BODY_TIMEOUT: Final = 2.0
"""Seconds for the body of an answer, which decides nothing."""
MAX_ANSWER: Final = 1024
"""Bytes of an answer that are kept."""
BUSY: Final = 503
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class BusyError(Exception):
    """The request was not made, for want of something on this side; it says nothing about the endpoint."""


class Sender:
    """Makes attempts through the host's way out."""

    def __init__(self, context: Context, clock: Clock) -> None:
        self._context = context
        self._clock = clock

    async def attempt(self, endpoint: Endpoint, message: Message) -> Attempt:
        """Send a message once; whatever the other side does is in the attempt.

        Raises:
            BusyError: nothing was sent.
        """
        at, began = self._clock.now().timestamp(), self._clock.monotonic()
        body, content_type = rendered(message, endpoint.format)
        headers = {
            **endpoint.headers,
            "content-type": content_type,
            "user-agent": "busbar-webhooks/1",
            "accept-encoding": "identity",
            **sign(message.id, body, signing(endpoint.keys, at), now=at),
        }
        status: int | None = None
        answer, retry_after, reason = "", None, ""
        # The session is the plugin's one: what an endpoint sets as a cookie is never sent to it again.
        self._context.http.cookie_jar.clear()
        try:
            async with self._context.http.post(
                URL(endpoint.url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            ) as response:
                status = response.status
                retry_after = parse_retry_after(response.headers.get("retry-after"), at)
                answer = await _beginning(response)
        except PermissionDeniedError as error:
            return Attempt(at=at, duration=0.0, outcome="not_allowed", reason=str(error)[:MAX_ANSWER])
        except aiohttp.ClientHttpProxyError as error:
            if error.status == BUSY:
                raise BusyError(error.message) from None
            reason = f"the way out answered {error.status}: {error.message}"
        except TimeoutError:
            return Attempt(
                at=at,
                duration=self._clock.monotonic() - began,
                outcome="timeout",
                reason=f"no answer within {TIMEOUT:g} s",
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        return Attempt(
            at=at,
            duration=self._clock.monotonic() - began,
            outcome="unreachable" if status is None else "delivered" if 200 <= status < 300 else "status",  # noqa: PLR2004 - success in HTTP
            status=status,
            reason=reason[:MAX_ANSWER],
            body=answer,
            retry_after=retry_after,
        )


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The first bytes of an answer as text; what has come of it where the rest does not come."""
    found = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while len(found) < MAX_ANSWER and (chunk := await response.content.read(MAX_ANSWER - len(found))):
                found += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()  # the status has been said; the rest of the body changes nothing
    return _CONTROL.sub(" ", found.decode(errors="replace"))
