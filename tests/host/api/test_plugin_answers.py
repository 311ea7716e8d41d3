"""What of a plugin's answer goes out, seen as bytes on a connection of the host."""

import asyncio

import pytest
from aiohttp.test_utils import RawTestServer

from host.api.errors import PluginAnswerError
from host.api.plugin_answers import HELD, PASSED, rendered
from plugin_sdk.calls import Response

OF_THE_HOST = [
    # framing and connection (RFC 9112), and what proxies take for theirs (RFC 9110, section 7.6.1)
    *(
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "Upgrade",
        "TE",
        "Trailer",
        "Proxy-Connection",
    ),
    *("Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info", "Via", "Age", "Close"),
    # the whole origin, or the whole browser
    *("Set-Cookie", "Set-Cookie2", "Strict-Transport-Security", "Clear-Site-Data", "Public-Key-Pins", "Expect-CT"),
    *("Alt-Svc", "Service-Worker-Allowed", "NEL", "Report-To", "Reporting-Endpoints", "Origin-Agent-Cluster"),
    *("Accept-CH", "Critical-CH", "Permissions-Policy", "Feature-Policy", "Refresh", "SourceMap", "Use-As-Dictionary"),
    *(
        "WWW-Authenticate",
        "Authentication-Info",
        "Access-Control-Allow-Credentials",
        "Access-Control-Allow-Private-Network",
    ),
    *(
        "Cross-Origin-Opener-Policy",
        "Cross-Origin-Resource-Policy",
        "Cross-Origin-Embedder-Policy",
        "Timing-Allow-Origin",
    ),
    *("Content-Security-Policy-Report-Only", "Referrer-Policy", "Speculation-Rules", "Supports-Loading-Mode", "P3P"),
    *("Cache-Control", "Expires", "Pragma", "Surrogate-Control", "CDN-Cache-Control", "Status", "webhook-id"),
    # a proxy before the host
    *("X-Accel-Redirect", "X-Sendfile", "X-LiteSpeed-Location", "X-Reproxy-URL", "X-Envoy-Immediate-Health-Check-Fail"),
    # the host's own headers
    *(
        "Date",
        "Server",
        "X-Trace-ID",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "X-XSS-Protection",
        "X-Permitted-Cross-Domain-Policies",
        "X-Forwarded-For",
    ),
]


async def sent(answer, method="GET"):
    """The head of the answer as pairs, and its body, as they stand on the connection."""

    async def handle(request):
        return rendered("orders", answer)

    async with RawTestServer(handle) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(f"{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        raw = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return (
        status,
        [(name, "now" if (name, "GMT" in value) == ("Date", True) else value) for name, value in headers],
        body,
    )


@pytest.mark.parametrize("name", OF_THE_HOST)
@pytest.mark.parametrize("written", [str.title, str.upper, str.lower])
async def test_a_header_that_speaks_for_the_host_does_not_pass(name, written):
    plain = await sent(Response(200, {"Content-Type": "text/plain"}, b"hello"))
    assert await sent(Response(200, {"Content-Type": "text/plain", written(name): "7"}, b"hello")) == plain


@pytest.mark.parametrize("name", [*sorted(PASSED), "X-Hook-Secret", "x-request-id", "X-Robots-Tag"])
async def test_a_header_that_speaks_for_its_answer_passes(name):
    _, headers, body = await sent(Response(200, {name: " 7\t"}, b"hello"))
    assert (name, "7") in headers
    assert body == b"hello"


async def test_no_plugin_can_loosen_the_sandbox_of_its_page():
    for policy in ("sandbox allow-scripts allow-same-origin", "default-src *", ""):
        _, headers, _ = await sent(Response(200, {"content-security-policy": policy}, b"<script>"))
        assert [value for name, value in headers if name.lower() == "content-security-policy"] == ["sandbox"]


@pytest.mark.parametrize(
    "name",
    [
        *("Set-Cookie ", "Transfer-Encoding\t", " Set-Cookie", "Set-Cookie:", "Set\x00Cookie", "X-A\r\nSet-Cookie", ""),
        *("X\udc80", "Sét-Cookie", "X-A: b\r\n\r\n<script>"),
    ],
)
async def test_a_name_that_is_no_token_is_the_plugins_failure(name):
    with pytest.raises(PluginAnswerError) as refused:
        rendered("orders", Response(200, {name: "session=stolen"}))
    assert (refused.value.word, refused.value.kind.value) == ("plugin_answer_invalid", 502)
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\x00b", "a\x7fb", "\udcff"])
async def test_a_value_with_a_control_character_is_the_plugins_failure(value):
    with pytest.raises(PluginAnswerError):
        rendered("orders", Response(200, {"X-Note": value}))


async def test_the_same_header_in_two_spellings_is_the_plugins_failure():
    with pytest.raises(PluginAnswerError):
        rendered("orders", Response(200, {"Content-Type": "text/plain", "content-type": "text/html"}))


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 103, 199, 600, 999, 2**40])
async def test_a_status_that_ends_no_request_is_the_plugins_failure(status):
    with pytest.raises(PluginAnswerError):
        rendered("orders", Response(status))


@pytest.mark.parametrize("status", [200, 203, 299, 307, 418, 451, 499, 500, 599])
async def test_any_final_status_goes_out(status):
    line, headers, body = await sent(Response(status, {}, b"hello"))
    assert line.startswith(f"HTTP/1.1 {status}")
    assert (dict(headers)["Content-Length"], body) == ("5", b"hello")


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_an_answer_without_content_has_none_whatever_the_plugin_put_there(status):
    line, headers, body = await sent(Response(status, {}, b"HTTP/1.1 200 OK\r\n\r\n"))
    assert line.startswith(f"HTTP/1.1 {status}")
    assert (dict(headers).get("Content-Length", "0"), body) == ("0", b"")


async def test_an_answer_to_head_says_how_long_its_body_would_be_and_sends_none():
    _, headers, body = await sent(Response(200, {"Content-Type": "text/plain"}, b"hello"), method="HEAD")
    assert (dict(headers)["Content-Length"], body) == ("5", b"")


def test_no_header_is_both_passed_and_held():
    assert not [name for name in PASSED if name.startswith(HELD)]
