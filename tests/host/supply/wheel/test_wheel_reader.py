"""What a plugin's wheel must have beyond what every wheel is held to: a manifest, an entry point, and what it needs.

The attacks on the archive and its metadata are in `test_attacks_wheel`.
"""

import pytest
from archives import Entry, archive
from supply_rig import files_of, record_of
from supply_wheels import INFO, NAME, PROVIDED

from host.errors import BusbarError, ErrorKind
from host.supply.wheel.reader import read_wheel

MANIFEST = "acme_demo/plugin.toml"


def wheel_with(**files):
    """A good wheel in which files are replaced, or left out (None)."""
    found = {path: content for path, content in (files_of() | files).items() if content is not None}
    name, record = record_of(found)
    return archive([Entry(path, content) for path, content in {**found, name: record}.items()])


def needing(requirement):
    text = f"Metadata-Version: 2.1\nName: acme-demo\nVersion: 1.0.0\nRequires-Dist: {requirement}\n"
    return wheel_with(**{f"{INFO}/METADATA": text.encode()})


REFUSED = {
    "no entry point": (lambda: wheel_with(**{f"{INFO}/entry_points.txt": None}), "plugin_no_entry_point"),
    "two entry points": (
        lambda: wheel_with(**{f"{INFO}/entry_points.txt": b"[busbar.plugins]\nacme-demo = acme_demo\nx = acme_demo\n"}),
        "plugin_no_entry_point",
    ),
    "entry point of another name": (
        lambda: wheel_with(**{f"{INFO}/entry_points.txt": b"[busbar.plugins]\nother = acme_demo:Demo\n"}),
        "plugin_id_mismatch",
    ),
    "no manifest": (lambda: wheel_with(**{MANIFEST: None}), "manifest_missing"),
    "unknown key in the manifest": (
        lambda: wheel_with(**{MANIFEST: b'[plugin]\nid = "acme-demo"\ntitle = "x"\ntilte = 1\n'}),
        "manifest_invalid",
    ),
    "manifest of another plugin": (
        lambda: wheel_with(**{MANIFEST: b'[plugin]\nid = "other"\ntitle = "x"\n'}),
        "plugin_id_mismatch",
    ),
    "needs what no worker has": (lambda: needing("requests"), "wheel_dependency_unavailable"),
    "needs another version": (lambda: needing("pydantic<2"), "wheel_dependency_unavailable"),
}


@pytest.mark.parametrize(("build", "code"), REFUSED.values(), ids=REFUSED)
def test_a_wheel_that_is_no_plugin_that_can_run_here_is_refused(build, code):
    with pytest.raises(BusbarError) as refused:
        read_wheel(build(), NAME, PROVIDED)
    assert (refused.value.word, refused.value.kind) == (code, ErrorKind.UNPROCESSABLE)


def test_a_good_wheel_is_read():
    read = read_wheel(wheel_with(), NAME, PROVIDED)
    assert (read.name, read.version, read.entry_point) == ("acme-demo", "1.0.0", "acme_demo:Demo")
    assert read.manifest.plugin.title == "Demo"
    assert read.record == record_of(files_of())[1]


def test_a_requirement_that_every_worker_meets_is_no_obstacle():
    assert read_wheel(needing("pydantic>=2"), NAME, PROVIDED).name == "acme-demo"


def test_an_unknown_manifest_key_names_the_nearest_known_one():
    wheel = REFUSED["unknown key in the manifest"][0]()
    with pytest.raises(BusbarError, match="unknown key 'plugin.tilte': did you mean 'title'"):
        read_wheel(wheel, NAME, PROVIDED)
