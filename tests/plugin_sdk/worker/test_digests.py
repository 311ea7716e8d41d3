"""The table of digests that a worker is given: what was put in is found, and nothing else is there."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from plugin_sdk.worker.digests import hash_files, pack, unpack

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
FILES = st.dictionaries(PATHS, st.binary(max_size=4), max_size=12)


@given(st.dictionaries(PATHS.map(lambda path: f"/{path}"), FILES, max_size=4), PATHS)
def test_every_file_is_found_with_its_hash_and_no_other_is(folders, other):
    found = {one.folder: one for one in unpack(pack({name: hash_files(files) for name, files in folders.items()}))}
    assert found.keys() == folders.keys()
    for name, files in folders.items():
        digests = found[name]
        assert len(digests) == len(files)
        for path in (*files, other):
            content = files.get(path)
            assert digests.find(path) == (None if content is None else hashlib.sha256(content).digest())


@given(FILES, st.one_of(PATHS, st.just("")))
def test_what_is_below_a_folder_is_what_the_paths_say(files, folder):
    (digests,) = unpack(pack({"/release": hash_files(files)}))
    below = f"{folder}/" if folder else ""
    rests = {path.removeprefix(below) for path in files if path.startswith(below)}
    entries = {(rest.partition("/")[0], "/" in rest) for rest in rests}
    assert set(digests.entries(below)) == entries
    assert digests.has_any(below) == bool(rests)


def test_a_name_that_begins_like_another_is_another():
    (digests,) = unpack(pack({"/release": hash_files({"part.py": b"", "part/more.py": b"", "part-two.py": b""})}))
    assert list(digests.entries("")) == [("part-two.py", False), ("part.py", False), ("part", True)]
    assert digests.find("part") is None
    assert digests.find("par") is None


def test_names_that_no_encoding_has_are_not_there():
    (digests,) = unpack(pack({"/release": hash_files({"part.py": b""})}))
    assert digests.find("\udcff.py") is None
    assert not digests.has_any("\udcff")


def test_no_folders_are_no_bytes():
    assert pack({}) == b""
    assert unpack(b"") == ()
