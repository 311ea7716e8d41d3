"""A plugin's data folder is its own, and the SDK's folder the host's: no link leads the host out of them."""

import os

import pytest

from host.runtime.data_folder import give
from host.runtime.own_folder import own_folder
from host.runtime.sdk_path import build_sdk_path
from host.storage.errors import OddFileError

USER = 2_000_000


@pytest.fixture
def precious(tmp_path):
    """A folder that is none of the plugin's, and is as it was afterwards."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    before = [(one.name, one.stat().st_uid, one.stat().st_mode) for one in (folder, *folder.iterdir())]
    yield folder
    assert [(one.name, one.stat().st_uid, one.stat().st_mode) for one in (folder, *folder.iterdir())] == before


def test_it_is_made_for_its_owner_alone(tmp_path):
    with own_folder(tmp_path / "state" / "data" / "acme") as own:
        assert own.path == tmp_path / "state" / "data" / "acme"
    assert own.path.stat().st_mode & 0o777 == 0o700
    assert own.path.parent.stat().st_mode & 0o777 == 0o711


@pytest.mark.parametrize("link", ["data", "data/acme", "data/.examined", "data/.examined/acme"])
def test_a_link_in_its_place_is_refused(tmp_path, precious, link):
    place = tmp_path / "state" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(precious, target_is_directory=True)
    examined = tmp_path / "state" / "data" / ".examined" / "acme"
    with (
        pytest.raises(OddFileError, match="is no folder"),
        own_folder(examined if ".examined" in link else tmp_path / "state" / "data" / "acme"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_is_in_it_is_given_away_and_nothing_that_is_elsewhere_too(tmp_path, precious):
    (tmp_path / "data" / "acme" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "acme" / "deep" / "own").touch()
    (tmp_path / "data" / "acme" / "link").symlink_to(precious)
    (tmp_path / "data" / "acme" / "deep" / "same").hardlink_to(precious / "precious")
    with own_folder(tmp_path / "data" / "acme") as own:
        give(own.path, USER)
    found = {one.name: one.lstat().st_uid for one in (tmp_path / "data").rglob("*")}
    assert found == {"acme": USER, "deep": USER, "own": USER, "link": USER, "same": 0}


@pytest.mark.parametrize("name", ["sdk", "sdk.new"])
def test_a_link_in_the_place_of_the_sdk_is_replaced_and_nothing_behind_it_touched(tmp_path, precious, name):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / name).symlink_to(precious, target_is_directory=True)
    folder = build_sdk_path(tmp_path / "state")
    assert not folder.is_symlink()
    assert (folder / "plugin_sdk" / "__init__.py").is_file()
    assert [one.name for one in (tmp_path / "state").iterdir()] == ["sdk"]
