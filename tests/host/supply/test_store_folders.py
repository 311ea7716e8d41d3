"""The store's own folders: what lies in them goes when it is time to, and nothing that they lead to."""

import os

import pytest
from supply_rig import PLUGIN, sign, supply_rig

from host.storage.errors import OddFileError
from host.supply.errors import ReleaseRefusedError
from host.supply.release_store import ReleaseStore


@pytest.fixture
def precious(tmp_path):
    folder = tmp_path / "elsewhere"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "precious").write_text("kept")
    yield folder
    assert (folder / "inner" / "precious").read_text() == "kept"


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path) as found:
        yield found


@pytest.mark.parametrize("name", ["staging", "releases"])
def test_a_store_whose_folder_leads_elsewhere_is_not_opened(tmp_path, precious, name):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / name).symlink_to(precious, target_is_directory=True)
    with pytest.raises(OddFileError, match=f"{name} is no folder"):
        ReleaseStore(tmp_path / "state").open(())


@pytest.mark.parametrize("name", ["staging", "releases"])
def test_what_a_crash_left_is_removed_and_links_in_it_are_not_followed(tmp_path, precious, name):
    left = tmp_path / "state" / name
    (left / "tree").mkdir(parents=True)
    (left / "link").symlink_to(precious, target_is_directory=True)
    (left / "tree" / "link").symlink_to(precious, target_is_directory=True)
    os.mkfifo(left / "pipe")
    ReleaseStore(tmp_path / "state").open(())
    assert list(left.iterdir()) == []


async def test_where_nobody_knows_which_releases_are_wanted_none_is_removed(rig):
    assert rig.store.open(None) == ()
    assert (await rig.installer.verify_installed(rig.registry.get(PLUGIN).sha256)).version == "0.9.0"
    assert rig.store.open(()) == (rig.registry.get(PLUGIN).sha256,)


async def test_a_release_is_found_kept_and_removed_in_the_stores_own_folder_alone(rig, precious):
    sha256 = rig.registry.get(PLUGIN).sha256
    releases = rig.store.releases
    releases.rename(releases.with_name("moved"))
    releases.symlink_to(precious, target_is_directory=True)
    (precious / sha256).mkdir()
    with pytest.raises(ReleaseRefusedError, match="no plain file or folder"):
        await rig.installer.verify_installed(sha256)
    with pytest.raises(OddFileError):
        await rig.installer.forget(sha256)
    with pytest.raises(OddFileError):
        await rig.install(sign(rig.acme))
    assert {one.name for one in precious.iterdir()} == {"inner", sha256}


async def test_a_link_in_the_place_of_a_release_gives_way_to_the_release(rig, precious):
    signed = sign(rig.acme)
    release = await rig.install(signed)
    folder = rig.folder_of(release)
    folder.chmod(0o755)
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(precious, target_is_directory=True)
    mode = precious.stat().st_mode
    await rig.install(signed)
    assert not folder.is_symlink()
    assert precious.stat().st_mode == mode
    assert (await rig.installer.verify_installed(release.sha256)).version == "1.0.0"
