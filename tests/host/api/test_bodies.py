"""Bodies as strangers send them: content codings that are broken, unknown or explode, and framing that is not kept."""

import asyncio
import gzip
import zlib

import pytest
from raw_http import RawClient

from host.api.app import Routes, Server
from host.api.body import read_bounded
from host.api.endpoint import TRACE, Endpoint
from host.api.envelope import rfc3339, success, written
from host.observe.descriptors import Descriptors
from host.observe.metrics import RequestCounts
from host.settings import Server as ServerSettings

LIMIT = 10_000
TEXT = b"what was sent, " * 20


async def echo(request):
    body = await read_bounded(request, LIMIT)
    return success(
        {"bytes": len(body), "same": body == TEXT, "coding": request.headers.get("Content-Encoding")}, request[TRACE]
    )


@pytest.fixture
async def server():
    routes = Routes([Endpoint("POST", "/echo", "echo", "Echo.", None, raw=echo)], None, RequestCounts())
    settings = ServerSettings(port=0)
    one = Server(routes, settings, Descriptors.share_out(20_000, settings.connections))
    await one.start()
    yield int(one.address.rpartition(":")[2])
    await one.stop()


@pytest.fixture
async def client(server):
    one = RawClient(server)
    yield one
    await one.close()


def raw_deflate(content):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


TAKEN = [
    (None, TEXT),
    ("", TEXT),
    ("identity", TEXT),
    ("Identity, ", TEXT),
    ("gzip", gzip.compress(TEXT)),
    ("GZip", gzip.compress(TEXT)),
    ("x-gzip", gzip.compress(TEXT)),
    ("identity, gzip", gzip.compress(TEXT)),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", raw_deflate(TEXT)),
]


@pytest.mark.parametrize(("coding", "body"), TAKEN, ids=[str(number) for number in range(len(TAKEN))])
async def test_a_body_is_read_without_its_coding(client, coding, body):
    headers = [] if coding is None else [("Content-Encoding", coding)]
    answer = await client.ask("POST", "/echo", body=body, headers=headers)
    assert (answer.status, answer.json()["data"]["same"]) == (200, True)


BROKEN = [
    ("gzip", b"junk"),
    ("gzip", b"\x1f\x8b"),
    ("gzip", gzip.compress(TEXT)[:-8]),
    ("gzip", gzip.compress(TEXT)[:20]),
    ("gzip", gzip.compress(TEXT)[:-4] + b"\0\0\0\0"),
    ("gzip", gzip.compress(TEXT) + b"more"),
    ("gzip", gzip.compress(TEXT) * 2),
    ("gzip", zlib.compress(TEXT)),
    ("gzip", TEXT),
    ("deflate", b"junk"),
    ("deflate", b"\x78"),
    ("deflate", zlib.compress(TEXT)[:-4]),
    ("deflate", gzip.compress(TEXT)),
    ("deflate", raw_deflate(TEXT)[:-3]),
    ("deflate", b"\xff" * 50),
]


@pytest.mark.parametrize(("coding", "body"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
async def test_a_body_that_is_not_coded_as_it_says_is_the_senders_mistake(client, coding, body):
    answer = await client.ask("POST", "/echo", body=body, headers=[("Content-Encoding", coding)])
    assert (answer.status, answer.json()["code"]) == (400, "body_malformed")


@pytest.mark.parametrize(
    "coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, deflate", "odd", "*", "gzip;q=1", "\xff\x01", "x" * 5000]
)
async def test_a_coding_that_is_not_undone_here_is_refused_with_those_that_are(client, coding):
    answer = await client.ask("POST", "/echo", body=TEXT, headers=[("Content-Encoding", coding.replace("\x01", ""))])
    assert (answer.status, answer.json()["code"]) == (415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate"


async def test_two_headers_of_one_coding_each_are_two_codings(client):
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")]
    answer = await client.ask("POST", "/echo", body=gzip.compress(gzip.compress(TEXT)), headers=headers)
    assert answer.status == 415


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413), (50 * 2**20, 413)])
async def test_no_more_is_unpacked_than_a_body_may_have(client, coding, size, status):
    body = (gzip.compress if coding == "gzip" else zlib.compress)(bytes(size))
    if size > 2**20:
        body = body[:LIMIT]  # of a bomb its first bytes are enough
    answer = await client.ask("POST", "/echo", body=body, headers=[("Content-Encoding", coding)])
    assert answer.status == status


async def test_a_body_without_bytes_needs_no_coding(client):
    answer = await client.ask("POST", "/echo", body=b"", headers=[("Content-Encoding", "gzip")])
    assert answer.json()["data"]["bytes"] == 0


CHUNKED = [("Transfer-Encoding", "chunked")]


@pytest.mark.parametrize("chunks", [b"5\r\nhello\r\n0\r\n\r\n", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"])
async def test_a_chunked_body_is_read(client, chunks):
    assert (await client.ask("POST", "/echo", body=chunks, headers=CHUNKED)).status == 200


async def test_a_chunked_body_is_bounded_before_it_has_ended(client):
    answer = await client.ask("POST", "/echo", body=b"%x\r\n" % (LIMIT + 1) + b"x" * (LIMIT + 1), headers=CHUNKED)
    assert (answer.status, answer.json()["code"]) == (413, "body_too_large")


async def test_framing_that_breaks_within_a_body_is_the_senders_mistake(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await writer.drain()
    await asyncio.sleep(0)
    writer.write(b"zz\r\nhello\r\n0\r\n\r\n")
    head = await reader.readuntil(b"\r\n")
    assert b" 400 " in head
    writer.close()


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (253402300799.9999, "9999-12-31T23:59:59.999Z"),
        (253402300800.0, "9999-12-31T23:59:59.999Z"),
        (1e300, "9999-12-31T23:59:59.999Z"),
        (float("inf"), "9999-12-31T23:59:59.999Z"),
        (float("-inf"), "0001-01-01T00:00:00.000Z"),
        (float("nan"), "0001-01-01T00:00:00.000Z"),
        (-1e18, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_every_time_can_be_written(stamp, text):
    assert written(stamp) == rfc3339(stamp) == text


def test_a_text_that_cannot_be_encoded_is_an_escape_in_the_answer():
    answer = success({"a": ["\ud800", {"\udcff": 1}]}, "t")
    assert b'"a":["\\\\ud800",{"\\\\udcff":1}]' in answer.body
