"""Indexes in the settings: how they are written, what is refused, and where their tokens are."""

import base64
import json

import pytest
from yarl import URL

from host.settings import Settings, SettingsError
from host.supply.index.index_source import IndexSource

MAIN = '[[supply.indexes]]\nname = "main"\nurl = "https://plugins.example.org/index/"\n'


@pytest.fixture
def load(tmp_path):
    def load(text, **environment):
        path = tmp_path / "busbar.toml"
        path.write_text(text)
        return Settings.load(path, environment).supply.indexes

    return load


def test_by_default_there_is_no_index(load):
    assert load("") == ()


def test_an_index_has_a_name_and_an_address_and_gives_whatever_no_other_claims(load):
    (index,) = load(MAIN)
    source = IndexSource.of(index, {})
    assert (source.name, source.url, source.priority, source.plugins) == (
        "main",
        URL("https://plugins.example.org/index/"),
        0,
        (),
    )
    assert source.origins == {("https", "plugins.example.org", 443)}
    assert source.authorization is None


def test_further_origins_of_files_are_origins_whatever_path_they_have(load):
    (index,) = load(MAIN + 'file_origins = ["https://files.example.org:443/a/b/"]')
    assert IndexSource.of(index, {}).origins == {
        ("https", "plugins.example.org", 443),
        ("https", "files.example.org", 443),
    }


def test_an_address_ends_in_a_slash_whether_it_is_written_or_not(load):
    (index,) = load(MAIN.replace("simple/", "simple"))
    assert index.url == "https://plugins.example.org/index/"


def test_the_environment_has_indexes_as_json(load):
    written = [{"name": "other", "url": "http://127.0.0.1:8080/", "priority": 5, "plugins": ["acme"]}]
    (index,) = load(MAIN, BUSBAR_SUPPLY__INDEXES=json.dumps(written))
    assert (index.name, index.priority, index.plugins) == ("other", 5, ("acme",))


ADDRESS = "write an address such as https://plugins.example.org/index/"
WRONG = [
    ('name = "Main"', 1, "name: String should match pattern"),
    ('name = "a"\nurl = "ftp://plugins.example.org"', 2, f"url: {ADDRESS}"),
    ('name = "a"\nurl = "plugins.example.org"', 2, f"url: {ADDRESS}"),
    ('name = "a"\nurl = "https://plugins.example.org/a b"', 2, f"url: {ADDRESS}"),
    ('name = "a"\nurl = "https://plugins.example.org:port"', 2, "url: Port could not be cast"),
    ('name = "a"\nurl = "https://me:secret@plugins.example.org/"', 2, "url: an address has no user, password"),
    ('name = "a"\nurl = "https://plugins.example.org/?a=b"', 2, "url: an address has no user, password"),
    ('name = "a"\npriority = 101', 2, "priority: "),
    ('name = "a"\nattestations = "https://plugins.example.org/x"', 2, "attestations: write an address with {filename}"),
    ('name = "a"\nfile_origins = ["files"]', 2, f"file_origins.0: {ADDRESS}"),
    ('name = "a"\nplugins = ["acme-*"]', 2, "plugins.0: String should match pattern"),
    ('name = "a"\nprioriti = 1', 2, "unknown option 'supply.indexes.1.prioriti': did you mean 'priority'?"),
]


@pytest.mark.parametrize(("table", "line", "sentence"), WRONG)
def test_what_is_wrong_in_the_second_table_is_told_with_its_own_line(load, table, line, sentence):
    with pytest.raises(SettingsError) as refused:
        load(MAIN + "[[supply.indexes]]\n" + table + "\n[auth]\nname = 1\nurl = 1\npriority = 1\n")
    said = next(one for one in refused.value.errors if sentence in one)
    assert f"busbar.toml, line {4 + line}: " in said
    assert "secret" not in said


def test_two_indexes_of_one_name_are_refused(load):
    with pytest.raises(SettingsError, match="two indexes are named 'main'"):
        load(MAIN + MAIN)


# Tokens


@pytest.mark.parametrize(
    ("written", "sent"),
    [("abc.DEF-1\n", "Bearer abc.DEF-1"), ("me:pass:word", "Basic " + base64.b64encode(b"me:pass:word").decode())],
)
def test_a_token_is_read_from_its_file(load, tmp_path, written, sent):
    path = tmp_path / "token"
    path.write_text(written)
    path.chmod(0o600)
    (index,) = load(MAIN + f'token = "{path}"')
    assert IndexSource.of(index, {}).authorization == sent


def test_the_credentials_directory_comes_first(load, tmp_path):
    (tmp_path / "main-index").write_text("given")
    (index,) = load(MAIN + 'token = "main-index"')
    assert IndexSource.of(index, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).authorization == "Bearer given"


@pytest.mark.parametrize("written", ["", "two words", "zwölf", "a\nb", "x" * 5000])
def test_what_is_no_token_is_refused(load, tmp_path, written):
    path = tmp_path / "token"
    path.write_text(written)
    path.chmod(0o600)
    (index,) = load(MAIN + f'token = "{path}"')
    with pytest.raises(SettingsError, match="is no token"):
        IndexSource.of(index, {})


def test_a_token_that_others_may_read_or_that_is_not_there_is_refused(load, tmp_path):
    path = tmp_path / "token"
    (index,) = load(MAIN + f'token = "{path}"')
    with pytest.raises(SettingsError, match="No such file"):
        IndexSource.of(index, {})
    path.write_text("abc")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        IndexSource.of(index, {})


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:8080/", True),
        ("http://[::1]/", True),
        ("http://localhost/", True),
        ("http://10.0.0.1/", False),
        ("http://plugins.example.org/", False),
    ],
)
def test_a_token_does_not_travel_in_clear(load, url, kept):
    text = f'[[supply.indexes]]\nname = "main"\nurl = "{url}"\ntoken = "t"'
    if kept:
        assert load(text)
    else:
        with pytest.raises(SettingsError, match="would travel in clear"):
            load(text)
