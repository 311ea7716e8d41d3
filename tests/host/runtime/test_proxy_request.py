"""What a request to the egress broker may look like: host names as RFC 1123 has them, ports, and nothing mended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.runtime.proxy_request import ProxyRequest, RefusedError, read_request

LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])


def connect(target):
    return read_request(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode("latin-1"))


def plain(target, *headers):
    return read_request("\r\n".join([f"GET {target} HTTP/1.1", *headers, "", ""]).encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("api.example.com:443", "api.example.com", 443),
        ("API.example.com.:443", "API.example.com.", 443),
        ("localhost:1", "localhost", 1),
        ("xn--bcher-kva.example:65535", "xn--bcher-kva.example", 65535),
        ("3com.example:080", "3com.example", 80),
        (f"{LONGEST}:443", LONGEST, 443),
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("192.0.2.1.:443", "192.0.2.1", 443),
        ("[2001:DB8::1]:443", "2001:db8::1", 443),
        ("[::ffff:192.0.2.1]:443", "::ffff:c000:201", 443),
    ],
)
def test_a_host_and_a_port_are_taken_as_they_are_written(target, host, port):
    assert connect(target) == ProxyRequest(host, port, b"")


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".example.com",
        "example.com..",
        ".",
        "",
        "a" * 64,
        f"{'a' * 64}.example.com",
        f"{LONGEST}a",
        f"{LONGEST}.e",
        "a." * 700 + "b",
        "-a.example.com",
        "a-.example.com",
        "a_b.example.com",
        "exa%6dple.com",
        "a%00b.example.com",
        "a,b",
        "*.example.com",
        "a;b",
        "[192.0.2.1]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[]",
        "[::1::]",
        "[v1.example]",
    ],
)
def test_what_no_name_server_can_be_asked_about_is_a_400_with_a_reason(host):
    for ask in (lambda: connect(f"{host}:443"), lambda: plain(f"http://{host}:80/")):
        with pytest.raises(RefusedError) as refused:
            ask()
        assert (refused.value.status, refused.value.code) == ("400 Bad Request", "name_invalid")
        assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0x7f.1", "0177.0.0.1", "1.2.3.4.5", "256.1.1.1", "a.0x", "a.1"]
)
def test_a_number_that_some_resolvers_take_for_an_address_is_no_name(host):
    with pytest.raises(RefusedError, match="write an address as") as refused:
        connect(f"{host}:443")
    assert refused.value.code == "address_refused"


@pytest.mark.parametrize(
    "target",
    [
        *("example.com:0", "example.com:00000", "example.com:65536", "example.com:99999", "example.com:000443"),
        *("example.com:+80", "example.com:-1", "example.com:8_0", "example.com:0x50", "example.com:", "example.com"),
        *("example.com:80:80", "example.com:\xb2", "example.com:8\xa0", "user@example.com:443", "a:b@example.com:443"),
        *(
            "::1:443",
            "[::1]",
            "[::1]443",
            "[::1]x:443",
            "x[::1]:443",
            "[[::1]]:443",
            "/:80@",
            "http://example.com:443/",
        ),
    ],
)
def test_what_is_no_host_and_port_is_malformed(target):
    with pytest.raises(RefusedError) as refused:
        connect(target)
    assert (refused.value.status, refused.value.code) == ("400 Bad Request", "malformed")


@pytest.mark.parametrize(
    "target",
    [
        *("http://example.com:0/", "http://example.com:65536/", "http://example.com:+80/", "http://example.com:-80/"),
        *("http://user@example.com/", "http://@example.com/", "http://a:b@example.com/", "http:///path", "http://"),
        *("http://example.com\\@evil.example/", "http://[::1/", "http://[::1]x/", "http://x[::1]/", "http://::1/"),
        *("https://example.com/", "ftp://example.com/", "//example.com/", "/", "*", "http:/example.com/"),
    ],
)
def test_a_url_that_can_be_read_in_two_ways_or_leads_elsewhere_is_malformed(target):
    with pytest.raises(RefusedError) as refused:
        plain(target)
    assert refused.value.code in {"malformed", "name_invalid"}


@pytest.mark.parametrize(
    ("target", "line", "named", "port"),
    [
        ("http://example.com", b"GET / HTTP/1.1", b"Host: example.com", 80),
        ("http://example.com:/a", b"GET /a HTTP/1.1", b"Host: example.com", 80),
        ("HTTP://example.com:8080/a?b=c#d", b"GET /a?b=c HTTP/1.1", b"Host: example.com:8080", 8080),
        ("http://example.com?b", b"GET /?b HTTP/1.1", b"Host: example.com", 80),
        ("http://[2001:db8::1]/", b"GET / HTTP/1.1", b"Host: [2001:db8::1]", 80),
        ("http://[2001:db8::1]:81/a@b:c", b"GET /a@b:c HTTP/1.1", b"Host: [2001:db8::1]:81", 81),
    ],
)
def test_a_plain_request_is_written_anew_for_where_it_goes(target, line, named, port):
    request = plain(target, "Host: other.example", "Proxy-Authorization: x", "Connection: keep-alive", "X-Kept: 1")
    assert request.port == port
    assert request.rest.split(b"\r\n") == [line, named, b"X-Kept: 1", b"Connection: close", b"", b""]


def test_a_line_that_would_go_on_from_the_one_before_it_is_malformed():
    with pytest.raises(RefusedError):
        plain("http://example.com/", " @evil.example")


HOSTS = st.one_of(
    st.text(st.characters(max_codepoint=255)), st.from_regex(r"[a-z0-9.\-\[\]:%@_]{0,300}", fullmatch=True)
)


@given(HOSTS, st.one_of(st.integers().map(str), st.text(max_size=8)))
def test_whatever_is_asked_for_it_is_a_target_or_a_refusal(host, port):
    for head in (f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n", f"GET http://{host}:{port}/ HTTP/1.1\r\n\r\n"):
        _taken_or_refused(head.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=400))
def test_whatever_bytes_come_they_are_a_request_or_a_refusal(raw):
    for head in (raw, raw + b"\r\n\r\n", b"CONNECT " + raw + b" HTTP/1.1\r\n\r\n"):
        _taken_or_refused(head)


def _taken_or_refused(head):
    request = refused = None
    try:
        request = read_request(head)
    except RefusedError as error:
        refused = error
    if request is None:
        assert refused.status.startswith("4")
        assert len(str(refused).encode()) < 400
        return
    assert 0 < request.port < 65536
    request.host.encode("idna")  # as getaddrinfo would have it, which raises at what it cannot ask about
    assert read_request(f"CONNECT {request.target} HTTP/1.1\r\n\r\n".encode()).host == request.host
