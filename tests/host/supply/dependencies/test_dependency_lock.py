"""A plugin's lock: what it selects here, and every lock that a release is refused for."""

import hashlib
import string

import dependency_wheels as wheels
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import BusbarError
from host.supply.dependencies.lock import MAX_LOCK, MAX_WHEELS, check_lock, read_lock

GREETER = wheels.dependency()
DIGEST = hashlib.sha256(GREETER.content).hexdigest()
HEAD = 'lock-version = "1.0"\ncreated-by = "tests"\n'


def package(source, name="greeter", more=""):
    return f'{HEAD}[[packages]]\nname = "{name}"\nversion = "1.0"\n{more}\n{source}\n'.encode()


def wheel(filename=GREETER.filename, hashes=f'sha256 = "{DIGEST}"', more=""):
    return f'{{ name = "{filename}", url = "https://wheels.example.com/x", hashes = {{ {hashes} }}{more} }}'


def only(name="greeter", filename=GREETER.filename, more="", **changes):
    """A lock of one package with one wheel."""
    return package("wheels = [" + wheel(filename, **changes) + "]", name, more)


def hashed(hashes):
    return only(hashes=hashes)


def refused(content):
    with pytest.raises(BusbarError) as error:
        read_lock(content)
    assert error.value.kind.value == 422
    return error.value.word


def test_a_lock_says_of_each_wheel_its_name_hashes_and_where_it_can_be_had():
    found = read_lock(wheels.lock(GREETER))
    (one,) = found.wheels
    assert (one.name, one.version, one.filename) == ("greeter", "1.0", "greeter-1.0-py3-none-any.whl")
    assert one.hashes == (("sha256", DIGEST),)
    assert one.url == "https://wheels.example.com/files/greeter-1.0-py3-none-any.whl"
    assert found.sha256 == hashlib.sha256(wheels.lock(GREETER)).hexdigest()


def test_what_is_for_another_system_is_not_selected():
    other = wheels.dependency("other")
    found = read_lock(wheels.lock(GREETER, other, other="marker = \"sys_platform == 'win32'\""))
    assert [one.name for one in found.wheels] == ["greeter"]


def test_of_several_wheels_the_one_for_this_machine_is_selected():
    source = f"wheels = [{wheel('greeter-1.0-cp311-cp311-win_amd64.whl')}, {wheel()}]"
    assert [one.filename for one in read_lock(package(source)).wheels] == [GREETER.filename]


def test_a_source_distribution_beside_a_wheel_that_fits_is_no_obstacle():
    source = f'sdist = {{ name = "greeter-1.0.tar.gz", url = "https://x.example", hashes = {{ sha256 = "{DIGEST}" }} }}'
    assert read_lock(package(f"{source}\nwheels = [{wheel()}]")).wheels[0].filename == GREETER.filename


def test_hashes_that_nobody_should_believe_are_left_out_where_there_is_a_better_one():
    found = read_lock(hashed(f'md5 = "x", sha256 = "{DIGEST}"'))
    assert found.wheels[0].hashes == (("sha256", DIGEST),)


def test_an_empty_lock_selects_nothing():
    assert read_lock(wheels.lock()).wheels == ()


MANY = ".".join("abcdefghij" * 100)
ADDRESS = f"greeter-1.0-{MANY}-{MANY}-{MANY}.whl".replace("a.b", "a%2Eb")
CASES = [
    ("no TOML", b"[[packages", "release_lock_malformed"),
    ("not UTF-8", b"\xff", "release_lock_malformed"),
    ("nested for ever", b"x = " + b"[" * 50_000, "release_lock_malformed"),
    ("too large", b"#" * (MAX_LOCK + 1), "release_lock_malformed"),
    ("no version", b'created-by = "x"\npackages = []', "release_lock_malformed"),
    ("version 2", b'lock-version = "2.0"\ncreated-by = "x"\npackages = []', "release_lock_malformed"),
    ("version 1.1", b'lock-version = "1.1"\ncreated-by = "x"\npackages = []', "release_lock_malformed"),
    ("no packages", HEAD.encode(), "release_lock_malformed"),
    ("a package of nothing", package(""), "release_lock_malformed"),
    ("a name that is not normalised", only(name="Greeter"), "release_lock_malformed"),
    ("a wheel of another name", only(filename="other-1.0-py3-none-any.whl"), "release_lock_malformed"),
    (
        "a wheel of another version",
        only(filename="greeter-2.0-py3-none-any.whl"),
        "release_lock_malformed",
    ),
    (
        "a wheel's name that is a path",
        only(filename="../greeter-1.0-py3-none-any.whl"),
        "release_lock_malformed",
    ),
    (
        "a wheel's name that stands for 10^9",
        only(filename=f"greeter-1.0-{MANY}-{MANY}-{MANY}.whl"),
        "release_lock_malformed",
    ),
    (
        "an address that stands for as many",
        package(f'wheels = [{{ url = "https://x.example/{ADDRESS}?x=/y", hashes = {{ sha256 = "{DIGEST}" }} }}]'),
        "release_lock_malformed",
    ),
    ("no hash", hashed(""), "release_lock_malformed"),
    ("md5 alone", hashed('md5 = "x"'), "release_dependency_weak_hash"),
    ("sha1 alone", hashed('sha1 = "x"'), "release_dependency_weak_hash"),
    ("a hash too short", hashed('sha256 = "ab"'), "release_lock_malformed"),
    (
        "a hash in capitals",
        hashed(f'sha256 = "{DIGEST.upper()}"'),
        "release_lock_malformed",
    ),
    (
        "a source distribution alone",
        package(
            f'sdist = {{ name = "greeter-1.0.tar.gz", url = "https://x.example", hashes = {{ sha256 = "{DIGEST}" }} }}'
        ),
        "release_dependency_no_wheel",
    ),
    (
        "a repository",
        package('vcs = { type = "git", url = "https://x.example", commit-id = "1" }'),
        "release_dependency_no_wheel",
    ),
    ("a folder", package('directory = { path = "../greeter" }'), "release_dependency_no_wheel"),
    (
        "an archive",
        package(f'archive = {{ url = "https://x.example/x.zip", hashes = {{ sha256 = "{DIGEST}" }} }}'),
        "release_dependency_no_wheel",
    ),
    (
        "no wheel for this machine",
        only(filename="greeter-1.0-cp311-cp311-win_amd64.whl"),
        "release_lock_incompatible",
    ),
    (
        "another Python",
        HEAD.encode() + b'requires-python = ">=4"\n' + wheels.lock()[len(HEAD) :],
        "release_lock_incompatible",
    ),
    (
        "a package for another Python",
        only(more='requires-python = "<3"'),
        "release_lock_incompatible",
    ),
    (
        "other environments",
        wheels.lock(GREETER, head="environments = [\"sys_platform == 'win32'\"]"),
        "release_lock_incompatible",
    ),
    ("two versions at once", wheels.lock(GREETER, wheels.dependency(version="2.0")), "release_lock_incompatible"),
    (
        "more than any plugin needs",
        wheels.lock(*(wheels.Built(f"a{n}", "1", f"a{n}-1-py3-none-any.whl", b"") for n in range(MAX_WHEELS + 1))),
        "release_lock_malformed",
    ),
]


@pytest.mark.parametrize(("content", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_lock_that_cannot_be_followed_is_refused(content, code):
    assert refused(content) == code


@given(
    name=st.text(string.printable, max_size=40).map(lambda text: f"greeter-1.0-py3-none-any{text}.whl"),
)
def test_no_name_of_a_wheel_leads_out_of_its_folder(name):
    quoted = name.encode("unicode_escape").decode().replace("\\x", "\\u00").replace('"', '\\"')
    try:
        found = read_lock(only(filename=quoted))
    except BusbarError:
        return
    assert "/" not in found.wheels[0].filename
    assert found.wheels[0].filename.isascii()


def test_the_lock_in_the_wheel_is_the_one_that_was_signed():
    lock = read_lock(wheels.lock(GREETER))
    check_lock(lock, lock.sha256)
    check_lock(None, None)


@pytest.mark.parametrize(
    ("lock", "signed", "why"),
    [
        (read_lock(wheels.lock(GREETER)), "0" * 64, "is not the one that was signed"),
        (read_lock(wheels.lock(GREETER)), None, "has no lockSha256"),
        (None, "0" * 64, "holds no pylock.toml"),
    ],
    ids=["another", "unsigned", "left out"],
)
def test_a_lock_that_was_not_signed_is_refused(lock, signed, why):
    with pytest.raises(BusbarError, match=why) as error:
        check_lock(lock, signed)
    assert error.value.word == "release_lock_mismatch"
