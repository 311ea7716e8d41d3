"""`busbar plugin sign` and `verify` as they are typed: where the key comes from, whom to believe, and how they end."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from supply_wheels import NAME, good
from typer.testing import CliRunner

from host.cli.plugin import app
from host.supply.trust.dsse import MAX_LINES, parse_bundle
from host.supply.trust.keys import PrivateKey
from host.supply.trust.statement import parse

PASSPHRASE = "correct horse"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A wheel, and two keys: one with a passphrase, one without."""
    monkeypatch.chdir(tmp_path)
    for name in ("BUSBAR_SIGNING_KEY", "BUSBAR_KEY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / NAME).write_bytes(good())
    PrivateKey.new().save(tmp_path / "locked.key", PASSPHRASE)
    PrivateKey.new().save(tmp_path / "open.key", None)
    return tmp_path


def run(*arguments, status=0, **environment):
    done = CliRunner().invoke(app, [str(one) for one in arguments], env=environment)
    assert done.exit_code == status, done.output
    return done


def sign(folder, *arguments, status=0, **environment):
    """Sign the wheel; the statement of the last line."""
    run("sign", folder / NAME, "--publisher", "acme", *arguments, status=status, **environment)
    return parse(parse_bundle((folder / f"{NAME}.intoto.jsonl").read_bytes())[-1].payload)


def publisher(folder, key="open.key", id_="acme", more=""):
    public = PrivateKey.load(folder / key, PASSPHRASE if key == "locked.key" else None).public
    path = folder / f"{id_}.toml"
    path.write_text(f'[publisher]\nid = "{id_}"\nplugins = ["acme"]\n\n[[keys]]\npublic = "{public}"\n{more}')
    return path


# -- sign


def test_the_key_comes_from_a_file_or_from_the_environment(folder):
    held, locked = (folder / "open.key").read_text(), (folder / "locked.key").read_text()
    sign(folder, "--key", "open.key")
    sign(folder, "--key", "locked.key", BUSBAR_KEY_PASSPHRASE=PASSPHRASE)
    sign(folder, BUSBAR_SIGNING_KEY=locked, BUSBAR_KEY_PASSPHRASE=PASSPHRASE)
    sign(folder, BUSBAR_SIGNING_KEY=held, BUSBAR_KEY_PASSPHRASE="that of another key")
    envelopes = parse_bundle((folder / f"{NAME}.intoto.jsonl").read_bytes())
    assert [one.signatures[0].key_id for one in envelopes] == [
        PrivateKey.load(folder / name, PASSPHRASE if name == "locked.key" else None).public.id
        for name in ("open.key", "locked.key", "locked.key", "open.key")
    ]


def test_a_passphrase_is_asked_for_where_there_is_a_person(folder):
    done = CliRunner().invoke(
        app, ["sign", NAME, "--publisher", "acme", "--key", "locked.key"], input=f"{PASSPHRASE}\n"
    )
    assert done.exit_code == 0, done.output
    assert "passphrase" in done.output
    assert PASSPHRASE not in done.output


def test_sequence_and_end_are_in_the_statement(folder):
    assert sign(folder, "--key", "open.key", "--sequence", "7").sequence == 7
    before = int(datetime.now(UTC).timestamp() * 1_000_000)
    found = sign(folder, "--key", "open.key", "--valid-until", "2099-12-31")
    assert before <= found.sequence <= before + 60_000_000
    assert found.valid_until == datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)
    found = sign(folder, "--key", "open.key", "--valid-until", "2099-12-31T12:00:00+02:00")
    assert found.valid_until == datetime(2099, 12, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "arguments",
    [
        (),  # no key
        ("--key", "locked.key"),  # no passphrase, and nobody to ask
        ("--key", "open.key", "--publisher", "Acme Ltd"),
        ("--key", "open.key", "--sequence", "-1"),
        ("--key", "open.key", "--sequence", str(2**53)),
        ("--key", "open.key", "--valid-until", "soon"),
        ("--key", "open.key", "--valid-until", "2099-12-31T12:00:00"),  # which clock?
        ("--key", "open.key", "--valid-until", (datetime.now(UTC) - timedelta(2)).date().isoformat()),
    ],
)
def test_what_is_used_wrongly_signs_nothing(folder, arguments):
    run("sign", NAME, "--publisher", "acme", *arguments, status=2)
    assert not (folder / f"{NAME}.intoto.jsonl").exists()


def test_a_wrong_passphrase_signs_nothing(folder):
    done = run(
        *("sign", NAME, "--publisher", "acme", "--key", "locked.key", "--json"),
        status=1,
        BUSBAR_KEY_PASSPHRASE="wrong",
    )
    assert json.loads(done.stdout)["code"] == "key_refused"
    assert not (folder / f"{NAME}.intoto.jsonl").exists()


def test_a_line_too_many_is_not_added_to_those_that_hold(folder):
    sign(folder, "--key", "open.key")
    beside = folder / f"{NAME}.intoto.jsonl"
    beside.write_bytes(full := beside.read_bytes() * MAX_LINES)
    assert "release_size_limit" in run("sign", NAME, "--publisher", "acme", "--key", "open.key", status=1).output
    assert beside.read_bytes() == full


# -- verify


def test_a_release_is_verified_by_a_key_a_file_or_a_folder_of_files(folder):
    sign(folder, "--key", "open.key")
    public = PrivateKey.load(folder / "open.key").public
    trusted = folder / "publishers.d"
    trusted.mkdir()
    publisher(folder).rename(trusted / "acme.toml")
    run("verify", NAME, "--key", public, "--publisher", "acme")
    run("verify", NAME, "--trust-store", trusted / "acme.toml")
    found = json.loads(run("verify", NAME, "--trust-store", trusted, "--json").stdout)
    assert found["success"] is True
    assert {one["result"] for one in found["rules"]} == {"holds"}


def test_a_policy_in_a_file_is_held_to(folder):
    policy = '\n[[policies]]\nnamespace = "acme"\nthreshold = 2\npublishers = ["acme", "board"]\n'
    trusted = ("--trust-store", publisher(folder), "--trust-store", publisher(folder, "locked.key", "board", policy))
    sign(folder, "--key", "open.key")
    assert "release_threshold_unmet" in run("verify", NAME, *trusted, status=1).output
    run("sign", NAME, "--publisher", "board", "--key", "locked.key", BUSBAR_KEY_PASSPHRASE=PASSPHRASE)
    assert "acme, board; 2 needed" in run("verify", NAME, *trusted).output


def test_a_broken_rule_ends_with_one_and_its_code(folder):
    sign(folder, "--key", "open.key")
    (folder / NAME).write_bytes(good() + b"\0")
    trusted = ("--trust-store", publisher(folder))
    found = json.loads(run("verify", NAME, *trusted, "--json", status=1).stdout)
    assert (found["success"], found["code"]) == (False, "release_digest_mismatch")
    results = {one["rule"]: one["result"] for one in found["rules"]}
    assert (results["subject"], results["digest"], results["archive"]) == ("holds", "broken", "not reached")
    done = run("verify", NAME, *trusted, status=1)
    assert "release_digest_mismatch" in done.stderr
    assert "not reached" in done.stdout


def test_an_unsigned_wheel_is_no_release(folder):
    found = json.loads(run("verify", NAME, "--trust-store", publisher(folder), "--json", status=1).stdout)
    assert found["code"] == "release_unsigned"


@pytest.mark.parametrize("arguments", [(), ("--publisher", "acme"), ("--key", "ed25519:x")])
def test_whom_to_believe_must_be_said(folder, arguments):
    assert "usage" in run("verify", NAME, *arguments, status=2).output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x", "bad.toml"),
        ('[publisher]\nid = "acme"\nplugins = ["acme"]\nkeys = []\n', "unknown key"),
        ('[publisher]\nid = "Acme"\nplugins = ["acme"]\n\n[[keys]]\npublic = "KEY"\n', "id"),
    ],
)
def test_a_file_that_is_no_publisher_is_refused_by_name(folder, content, said):
    public = PrivateKey.load(folder / "open.key").public
    (folder / "bad.toml").write_text(content.replace("KEY", str(public)))
    found = json.loads(run("verify", NAME, "--trust-store", "bad.toml", "--json", status=1).stdout)
    assert found["code"] == "publisher_refused"
    assert said in found["message"]


# -- new


def test_a_bad_name_is_used_wrongly_and_a_full_folder_has_failed(folder):
    found = json.loads(run("new", "Not_An_Id", "--json", status=2).stdout)
    assert found["code"] == "plugin_name_invalid"
    found = json.loads(run("new", "demo", "--folder", folder, "--json", status=1).stdout)
    assert found["code"] == "folder_not_empty"
    found = json.loads(run("new", "demo", "--json").stdout)
    assert found["project"] == "demo"
    assert all((folder / "demo" / path).is_file() for path in found["files"])
