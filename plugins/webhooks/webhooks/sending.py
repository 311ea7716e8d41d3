"""One attempt: a signed request to an endpoint, and what came of it."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from plugin_sdk import Context, PermissionDeniedError
from plugin_sdk.clock import Clock
from plugin_sdk.egress import CODE_HEADER
from plugin_sdk.webhooks import sign
from webhooks.endpoints import Endpoint
from webhooks.errors import ApiError
from webhooks.keys import signing
from webhooks.messages import Attempt, Message, Outcome, rendered
from webhooks.schedule import parse_retry_after
from webhooks.url_guard import checked_url

TIMEOUT: Final = 20.0
BODY_TIMEOUT: Final = 2.0
"""Seconds for the body of an answer, which decides nothing."""
MAX_ANSWER: Final = 1024
"""Bytes of an answer that are kept."""
SUCCESS: Final = 2
"""The class of statuses that say that a message has arrived."""
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
        config = self._context.config
        outcome: Outcome
        try:
            # Again, because the config may have become stricter since the endpoint was made.
            checked_url(endpoint.url, allow_private=config.allow_private, ports=config.allowed_ports)
            return await self._request(endpoint, message, at, began)
        except (ApiError, PermissionDeniedError) as error:
            outcome, reason = "not_allowed", str(error)
        except aiohttp.ClientHttpProxyError as error:
            if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
                raise BusyError(error.message) from None
            code = error.message if error.headers is None else error.headers.get(CODE_HEADER, error.message)
            outcome, reason = "unreachable", f"the host's way out answered {error.status}: {code}"
        except TimeoutError:
            outcome, reason = "timeout", f"no answer within {TIMEOUT:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            outcome, reason = "unreachable", f"{type(error).__name__}: {error}"
        return Attempt(at=at, duration=self._clock.monotonic() - began, outcome=outcome, reason=reason[:MAX_ANSWER])

    async def _request(self, endpoint: Endpoint, message: Message, at: float, began: float) -> Attempt:
        body, content_type = rendered(message, endpoint.format)
        headers = {
            **endpoint.headers,
            "content-type": content_type,
            "user-agent": "busbar-webhooks/1",
            "accept-encoding": "identity",
            **sign(message.id, body, signing(endpoint.keys, at), now=at),
        }
        # The session is the plugin's one: what an endpoint sets as a cookie is never sent to it again.
        self._context.http.cookie_jar.clear()
        async with self._context.http.post(
            URL(endpoint.url, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        ) as response:
            return Attempt(
                at=at,
                status=response.status,
                outcome="delivered" if response.status // 100 == SUCCESS else "status",
                retry_after=parse_retry_after(response.headers.get("retry-after"), at),
                body=await _beginning(response),
                duration=self._clock.monotonic() - began,
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
