"""What a grant lets a plugin connect to, and which addresses a name never leads to."""

import pytest

from host.runtime.destinations import Destinations, reachable


@pytest.mark.parametrize(
    ("granted", "host", "port", "holds"),
    [
        ("api.example.com:443", "api.example.com", 443, True),
        ("api.example.com:443", "API.Example.COM.", 443, True),
        ("API.example.com:443", "api.example.com", 443, True),
        ("api.example.com:443", "api.example.com", 80, False),
        ("api.example.com:443", "example.com", 443, False),
        ("api.example.com:443", "evil.api.example.com", 443, False),
        ("api.example.com:443", "api.example.com.evil.org", 443, False),
        ("10.0.0.5:5432", "10.0.0.5", 5432, True),
        ("[2001:db8::1]:443", "[2001:DB8:0::1]", 443, True),
        ("[::1]:80", "::1", 80, True),
        ("*:443", "api.example.com", 443, True),
        ("*:443", "api.example.com", 80, False),
        ("*:*", "api.example.com", 8080, True),
        ("api.example.com:0443", "api.example.com", 443, True),
    ],
)
def test_a_grant_holds_for_one_host_and_one_port(granted, host, port, holds):
    assert Destinations([granted]).holds(host, port) is holds


@pytest.mark.parametrize("granted", ["*:443", "*:*"])
@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST.", "127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.1.2.3", "224.0.0.1", "255.255.255.255"),
        *("[::1]", "[::]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1]", "[fd12::1]"),
        *("[64:ff9b::a00:1]", "[2002:a00:1::]", "[ff02::1]"),
    ],
)
def test_a_wildcard_grants_no_address_that_is_not_public(granted, host):
    assert not Destinations([granted]).holds(host, 443)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost.localdomain"])
def test_an_odd_spelling_of_an_address_gets_no_further_behind_a_wildcard_than_a_name(host):
    assert Destinations(["*:443"]).holds(host, 443)
    assert not reachable("127.0.0.1", host)


@pytest.mark.parametrize("host", ["93.184.216.34", "[2606:4700::1111]", "[::ffff:1.1.1.1]"])
def test_a_wildcard_grants_public_addresses(host):
    assert Destinations(["*:443"]).holds(host, 443)


def test_a_wildcard_beside_a_named_address_widens_it_to_nothing():
    granted = Destinations(["*:443", "10.0.0.5:5432", "localhost:8080"])
    assert granted.holds("10.0.0.5", 5432)
    assert not granted.holds("10.0.0.5", 443)
    assert not granted.holds("localhost", 443)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *("169.254.169.254", "169.254.0.1", "100.64.0.1", "192.0.0.1", "198.18.0.1", "203.0.113.1", "240.0.0.1"),
        *("224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1"),
        *("ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("2002:7f00:1::", "2002:a00:1::", "2001:db8::1", "::7f00:1", "::a00:1", "64:ff9b:1::1", "fec0::1", "5f00::1"),
    ],
)
def test_a_name_never_leads_to_an_address_that_is_not_public(address):
    assert not reachable(address, "api.example.com")


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_a_name_leads_to_public_addresses(address):
    assert reachable(address, "api.example.com")


@pytest.mark.parametrize(
    ("address", "host", "expected"),
    [
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.6", "10.0.0.5", False),
        ("fd12::1", "[FD12:0::1]", True),
        ("169.254.169.254", "169.254.169.254", True),
        ("127.0.0.1", "localhost", True),
        ("::1", "LOCALHOST.", True),
        ("10.0.0.1", "localhost", False),
        ("127.0.0.1", "localhost.example.com", False),
    ],
)
def test_an_address_that_is_not_public_is_reached_where_the_grant_names_it(address, host, expected):
    assert reachable(address, host) is expected
