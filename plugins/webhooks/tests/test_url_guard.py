"""Which URLs an endpoint may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhooks.errors import ApiError
from webhooks.url_guard import checked_url
from yarl import URL

PORTS = (80, 443)


def refused(url, **options):
    """The code with which a URL is refused."""
    with pytest.raises(ApiError) as error:
        checked_url(url, **{"allow_private": False, "ports": PORTS, **options})
    return error.value.word


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://example.com/hook?a=b", "https://example.com/hook?a=b"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("HTTPS://Example.COM:443/Hook", "https://example.com/Hook"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://93.184.216.34/", "https://93.184.216.34/"),
        ("https://[2606:4700::1111]/x", "https://[2606:4700::1111]/x"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://example.com./", "https://example.com./"),
        ("https://example.com/%20?q=a%26b", "https://example.com/%20?q=a%26b"),
        ("https://1password.com/", "https://1password.com/"),
    ],
)
def test_a_url_on_the_public_internet_is_taken(url, shown):
    assert checked_url(url, allow_private=False, ports=PORTS) == shown


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "/hook", "//example.com/", "https:/example.com", "https:example.com", "https://"),
        *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript://example.com/%0aalert(1)"),
        *("https://user@example.com/", "https://user:pass@example.com/", "https://example.com@127.0.0.1/"),
        *("https://example.com\\@127.0.0.1/", "https://example.com/#x", "https://example.com/a b", "https://a\tb.com/"),
        *("https://example.com/\n", "https://ex\u0430mple.com/", "https://example.com:/", "https://example.com:x/"),
        *(
            "https://example.com:443443/",
            "https://a.com:65536/",
            "https://-a.com/",
            "https://a..com/",
            "https://.com/",
            "https://a_b.com/",
        ),
        *(
            "https://[::1/",
            "https://[fe80::1%25eth0]/",
            "https://[]/",
            "https://[1.2.3.4]/",
            "https://a.com:0/",
            "https://%31.com/",
        ),
        *("https://" + "a" * 64 + ".com/", "https://" + "a." * 130 + "com/", "https://example.com/" + "x" * 2000),
        *("https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://0177.0.0.1/"),
        *("https://127.0.0.1.1/", "https://1.2.3/", "https://0x/", "https://example.0x7f/", "https://256.1.1.1/"),
        *("https://127.0.0.1./", "https://example.com.1/"),
    ],
)
def test_what_is_no_plain_url_is_refused(url):
    assert refused(url) == "url_invalid"
    assert refused(url, allow_private=True) == "url_invalid"


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "198.18.0.1", "[::1]", "[::]", "[fe80::1]", "[fd12::1]", "[ff02::1]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]"),
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "printer.local", "metadata.google.internal"),
        *("intranet", "db", "router.lan", "nas.home.arpa", "wiki.intranet"),
    ],
)
def test_what_is_inside_is_refused_unless_the_config_allows_it(host):
    assert refused(f"https://{host}/") == "url_refused"
    assert checked_url(f"https://{host}/", allow_private=True, ports=PORTS) == f"https://{host.lower()}/"


@pytest.mark.parametrize("port", [1, 22, 25, 8080, 6379, 65535])
def test_only_the_allowed_ports_are_taken(port):
    assert refused(f"https://example.com:{port}/") == "url_refused"
    assert refused("https://example.com:443/", ports=(8443,)) == "url_refused"
    assert checked_url("https://example.com:8443/", allow_private=False, ports=(8443,))


@given(st.text(max_size=80), st.text(max_size=20))
def test_no_text_raises_anything_but_the_refusal(text, host):
    for url in (text, f"https://{text}", f"https://{host}/{text}", f"http://[{host}]/"):
        try:
            found = checked_url(url, allow_private=False, ports=PORTS)
        except ApiError:
            continue
        assert found.startswith(("http://", "https://"))


HOSTS = st.from_regex(r"[a-z0-9.:@\[\]x-]{1,24}", fullmatch=True)


@given(HOSTS)
def test_the_client_finds_the_host_that_was_checked(host):
    try:
        found = checked_url(f"https://{host}/hook", allow_private=True, ports=PORTS)
    except ApiError:
        return
    parsed = URL(found, encoded=True)
    shown = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    assert (parsed.path, parsed.user) == ("/hook", None)
    assert found in {f"https://{shown}/hook", f"https://{shown}:{parsed.port}/hook"}
