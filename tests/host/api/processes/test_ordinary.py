"""What an HTTP process serves: a head that passes is read by the one parser as it was understood here, to the byte."""

import asyncio
import hashlib

import pytest
from aiohttp.http import HttpRequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from host.api.processes.ordinary import MAX_ORDINARY, START, Judge, ordinary
from host.identity.access import Role, Token, TokenTable
from plugin_sdk.clock import SystemClock

LINES = [b"Host: x", b"Authorization: Bearer bbt_1", b"Content-Type: application/json", b"Content-Length: 2"]


def head(*more, lines=LINES, start=START):
    return start + b"".join(line + b"\r\n" for line in (*lines, *more)) + b"\r\n"


def without(name):
    return [line for line in LINES if not line.startswith(name)]


class Fed:
    """What aiohttp's parser makes of bytes."""

    def __init__(self, data):
        self.error = None
        self.messages = []
        loop = asyncio.new_event_loop()
        parser = HttpRequestParser(Paused(), loop, 2**16, auto_decompress=False)
        try:
            self.messages, self.upgraded, _ = parser.feed_data(data)
        except Exception as error:
            self.error = error
        finally:
            loop.close()


class Paused:
    """A protocol that may be paused and is not."""

    def pause_reading(self):
        pass

    def resume_reading(self, resume_parser=True):
        pass


def test_an_ordinary_request_is_known_by_its_size_and_its_token():
    found = ordinary(head() + b"{}and more")
    assert (found.head, found.body, found.secret) == (len(head()), 2, "bbt_1")


@pytest.mark.parametrize(
    "came",
    [
        b"",
        head()[:-1],
        head(start=b"GET /api/v1/events HTTP/1.1\r\n"),
        head(start=b"POST /api/v1/events HTTP/1.0\r\n"),
        head(start=b"POST /api/v1/events?x HTTP/1.1\r\n"),
        head(start=b"POST //api/v1/events HTTP/1.1\r\n"),
        head(start=b"\r\n" + START),
        head(start=START.replace(b"\r\n", b"\n")),
        head(b"Transfer-Encoding: chunked"),
        head(b"transfer-encoding:identity"),
        head(b"Transfer-Encoding : chunked"),
        head(b"Content-Length: 2"),
        head(b"content-length: 3"),
        head(b"Content-Length : 3"),
        head(b"Host: y"),
        head(b"Authorization: Bearer bbt_2"),
        head(b"Expect: 100-continue"),
        head(b"Upgrade: websocket"),
        head(b"TE: trailers"),
        head(b"Trailer: x"),
        head(b"Connection: close"),
        head(b"Connection: keep-alive, close"),
        head(b"Connection: upgrade"),
        head(b"Connection:\tclose"),
        head(b"X: a\x00b"),
        head(b"X: \xc3\xa9"),
        head(b"X: a\rb"),
        head(b"X: a\nContent-Length: 5"),
        head(b"X: a", b" folded"),
        head(b"X y: a"),
        head(b": a"),
        head(b"no colon"),
        head(*[b"X: a"] * 70),
        head(b"X: " + b"a" * MAX_ORDINARY),
        head(lines=without(b"Host")),
        head(lines=without(b"Authorization")),
        head(lines=without(b"Content-Length")),
        head(b"Content-Length: +2", lines=without(b"Content-Length")),
        head(b"Content-Length: 0x2", lines=without(b"Content-Length")),
        head(b"Content-Length: 2, 2", lines=without(b"Content-Length")),
        head(b"Content-Length: ", lines=without(b"Content-Length")),
        head(b"Content-Length: 9999999999", lines=without(b"Content-Length")),
        head(b"Authorization: Basic bbt_1", lines=without(b"Authorization")),
        head(b"Authorization: Bearer  bbt_1", lines=without(b"Authorization")),
    ],
)
def test_whatever_is_not_of_the_plainest_form_is_left_to_the_host(came):
    assert ordinary(came + b"{}") is None


FIELD = st.one_of(
    st.sampled_from(
        [
            *(b"Connection: keep-alive", b"connection:keep-alive", b"X-Transfer-Encoding: chunked", b"Accept: */*"),
            *(b"Content-Encoding: gzip", b"Transfer-Encoding: chunked", b"Content-Length: 1", b"Keep-Alive: 5"),
            *(b"Proxy-Connection: close", b"Connection: close", b"Connection : close", b"Host: a:b", b"ce-id: \t1"),
            *(b"Content-Length:\t2", b"Content-Length: 02", b"Upgrade: h2c", b"HTTP2-Settings: x", b"X:"),
        ]
    ),
    st.builds(
        lambda name, value: name + b": " + value,
        st.text("abcXYZ-_!#~09", min_size=1, max_size=12).map(str.encode),
        st.binary(max_size=12),
    ),
    st.binary(max_size=20),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(FIELD, max_size=6), st.permutations(LINES), st.integers(0, 4), st.binary(max_size=40))
@example([], LINES, 4, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
@example([b"Content-Length: 02"], LINES[:3], 3, b"")
def test_what_passes_is_one_message_to_the_parser_and_ends_where_it_was_said_to(more, lines, at, behind):
    came = head(lines=[*lines[:at], *more, *lines[at:]]) + b"{}" + behind
    found = ordinary(came)
    if found is None or len(came) < found.head + found.body:
        return
    fed = Fed(came[: found.head + found.body])
    assert fed.error is None
    assert not fed.upgraded
    ((message, payload),) = fed.messages
    assert (message.method, message.path) == ("POST", "/api/v1/events")
    assert (message.should_close, message.chunked, message.upgrade) == (False, False, False)
    assert payload.is_eof()
    assert found.body in {0, payload.total_bytes}
    assert message.headers.getall("Authorization") == [f"Bearer {found.secret}"]
    short = Fed(came[: found.head + found.body - 1])
    assert not short.messages or not short.messages[0][1].is_eof()


@pytest.mark.parametrize(
    ("role", "expires_at", "served"),
    [(Role.OPERATOR, None, True), (Role.ADMIN, 2e9 * 2, True), (Role.VIEWER, None, False), (Role.ADMIN, 1.0, False)],
)
def test_only_tokens_that_may_publish_are_served_by_a_process(role, expires_at, served):
    table = TokenTable(SystemClock())
    judge = Judge(table, 1000)
    assert judge(head() + b"{}") is None
    table.by_hash[hashlib.sha256(b"bbt_1").digest()] = Token("1", "ci", role, 0.0, expires_at)
    assert (judge(head() + b"{}") is not None) == served


def test_a_body_that_is_larger_than_any_may_be_is_left_to_the_host():
    table = TokenTable(SystemClock())
    table.by_hash[hashlib.sha256(b"bbt_1").digest()] = Token("1", "ci", Role.ADMIN, 0.0, None)
    assert Judge(table, 2)(head()) is not None
    assert Judge(table, 1)(head()) is None
