import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugin_sdk import Webhook
from plugin_sdk.description import Description, Subscription
from plugin_sdk.errors import ManifestError
from plugin_sdk.manifest import MAX_MANIFEST_BYTES, Manifest, Permissions, PluginPart, RuntimePart, covered

STRIPE = Webhook(name="stripe", scheme="stripe", secrets=("key",))
GITHUB = Webhook(name="github", scheme="plugin")
WHOLE = """
[plugin]
id = "milestones"            # the version comes from the wheel
title = "Milestones"
api = 1                      # plugin_sdk contract
description = "Congratulates people."
requires = ["email>=1.0"]    # other plugins, PEP 508 versions

[permissions]
subscribe = ["milestone.*"]
publish = ["notification.requested"]
call = ["email.send", "directory.*"]
network = ["api.example.com:443", "[::1]:8080"]
secrets = ["api_key"]
webhooks = ["stripe"]
routes = true

[runtime]
isolation = "inline"
memory = "128MiB"
concurrency = 4
timeout = "30s"
"""


def manifest(plugin: str = "", permissions: str = "", runtime: str = "") -> Manifest:
    """A manifest with further lines of TOML in each of its parts."""
    return Manifest.parse(
        f'[plugin]\nid = "milestones"\ntitle = "Milestones"\n{plugin}\n'
        f"[permissions]\n{permissions}\n[runtime]\n{runtime}\n"
    )


def test_every_key_of_a_manifest_is_read() -> None:
    assert Manifest.parse(WHOLE) == Manifest(
        plugin=PluginPart(
            id="milestones",
            title="Milestones",
            api=1,
            description="Congratulates people.",
            requires=("email>=1.0",),
        ),
        permissions=Permissions(
            subscribe=("milestone.*",),
            publish=("notification.requested",),
            call=("email.send", "directory.*"),
            network=("api.example.com:443", "[::1]:8080"),
            secrets=("api_key",),
            webhooks=("stripe",),
            routes=True,
        ),
        runtime=RuntimePart(isolation="inline", memory=128 * 2**20, concurrency=4, timeout=30.0),
    )


@pytest.mark.parametrize("target", ["*:443", "*:*"])
def test_a_manifest_may_ask_for_every_public_host(target: str) -> None:
    text = f'plugin.id = "milestones"\nplugin.title = "Milestones"\npermissions.network = ["{target}"]'
    assert Manifest.parse(text).permissions.network == (target,)


def test_a_manifest_of_two_lines_asks_for_nothing_and_lives_in_a_process_of_its_own() -> None:
    least = Manifest.parse(b'plugin.id = "milestones"\nplugin.title = "Milestones"')
    assert least.permissions == Permissions()
    assert least.runtime == RuntimePart(isolation="process", memory=256 * 2**20, concurrency=8, timeout=10.0)
    assert least.permissions.beyond(Permissions()) == ()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"33554432B"', 2**25),
        ('"32768KiB"', 2**25),
        ('"32MiB"', 2**25),
        ('"64GiB"', 2**36),
        ('"64 MiB"', 2**26),
        ("67108864", 2**26),
    ],
)
def test_a_size_is_a_whole_number_of_bytes_or_of_a_unit(written: str, expected: int) -> None:
    assert manifest(runtime=f"memory = {written}").runtime.memory == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [('"250ms"', 0.25), ('"10s"', 10), ('"1.5s"', 1.5), ('"2m"', 120), ('"1h"', 3600), ('"5 s"', 5), ("2.5", 2.5)],
)
def test_a_time_is_seconds_or_a_number_of_a_unit(written: str, expected: float) -> None:
    assert manifest(runtime=f"timeout = {written}").runtime.timeout == pytest.approx(expected)


NAME = "is no name: write lower-case letters, digits, _ and -, a letter first"
SERVICE = "is no service; write plugin.method, such as 'email.send'"
TARGET = "is no network target; write host:port, such as 'api.example.com:443'"
PATTERN = "is no event type pattern; write dotted words with *: 'milestone.*'"
SIZE = "runtime.memory: write a size as a whole number and B, KiB, MiB or GiB: '128MiB'"
TIME = "runtime.timeout: write a time as a number and ms, s, m or h: '10s'"
ID = "a plugin id has lower-case letters and digits in words joined by '-', a letter first, and at most 64 characters"

REFUSED: list[tuple[str, str, str]] = [
    ("permissions", 'subscribe = ["order placed"]', f"permissions.subscribe.0: 'order placed' {PATTERN}"),
    ("permissions", 'subscribe = ["a", ""]', f"permissions.subscribe.1: '' {PATTERN}"),
    ("permissions", 'publish = ["a..b"]', f"permissions.publish.0: 'a..b' {PATTERN}"),
    ("permissions", 'call = ["email"]', f"permissions.call.0: 'email' {SERVICE}"),
    ("permissions", 'call = ["*.send"]', f"permissions.call.0: '*.send' {SERVICE}"),
    ("permissions", 'call = ["email.send*"]', f"permissions.call.0: 'email.send*' {SERVICE}"),
    ("permissions", 'network = ["example.com"]', f"permissions.network.0: 'example.com' {TARGET}"),
    ("permissions", 'network = ["https://example.com:443"]', f"'https://example.com:443' {TARGET}"),
    ("permissions", 'network = ["*.example.com:443"]', f"'*.example.com:443' {TARGET}"),
    ("permissions", 'network = ["example.com:*"]', f"'example.com:*' {TARGET}"),
    ("permissions", 'network = ["*:0"]', f"'*:0' {TARGET}"),
    ("permissions", 'network = ["*"]', f"'*' {TARGET}"),
    ("permissions", 'network = ["::1:443"]', f"'::1:443' {TARGET}"),
    ("permissions", 'network = ["example.com:0"]', f"'example.com:0' {TARGET}"),
    ("permissions", 'network = ["example.com:65536"]', f"'example.com:65536' {TARGET}"),
    ("permissions", 'secrets = ["API_KEY"]', f"permissions.secrets.0: 'API_KEY' {NAME}"),
    ("permissions", 'webhooks = ["a/b"]', f"permissions.webhooks.0: 'a/b' {NAME}"),
    ("permissions", f'webhooks = ["{"a" * 65}"]', NAME),
    ("plugin", 'requires = ["email=1"]', "plugin.requires.0: 'email=1' is no requirement (PEP 508)"),
    ("plugin", 'requires = ["Email>=1"]', f"plugin.requires.0: {ID}"),
    ("plugin", f'requires = ["email>={"1" * 500}"]', "' is longer than 500 characters"),
    ("plugin", r'description = "\u001b[2J"', r"plugin.description: '\x1b[2J' holds characters that cannot be shown"),
    ("plugin", r'description = "one\ntwo"', r"plugin.description: 'one\ntwo' holds characters that cannot be shown"),
    ("plugin", r'description = "\u202egnp"', r"plugin.description: '\u202egnp' holds characters that cannot be shown"),
    ("runtime", 'memory = "128MB"', SIZE),
    ("runtime", 'memory = "1.5GiB"', SIZE),
    ("runtime", 'memory = "128"', SIZE),
    ("runtime", 'memory = "31MiB"', "runtime.memory: Input should be greater than or equal to 33554432"),
    ("runtime", 'memory = "65GiB"', "runtime.memory: Input should be less than or equal to 68719476736"),
    ("runtime", "concurrency = 0", "runtime.concurrency: Input should be greater than or equal to 1"),
    ("runtime", "concurrency = 1025", "runtime.concurrency: Input should be less than or equal to 1024"),
    ("runtime", 'timeout = "10"', TIME),
    ("runtime", 'timeout = "-1s"', TIME),
    ("runtime", 'timeout = "1d"', TIME),
    ("runtime", 'timeout = "0s"', "runtime.timeout: Input should be greater than 0"),
    ("runtime", "timeout = nan", "runtime.timeout: Input should be greater than 0"),
    ("runtime", 'timeout = "61m"', "runtime.timeout: Input should be less than or equal to 3600"),
    ("runtime", 'isolation = "thread"', "runtime.isolation: Input should be 'process' or 'inline'"),
    ("plugin", "titel = 1", "unknown key 'plugin.titel': did you mean 'title'?"),
    ("plugin", "x = 1", "unknown key 'plugin.x': known keys: api, description, id, requires, title"),
    ("permissions", "subscribes = []", "unknown key 'permissions.subscribes': did you mean 'subscribe'?"),
    ("runtime", 'memroy = "1GiB"', "unknown key 'runtime.memroy': did you mean 'memory'?"),
    ("runtime", "[runtimes]", "unknown key 'runtimes': did you mean 'runtime'?"),
    ("runtime", "[x]", "unknown key 'x': known keys: permissions, plugin, runtime"),
]


@pytest.mark.parametrize(("part", "line", "sentence"), REFUSED, ids=[f"{case[1][:40]}" for case in REFUSED])
def test_a_wrong_line_is_refused_and_the_sentence_says_where_and_how_to_write_it(
    part: str, line: str, sentence: str
) -> None:
    with pytest.raises(ManifestError) as refused:
        manifest(**{part: line})
    assert refused.value.code == "manifest_invalid"
    (problem,) = refused.value.problems
    assert sentence in problem
    assert str(refused.value) == f"plugin.toml is refused: {problem}"


@pytest.mark.parametrize("wrong", ["Milestones", "mile_stones", "1st", "a--b", "-a", "a-", "", "a" * 65, "a\n", "ä"])
def test_an_id_that_no_plugin_may_have_is_refused(wrong: str) -> None:
    with pytest.raises(ManifestError) as refused:
        Manifest.parse(f"plugin.id = {json.dumps(wrong)}\nplugin.title = 'x'")
    assert refused.value.problems == (f"plugin.id: {ID}",)


def test_a_title_that_drives_a_terminal_is_refused() -> None:
    with pytest.raises(ManifestError) as refused:
        Manifest.parse(r'plugin = {id = "milestones", title = "\u001b]0;x\u0007"}')
    (problem,) = refused.value.problems
    assert r"plugin.title: '\x1b]0;x\x07' holds characters that cannot be shown" in problem
    assert problem.isprintable()


@pytest.mark.parametrize("good", ["a", "a1-2b", "a" * 64])
def test_an_id_up_to_the_bound_is_kept_as_it_is(good: str) -> None:
    assert Manifest.parse(f"plugin.id = '{good}'\nplugin.title = 'x'").plugin.id == good


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ManifestError) as refused:
        Manifest.parse("[plugin]\nid = 'Bad'\n[permissions]\nroute = true\n[runtime]\ntimeout = 'soon'")
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "plugin.id",
        "plugin.title",
        "unknown key 'permissions.route'",
        "runtime.timeout",
    ]
    assert all(problem in str(refused.value) for problem in refused.value.problems)


@pytest.mark.parametrize(
    "text",
    [b"[plugin", b"id = ", b"\xff", b"a = 1\na = 2", b"x = " + b"[" * 30_000, "\ufeff[plugin]".encode()],
    ids=["open header", "no value", "no UTF-8", "a key twice", "nested too deep", "byte order mark"],
)
def test_what_is_no_toml_in_utf_8_is_refused(text: bytes) -> None:
    with pytest.raises(ManifestError, match="plugin.toml is no TOML in UTF-8: ."):
        Manifest.parse(text)


def test_a_manifest_has_a_bound_in_bytes() -> None:
    text = b"plugin.id = 'milestones'\nplugin.title = 'x'\n#"
    longest = text + b"." * (MAX_MANIFEST_BYTES - len(text))
    assert Manifest.parse(longest).plugin.id == "milestones"
    with pytest.raises(ManifestError, match=f"at most {MAX_MANIFEST_BYTES} bytes, not {MAX_MANIFEST_BYTES + 1}"):
        Manifest.parse(longest + b".")
    with pytest.raises(ManifestError, match="at most"):
        Manifest.parse("#" + "ä" * (MAX_MANIFEST_BYTES // 2))


def test_a_manifest_for_another_contract_is_refused_with_what_to_build_against() -> None:
    with pytest.raises(ManifestError) as refused:
        manifest(plugin="api = 2")
    assert str(refused.value) == (
        "plugin.toml is written for contract 2, this host speaks 1: build the plugin against a plugin_sdk of that "
        "contract"
    )


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@example(b"plugin = 1")
@example(b"[[plugin]]")
@example(b"plugin = []\npermissions = 1979-05-27\nruntime = ''")
@example(b"[plugin.id]\n[permissions]\nsubscribe = {}\nroutes = []")
def test_bytes_that_are_no_manifest_are_refused_and_raise_nothing_else(text: bytes) -> None:
    with pytest.raises(ManifestError) as refused:
        Manifest.parse(text)
    assert str(refused.value).startswith("plugin.toml ")


def test_a_number_that_is_too_long_to_read_is_refused() -> None:
    with pytest.raises(ManifestError):
        manifest(runtime=f"concurrency = {'9' * 5000}")


def test_a_requirement_that_nests_too_deep_is_refused() -> None:
    with pytest.raises(ManifestError):
        manifest(plugin=f'requires = ["email; {"(" * 20_000}"]')


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("permissions", 'routes = "yes"'),
        ("permissions", "routes = 1"),
        ("plugin", "api = true"),
        ("runtime", 'concurrency = "8"'),
        ("runtime", "concurrency = true"),
        ("runtime", "timeout = true"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_converted(part: str, line: str) -> None:
    with pytest.raises(ManifestError):
        manifest(**{part: line})


# What an administrator has to allow


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        (
            Permissions(),
            (
                "subscribe: milestone.*",
                "publish: notification.requested",
                "call: email.send",
                "call: directory.*",
                "network: api.example.com:443",
                "network: [::1]:8080",
                "secrets: api_key",
                "webhooks: stripe",
                "routes: true",
            ),
        ),
        (Manifest.parse(WHOLE).permissions, ()),
        (Manifest.parse(WHOLE).permissions.model_copy(update={"routes": False}), ("routes: true",)),
        (
            Manifest.parse(WHOLE).permissions.model_copy(update={"call": ("directory.*", "other.one")}),
            ("call: email.send",),
        ),
    ],
    ids=["nothing granted", "all granted", "no routes", "one of two"],
)
def test_what_a_manifest_asks_for_beyond_the_grants_is_listed(granted: Permissions, missing: tuple[str, ...]) -> None:
    assert Manifest.parse(WHOLE).permissions.beyond(granted) == missing


# What the code does beyond its manifest


def takes(*types: str) -> Description:
    return Description(subscriptions=(Subscription(name="order", types=types),))


CHECKS: list[tuple[str, str, Description, tuple[str, ...]]] = [
    ("within a pattern", 'subscribe = ["order.*"]', takes("order.placed", "order.*.paid"), ()),
    (
        "one type of two",
        'subscribe = ["order.placed"]',
        takes("order.placed", "order.paid"),
        ("subscription 'order' takes 'order.paid', which permissions.subscribe does not cover",),
    ),
    (
        "a wider pattern",
        'subscribe = ["order.*"]',
        takes("order*"),
        ("subscription 'order' takes 'order*', which permissions.subscribe does not cover",),
    ),
    (
        "nothing allowed",
        "",
        Description(subscriptions=(Subscription(name="all", types=("*",)),), webhooks=(STRIPE, GITHUB), routes=True),
        (
            "subscription 'all' takes '*', which permissions.subscribe does not cover",
            "webhook 'stripe' is not in permissions.webhooks",
            "webhook 'github' is not in permissions.webhooks",
            "webhook 'stripe' needs the secret 'key', which is not in permissions.secrets",
            "the code serves HTTP routes, but permissions.routes is not true",
        ),
    ),
    (
        "webhooks and routes",
        'webhooks = ["stripe"]\nsecrets = ["key"]\nroutes = true',
        Description(webhooks=(STRIPE,), routes=True),
        (),
    ),
    ("asks for more than it does", 'subscribe = ["*"]\nroutes = true', Description(), ()),
]


@pytest.mark.parametrize(
    ("permissions", "described", "problems"), [case[1:] for case in CHECKS], ids=[case[0] for case in CHECKS]
)
def test_what_the_code_describes_beyond_its_manifest_is_a_sentence_each(
    permissions: str, described: Description, problems: tuple[str, ...]
) -> None:
    assert manifest(permissions=permissions).check(described) == problems


TYPES = st.text("ab.", max_size=6)
PATTERNS = st.text("ab.*", max_size=6)


@given(PATTERNS, st.lists(PATTERNS, max_size=3).map(tuple), TYPES)
def test_what_is_covered_matches_nothing_that_the_grants_do_not(
    wanted: str, granted: tuple[str, ...], event_type: str
) -> None:
    if covered(wanted, granted) and fnmatchcase(event_type, wanted):
        assert any(fnmatchcase(event_type, pattern) for pattern in granted)


@given(PATTERNS, PATTERNS)
def test_what_one_grant_does_not_cover_matches_something_that_it_does_not(wanted: str, granted: str) -> None:
    witness = wanted.replace("*", "x")
    assert fnmatchcase(witness, wanted)
    assert covered(wanted, (granted,)) is fnmatchcase(witness, granted)


@pytest.mark.timeout(2)
def test_a_grant_of_many_stars_is_compared_at_once() -> None:
    assert not covered("a" * 60, ("*a" * 20 + "*b",))


def test_a_manifest_is_a_value_that_nobody_changes() -> None:
    parsed: Any = Manifest.parse(WHOLE)
    with pytest.raises(ValueError, match="frozen"):
        parsed.permissions.routes = False
