"""Which index answers for a plugin, what is taken from it, and what of it arrives."""

import hashlib

import pytest
from index_servers import IndexServer, indexes
from yarl import URL

from host.errors import ErrorKind
from host.supply.errors import ReleaseRefusedError, SupplyError
from host.supply.index.errors import IndexNotConfiguredError, IndexUnavailableError, ReleaseNotFoundError
from host.supply.index.findings import Installed
from host.supply.index.index_source import IndexSource, asked_for, origin_of
from host.supply.index.requirements import parse_requirement

DEMO = parse_requirement("acme-demo")
SIGNED = b'{"payload": "..."}\n'
MAX = 2**20


@pytest.fixture
async def main():
    async with IndexServer() as server:
        yield server


@pytest.fixture
async def other():
    async with IndexServer() as server:
        yield server


async def found(client, requirement=DEMO, **options):
    candidate = await client.find(requirement, **options)
    return candidate.index, candidate.version


# Which index answers


async def test_the_newest_version_of_the_index_that_has_the_plugin_is_found(main):
    for version in ("1.0", "1.10", "1.9"):
        main.has(version)
    async with indexes(main.source()) as client:
        assert await found(client) == ("main", "1.10")
    assert main.paths == ["/simple/acme-demo/"]


async def test_the_first_index_that_has_the_plugin_answers_and_a_newer_version_elsewhere_is_not_looked_for(main, other):
    main.has("1.0")
    other.has("99.0")
    async with indexes(other.source("other"), main.source(priority=1)) as client:
        assert await found(client) == ("main", "1.0")
    assert other.asked == []


async def test_an_index_without_the_plugin_is_followed_by_the_next_one(main, other):
    other.has("1.0")
    async with indexes(main.source(), other.source("other")) as client:
        assert await found(client) == ("other", "1.0")


async def test_an_index_that_has_the_plugin_and_nothing_that_fits_is_followed_by_none(main, other):
    main.has("1.0")
    other.has("2.0")
    async with indexes(main.source(), other.source("other")) as client:
        with pytest.raises(ReleaseNotFoundError, match="nothing of it that fits") as refused:
            await client.find(parse_requirement("acme-demo>=2"))
    assert refused.value.errors == ("1 wheels are of versions that are not asked for",)
    assert other.asked == []


@pytest.mark.parametrize("status", [500, 503, 429, 401, 403, 418])
async def test_an_index_that_does_not_say_whether_it_has_the_plugin_is_followed_by_none(main, other, status):
    main.answers_with("/simple/acme-demo/", status=status)
    other.has("2.0")
    async with indexes(main.source(), other.source("other")) as client:
        with pytest.raises(SupplyError):
            await client.find(DEMO)
    assert other.asked == []


async def test_an_index_that_is_down_is_followed_by_none_and_may_be_asked_later(other):
    other.has("2.0")
    async with IndexServer() as gone:
        down = gone.source()
    async with indexes(down, other.source("other")) as client:
        with pytest.raises(IndexUnavailableError) as refused:
            await client.find(DEMO)
    assert (refused.value.word, refused.value.kind) == ("index_unavailable", ErrorKind.UNAVAILABLE)
    assert refused.value.retry_after
    assert other.asked == []


async def test_what_an_index_says_about_when_to_ask_again_is_passed_on_within_bounds(main):
    async with indexes(main.source()) as client:
        for said, passed_on in (("7", 7.0), ("999999999", 3600.0), ("soon", 30.0)):
            main.answers_with("/simple/acme-demo/", status=503, headers={"Retry-After": said})
            with pytest.raises(IndexUnavailableError) as refused:
                await client.find(DEMO)
            assert refused.value.retry_after == passed_on


async def test_a_plugin_that_an_index_names_comes_from_no_other_however_high_its_priority(main, other):
    main.has("1.0")
    other.has("99.0")
    async with indexes(other.source("other", priority=100), main.source(plugins=("acme",))) as client:
        assert await found(client) == ("main", "1.0")
        main.projects.clear()
        with pytest.raises(ReleaseNotFoundError, match="no index has acme-demo: asked were main"):
            await client.find(DEMO)
    assert other.asked == []


CLAIMS = [
    ({"a": (), "b": ()}, ["a", "b"]),
    ({"a": (), "b": ("acme",)}, ["b"]),
    ({"a": ("acme",), "b": ("acme-demo",)}, ["b"]),
    ({"a": ("acme",), "b": ("acme",)}, ["a", "b"]),
    ({"a": ("acm",), "b": ()}, ["b"]),
    ({"a": ("acme-demo-x",), "b": ("acme-dem",)}, []),
    ({"a": ("other", "acme"), "b": ("other",)}, ["a"]),
]


@pytest.mark.parametrize(("plugins", "asked"), CLAIMS)
def test_the_longest_name_that_an_index_gives_decides_who_is_asked(plugins, asked):
    sources = [IndexSource(name, URL("http://a.example.org/"), plugins=own) for name, own in plugins.items()]
    assert [source.name for source in asked_for("acme-demo", sources)] == asked


def test_of_equal_claims_the_higher_priority_is_asked_first_then_the_order_of_the_settings():
    priorities = {"a": 0, "b": 5, "c": 0, "d": -1}
    sources = [IndexSource(name, URL("http://a.example.org/"), priority=own) for name, own in priorities.items()]
    assert [source.name for source in asked_for("acme-demo", sources)] == ["b", "a", "c", "d"]


async def test_without_an_index_the_sentence_says_where_to_add_one():
    async with indexes() as client:
        for asking in (client.find(DEMO), client.search("demo")):
            with pytest.raises(IndexNotConfiguredError, match="supply.indexes") as refused:
                await asking
            assert refused.value.word == "index_not_configured"


# A plugin is bound to its index


async def test_a_bound_plugin_comes_from_its_index_alone_whatever_others_have(main, other):
    main.has("1.0")
    other.has("2.0")
    async with indexes(other.source("other", priority=5), main.source()) as client:
        assert await found(client, bound_to="main") == ("main", "1.0")
    assert other.asked == []


async def test_a_plugin_that_vanished_from_its_index_is_not_looked_for_elsewhere(main, other):
    other.has("2.0")
    async with indexes(main.source(), other.source("other")) as client:
        with pytest.raises(ReleaseNotFoundError, match="does not have acme-demo any more"):
            await client.find(DEMO, bound_to="main")
    assert other.asked == []


async def test_a_plugin_whose_index_is_not_in_the_settings_any_more_comes_from_nowhere(main):
    main.has("1.0")
    async with indexes(main.source()) as client:
        with pytest.raises(IndexNotConfiguredError, match="comes from index gone"):
            await client.find(DEMO, bound_to="gone")
    assert main.asked == []


async def test_an_index_that_may_not_give_the_plugin_any_more_is_not_asked_for_it(main):
    main.has("1.0")
    async with indexes(main.source(plugins=("other",))) as client:
        with pytest.raises(IndexNotConfiguredError, match="may not give it any more"):
            await client.find(DEMO, bound_to="main")
    assert main.asked == []


async def test_an_index_that_went_back_to_an_older_state_is_not_believed(main):
    main.has("1.0")
    async with indexes(main.source()) as client:
        assert await found(client, bound_to="main", newest="1.0") == ("main", "1.0")
        with pytest.raises(ReleaseRefusedError, match=r"had acme-demo 1\.1") as refused:
            await client.find(DEMO, bound_to="main", newest="1.1")
    assert refused.value.word == "release_stale_trust_data"


# What arrives


async def fetched(client, folder, **options):
    return await client.fetch(await client.find(DEMO), folder, MAX, **options)


async def test_a_wheel_arrives_whole_with_the_attestations_beside_it(main, tmp_path):
    name = main.has("1.0", b"wheel" * 100_000, beside=SIGNED)
    async with indexes(main.source()) as client:
        release = await fetched(client, tmp_path)
    assert release.wheel == tmp_path / name
    assert release.wheel.read_bytes() == b"wheel" * 100_000
    assert release.attestations == SIGNED
    assert (release.filename, release.index, release.url) == (name, "main", str(main.url.join(URL(f"/files/{name}"))))


async def test_attestations_that_the_index_names_are_those_that_count(main, tmp_path):
    main.bytes["/elsewhere"] = SIGNED
    hashes = {"sha256": hashlib.sha256(SIGNED).hexdigest()}
    main.has("1.0", beside=b"others", _attestations={"url": "../../elsewhere", "hashes": hashes})
    async with indexes(main.source()) as client:
        assert (await fetched(client, tmp_path)).attestations == SIGNED


async def test_attestations_that_are_not_those_that_the_index_names_are_refused(main, tmp_path):
    main.bytes["/elsewhere"] = SIGNED + b"more"
    hashes = {"sha256": hashlib.sha256(SIGNED).hexdigest()}
    main.has("1.0", _attestations={"url": "/elsewhere", "hashes": hashes})
    async with indexes(main.source()) as client:
        with pytest.raises(ReleaseRefusedError, match="the attestations of acme_demo") as refused:
            await fetched(client, tmp_path)
    assert refused.value.word == "release_digest_mismatch"


async def test_attestations_that_the_index_names_and_does_not_have_are_not_replaced_by_others(main, tmp_path):
    main.has("1.0", beside=SIGNED, _attestations={"url": "/gone"})
    async with indexes(main.source()) as client:
        with pytest.raises(SupplyError, match="that are not there") as refused:
            await fetched(client, tmp_path)
    assert refused.value.word == "index_answer_invalid"


@pytest.mark.parametrize("template", ["/said/{filename}.jsonl", "{url}.signed"])
async def test_attestations_that_are_not_beside_the_wheel_are_where_the_settings_say(main, tmp_path, template):
    name = main.has("1.0")
    main.bytes[f"/said/{name}.jsonl"] = main.bytes[f"/files/{name}.signed"] = SIGNED
    async with indexes(main.source(attestations=template)) as client:
        assert (await fetched(client, tmp_path)).attestations == SIGNED


@pytest.mark.parametrize(
    "beside", [{"status": 403}, {"status": 404}, {"text": "<h1>?</h1>", "content_type": "text/html"}]
)
async def test_a_server_that_refuses_or_shows_a_page_has_no_attestations_there(main, tmp_path, beside):
    name = main.has("1.0")
    main.answers_with(f"/files/{name}.intoto.jsonl", **beside)
    async with indexes(main.source()) as client:
        assert (await fetched(client, tmp_path)).attestations == b""


@pytest.mark.parametrize("beside", [None, b"", b" \n"])
async def test_an_index_that_once_offered_signatures_must_offer_them_again(main, tmp_path, beside):
    main.has("1.0", beside=beside)
    async with indexes(main.source()) as client:
        with pytest.raises(ReleaseRefusedError) as refused:
            await fetched(client, tmp_path, attested=True)
    assert refused.value.word == "release_signature_downgrade"
    assert list(tmp_path.iterdir()) == []


async def test_bytes_that_are_not_those_that_the_index_names_are_refused_and_gone(main, tmp_path):
    name = main.has("1.0")
    main.bytes[f"/files/{name}"] = b"other bytes"
    async with indexes(main.source()) as client:
        with pytest.raises(ReleaseRefusedError, match="the bytes of") as refused:
            await fetched(client, tmp_path)
    assert refused.value.word == "release_digest_mismatch"
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_is_there_already_is_not_written_over(main, tmp_path):
    name = main.has("1.0")
    (tmp_path / name).write_bytes(b"mine")
    async with indexes(main.source()) as client:
        with pytest.raises(FileExistsError):
            await fetched(client, tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"


async def test_what_the_index_says_of_the_metadata_is_passed_on_to_be_held_against_the_wheel(main, tmp_path):
    main.has("1.0", **{"core-metadata": {"sha256": "a" * 64}})
    async with indexes(main.source()) as client:
        assert (await fetched(client, tmp_path)).metadata_sha256 == "a" * 64


async def test_a_token_goes_to_the_index_and_not_to_where_its_files_are(main, other, tmp_path):
    name = main.has("1.0", beside=SIGNED)
    other.bytes.update(main.bytes)
    main.projects["acme-demo"]["files"][0]["url"] = str(other.url.join(URL(f"/files/{name}")))
    source = main.source(authorization="Bearer secret", file_origins=frozenset({origin_of(other.url)}))
    async with indexes(source) as client:
        assert (await fetched(client, tmp_path)).attestations == SIGNED
    assert {request.headers.get("Authorization") for request in main.asked} == {"Bearer secret"}
    assert {request.headers.get("Authorization") for request in other.asked} == {None}
    assert "secret" not in repr(source)


async def test_a_page_that_did_not_change_is_not_sent_again(main):
    main.has("1.0")
    main.etags = True
    sent = []
    async with indexes(main.source()) as client:
        for version in ("1.0", "1.0", "1.1"):
            if version == "1.1":
                main.has("1.1")
            assert await found(client) == ("main", version)
            sent.append(main.asked[-1].headers.get("If-None-Match"))
    assert sent[0] is None
    assert sent[1] == sent[2] is not None


# Search


async def test_a_search_finds_plugins_by_the_words_in_their_ids_the_nearest_first(main):
    for plugin in ("mail", "acme-mail", "mail-archive", "invoices"):
        main.has("1.0", plugin=plugin)
    main.has("1.1", plugin="mail")
    main.projects["Not_A_Plugin-mail-"] = {}
    async with indexes(main.source()) as client:
        result = await client.search("Mail")
        assert [(one.plugin, one.index, one.version) for one in result.found] == [
            ("mail", "main", "1.1"),
            ("mail-archive", "main", "1.0"),
            ("acme-mail", "main", "1.0"),
        ]
        assert (result.more, result.problems) == (False, ())
        assert [one.plugin for one in (await client.search("archive mail")).found] == ["mail-archive"]
        short = await client.search("mail", limit=1)
        assert ([one.plugin for one in short.found], short.more) == (["mail"], True)


async def test_a_plugin_of_which_nothing_fits_is_found_without_a_version(main):
    main.has("1.0", **{"requires-python": ">=9"})
    async with indexes(main.source()) as client:
        assert [one.version for one in (await client.search("demo")).found] == [None]


async def test_a_search_shows_a_plugin_where_it_would_come_from(main, other):
    main.has("1.0")
    other.has("9.0")
    other.has("1.0", plugin="acme-other")
    async with indexes(other.source("other", priority=9), main.source(plugins=("acme-demo",))) as client:
        result = await client.search("acme")
    assert [(one.plugin, one.index) for one in result.found] == [("acme-demo", "main"), ("acme-other", "other")]


async def test_an_index_that_cannot_be_asked_does_not_spoil_the_search_in_the_others(main, other):
    main.has("1.0")
    other.answers_with("/simple/", status=500)
    async with indexes(other.source("other"), main.source()) as client:
        result = await client.search("demo")
    assert [one.plugin for one in result.found] == ["acme-demo"]
    assert [(one.index, one.code) for one in result.problems] == [("other", "index_unavailable")]


async def test_an_index_that_lists_nothing_finds_a_plugin_by_its_whole_id(main):
    main.has("1.0")
    main.answers_with("/simple/", status=404)
    async with indexes(main.source()) as client:
        assert [one.plugin for one in (await client.search("acme-demo")).found] == ["acme-demo"]
        assert (await client.search("acme")).found == ()


# How the installed plugins stand


async def test_outdated_yanked_and_quarantined_plugins_are_told_from_those_that_stand(main):
    main.has("1.0")
    main.has("2.0", yanked="does not start")
    main.has("1.1")
    main.has("1.0", plugin="same")
    main.has("1.0", plugin="bad")
    main.projects["bad"]["project-status"] = {"status": "quarantined", "reason": "malware"}
    mine = [Installed("acme-demo", "1.0", "main"), Installed("acme-demo", "2.0", "main")]
    mine += [Installed("same", "1.0", None), Installed("bad", "1.0", "main"), Installed("gone", "1.0", "main")]
    async with indexes(main.source()) as client:
        found = await client.latest(mine)
    assert [(one.plugin, one.latest, one.outdated, one.yanked, one.quarantined) for one in found] == [
        ("acme-demo", "1.1", True, None, False),
        ("acme-demo", "1.1", False, "does not start", False),
        ("same", "1.0", False, None, False),
        ("bad", None, False, None, True),
        ("gone", None, False, None, False),
    ]
    assert [one.problem and one.problem.code for one in found] == [
        None,
        None,
        None,
        "release_quarantined_by_index",
        "release_not_found",
    ]


async def test_an_index_that_hangs_is_a_problem_of_its_plugins_only(main, other):
    main.has("1.1")
    async with IndexServer() as gone:
        down = gone.source("down")
    async with indexes(main.source(), down) as client:
        found = await client.latest([Installed("acme-demo", "1.0", "main"), Installed("x", "1.0", "down")])
    assert [one.latest for one in found] == ["1.1", None]
    assert found[1].problem.code == "index_unavailable"
