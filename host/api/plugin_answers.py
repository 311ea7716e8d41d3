"""Where a plugin's answer becomes HTTP: which of its headers pass, and what the host says beside them.

Routes and webhooks of plugins share the host's origin, its connections and whatever proxy stands before it, so a header
of theirs can speak for all three. What is not known to speak for the answer alone is left out: new headers come faster
than lists of harmful ones.
"""

from __future__ import annotations

import re
from typing import Final

import structlog
from aiohttp import web

from host.api.errors import PluginAnswerError
from plugin_sdk.calls import Response

PASSED: Final = frozenset(
    {
        # what the body is
        *("content-type", "content-language", "content-disposition", "content-encoding", "content-location"),
        *("content-range", "accept-ranges", "etag", "last-modified"),
        # where to go on, and when
        *("location", "link", "allow", "retry-after"),
        # what else would be taken, and how long this will be there
        *("accept", "accept-patch", "accept-post", "vary", "preference-applied", "deprecation", "sunset"),
        *("ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
        # which pages of others may read it; never with a browser's credentials, which are not the plugin's to take
        *("access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"),
        *("access-control-expose-headers", "access-control-max-age"),
    }
)
"""Headers that speak for the answer alone; beside them pass those that begin with `x-`, except `HELD`."""
HELD: Final = (
    # a proxy before the host obeys these: files and addresses inside, taking the host out of service, its caches
    *("x-accel-", "x-sendfile", "x-lighttpd-", "x-litespeed-", "x-reproxy-", "x-envoy-", "x-proxy-", "x-varnish"),
    *("x-cache", "x-forwarded-", "x-original-", "x-rewrite-", "x-real-ip", "x-http-method"),
    # a browser obeys these, for the page or for the host; and the host's own
    *("x-frame-options", "x-content-type-options", "x-content-security-policy", "x-webkit-csp", "x-xss-protection"),
    *("x-permitted-cross-domain-policies", "x-download-options", "x-dns-prefetch-control", "x-ua-compatible"),
    "x-trace-id",
)
"""How the names of headers begin that do not pass although they begin with `x-`."""
BODILESS: Final = frozenset({204, 205, 304})
"""Statuses without content (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5); what comes with them is left out."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110, section 5.6.2)."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What no header's value may hold (RFC 9110, section 5.5), and what cannot be encoded."""

_log = structlog.get_logger(__name__)


def rendered(plugin: str, answer: Response) -> web.Response:
    """A plugin's answer as it goes out.

    Raises:
        PluginAnswerError: its status ends no request, or a header is none.
    """
    if not 200 <= answer.status <= 599:  # noqa: PLR2004 - final statuses of HTTP
        raise PluginAnswerError(f"{plugin} answered with the status {answer.status}: 200 to 599 end a request")
    headers = _passed(plugin, answer)
    # A plugin's page must not run with the host's origin: in a sandbox it has none, and no script.
    headers["Content-Security-Policy"] = "sandbox"
    return web.Response(status=answer.status, headers=headers, body=b"" if answer.status in BODILESS else answer.body)


def _passed(plugin: str, answer: Response) -> dict[str, str]:
    passed: dict[str, str] = {}
    spelled: set[str] = set()
    dropped = []
    for name, value in answer.headers.items():
        if not _TOKEN.fullmatch(name):
            raise PluginAnswerError(f"{plugin} answered with {ascii(name)[:80]}, which is no name of a header")
        if _CONTROL.search(value):
            raise PluginAnswerError(f"{plugin} answered with a control character in the header {name[:80]}")
        if name.lower() in spelled:
            raise PluginAnswerError(f"{plugin} answered with the header {name[:80]} twice")
        spelled.add(name.lower())
        if _speaks_for_itself(name.lower()):
            passed[name] = value.strip(" \t")
        else:
            dropped.append(name[:80])
    if dropped:
        _log.debug("plugin_headers_dropped", plugin=plugin, headers=dropped)
    return passed


def _speaks_for_itself(name: str) -> bool:
    return name in PASSED or (name.startswith("x-") and not name.startswith(HELD))
