import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from short_of_descriptors import descriptors_left

from host.storage.errors import KeyringError, OddFileError, StorageFailedError
from host.storage.keyring import CREDENTIAL, KEY_BYTES, Keyring


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys" / "keyring"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_opens_again(plaintext, context):
    keyring = Keyring(bytes(KEY_BYTES))
    assert keyring.open(keyring.seal(plaintext, context), context) == plaintext


def test_a_new_key_is_private_and_the_same_after_a_restart(path):
    sealed = Keyring.load(path, environ={}).seal("secret", "here")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == KEY_BYTES
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert Keyring.load(path, environ={}).open(sealed, "here") == "secret"


def test_the_credentials_directory_comes_before_the_file(path, tmp_path):
    (tmp_path / CREDENTIAL).write_bytes(bytes(range(KEY_BYTES)))
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    sealed = Keyring.load(path, environ=environ).seal("secret", "here")
    assert not path.exists()
    assert Keyring(bytes(range(KEY_BYTES))).open(sealed, "here") == "secret"


def test_one_plaintext_never_seals_to_the_same_bytes_twice():
    keyring = Keyring(bytes(KEY_BYTES))
    assert keyring.seal("secret", "here") != keyring.seal("secret", "here")


def test_every_altered_byte_is_noticed():
    keyring = Keyring(bytes(KEY_BYTES))
    sealed = keyring.seal("secret", "here")
    for at in range(len(sealed)):
        altered = bytearray(sealed)
        altered[at] ^= 1
        with pytest.raises(KeyringError):
            keyring.open(bytes(altered), "here")


def test_what_was_cut_short_is_noticed():
    keyring = Keyring(bytes(KEY_BYTES))
    sealed = keyring.seal("secret", "here")
    for size in range(len(sealed)):
        with pytest.raises(KeyringError):
            keyring.open(sealed[:size], "here")


def test_a_sealed_value_cannot_be_moved_to_another_place():
    keyring = Keyring(bytes(KEY_BYTES))
    with pytest.raises(KeyringError, match="'plugin:b'"):
        keyring.open(keyring.seal("secret", "plugin:a"), "plugin:b")


def test_another_key_opens_nothing():
    with pytest.raises(KeyringError):
        Keyring(b"1" * KEY_BYTES).open(Keyring(b"2" * KEY_BYTES).seal("secret", "here"), "here")


def test_a_key_of_the_wrong_length_is_refused(path):
    path.parent.mkdir()
    path.touch(0o600)
    path.write_bytes(b"short")
    with pytest.raises(KeyringError, match="must have 32"):
        Keyring.load(path, environ={})


def test_a_key_that_others_may_read_is_refused_with_the_way_to_mend_it(path):
    Keyring.load(path, environ={})
    path.chmod(0o640)
    with pytest.raises(KeyringError, match="chmod 600"):
        Keyring.load(path, environ={})


def test_a_key_made_by_another_process_meanwhile_is_kept(path, monkeypatch):
    link = os.link

    def lose_the_race(source, target):
        target.touch(0o600)
        target.write_bytes(b"k" * KEY_BYTES)
        link(source, target)

    monkeypatch.setattr(os, "link", lose_the_race)
    keyring = Keyring.load(path, environ={})
    assert path.read_bytes() == b"k" * KEY_BYTES
    assert Keyring(b"k" * KEY_BYTES).open(keyring.seal("secret", "here"), "here") == "secret"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KeyringError, match="cannot be read or made"):
        Keyring.load(tmp_path / "file" / "keyring", environ={})


def test_a_key_that_cannot_be_read_now_is_not_a_bad_key(path):
    Keyring.load(path, environ={})
    with descriptors_left(0), pytest.raises(StorageFailedError, match="Too many open files"):
        Keyring.load(path, environ={})


@pytest.mark.parametrize("place", ["file", "credential"])
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_a_key_that_is_no_plain_file_keeps_nobody_waiting(path, tmp_path, place, kind):
    odd = path if place == "file" else tmp_path / CREDENTIAL
    odd.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(odd, 0o600)
    else:
        odd.touch(0o600)
        os.truncate(odd, 2**40)
    with pytest.raises(OddFileError):
        Keyring.load(path, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_key_that_leads_elsewhere_is_not_followed(path, tmp_path):
    Keyring.load(tmp_path / "other", environ={})
    path.parent.mkdir()
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OddFileError, match="no link is followed"):
        Keyring.load(path, environ={})
