"""The wheel of a dependency is read as strictly as a plugin's own, except for what only a plugin must have."""

import io
import struct
import sysconfig
import zipfile

import dependency_wheels as wheels
import pytest

from host.errors import BusbarError
from host.supply.dependencies.wheel import read_dependency

HERE = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
"""A tag of this machine."""
PACKAGE = {"greeter/__init__.py": b""}


def read(built):
    return read_dependency(built.content, built.locked())


def with_files(tag="py3-none-any", **files):
    return wheels.dependency(files={**PACKAGE, **files}, tag=tag)


def test_a_library_needs_no_manifest_and_no_entry_point():
    found = read(wheels.dependency(requires=["idna>=3", "rich; extra == 'colours'"]))
    assert (found.distribution.name, found.distribution.version) == ("greeter", "1.0")
    assert [str(one) for one in found.distribution.requires] == ["idna>=3", 'rich; extra == "colours"']
    assert found.distribution.modules == {"greeter"}
    assert found.files["greeter/__init__.py"] == b"HELLO = 'hello'\n"


def test_scripts_are_allowed_and_nowhere_installed():
    scripts = {
        "greeter-1.0.dist-info/entry_points.txt": b"[console_scripts]\ngreet = greeter:main\n",
        "greeter-1.0.data/scripts/greet": b"#!python\n",
        "greeter-1.0.data/data/share/greeter.1": b"",
    }
    found = read(with_files(**scripts))
    assert found.left_out == {"greeter-1.0.data/scripts/greet", "greeter-1.0.data/data/share/greeter.1"}
    assert not found.left_out & found.files.keys()


def test_a_compiled_module_is_taken_where_the_wheel_is_for_this_machine():
    found = read(with_files(HERE, **{"greeter/_fast.so": b"\x7fELF", "_greeter.abi3.so": b"\x7fELF"}))
    assert found.distribution.modules == {"greeter", "_greeter"}


def test_what_is_only_odd_in_the_metadata_of_much_that_is_published_is_taken():
    built = wheels.dependency(metadata="License-File: LICENSE\nFavourite-Colour: blue\n")
    assert read(built).distribution.name == "greeter"


def said_twice(wheel, *sizes):
    """The wheel, with these ZIP64 sizes behind the local name of its last entry."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        info = archive.infolist()[-1]
    extra = struct.pack("<HHQQ", 1, 16, *(sizes or (info.file_size, info.compress_size)))
    behind = info.header_offset + 30 + len(info.filename)
    changed = bytearray(wheel[:behind] + extra + wheel[behind:])
    struct.pack_into("<H", changed, info.header_offset + 28, len(extra))
    end = len(changed) - 22
    struct.pack_into("<L", changed, end + 16, struct.unpack_from("<L", changed, end + 16)[0] + len(extra))
    return wheels.Built("greeter", "1.0", "greeter-1.0-py3-none-any.whl", bytes(changed))


def test_sizes_that_are_only_said_twice_are_taken():
    assert read(said_twice(wheels.dependency().content)).distribution.modules == {"greeter"}


def test_two_different_sizes_are_refused():
    with pytest.raises(BusbarError) as refused:
        read(said_twice(wheels.dependency().content, 5, 5))
    assert refused.value.word == "wheel_zip_structure"


@pytest.mark.parametrize(
    ("files", "modules"),
    [
        (["a.py", "b/__init__.py", "b/c.py"], {"a", "b"}),
        (["space/b/__init__.py", "space/c.py"], {"space.b", "space.c"}),
        (["a.libs/x.so", "docs-1/x.py", "README.py.txt", "data/x.json"], set()),
        (["a/b.cpython-312-x86_64-linux-gnu.so"], set()),
    ],
    ids=["modules and packages", "a shared folder", "nothing to import", "another Python's"],
)
def test_modules_are_named_by_the_outermost_that_only_they_fill(files, modules):
    found = read(wheels.dependency(files=dict.fromkeys(files, b""), tag=HERE))
    assert found.distribution.modules == modules


CASES = [
    ("pth", with_files(**{"greeter.pth": b"import os"}), "wheel_startup_hook"),
    ("sitecustomize", with_files(**{"sitecustomize.py": b""}), "wheel_startup_hook"),
    ("bytecode", with_files(**{"greeter/__pycache__/x.cpython-311.pyc": b""}), "wheel_bytecode_in_wheel"),
    ("compiled source alone", with_files(**{"greeter/x.pyc": b""}), "wheel_bytecode_in_wheel"),
    ("compiled for any machine", with_files(**{"greeter/_fast.so": b""}), "wheel_platform_tag"),
    ("compiled and numbered", with_files(**{"greeter/libx.so.1": b""}), "wheel_platform_tag"),
    ("another machine", with_files("py3-none-win_amd64"), "wheel_platform_tag"),
    ("shadows a module", with_files(**{"json.py": b""}), "wheel_shadows_stdlib"),
    ("shadows from a shared folder", with_files(**{"email/more.py": b""}), "wheel_shadows_stdlib"),
    ("purelib", with_files(**{"greeter-1.0.data/purelib/x.py": b""}), "wheel_data_dir"),
    ("platlib", with_files(**{"greeter-1.0.data/platlib/x.py": b""}), "wheel_data_dir"),
    ("an unknown kind of data", with_files(**{"greeter-1.0.data/more/x.py": b""}), "wheel_data_dir"),
    ("data of another", with_files(**{"other-1.0.data/scripts/x": b""}), "wheel_data_dir"),
    ("out of its data", with_files(**{"greeter-1.0.data/scripts/../../x": b""}), "wheel_unsafe_path"),
    ("needs another Python", wheels.dependency(metadata="Requires-Python: >=4\n"), "wheel_requires_python"),
    ("a requirement that is none", wheels.dependency(requires=["!"]), "wheel_metadata_invalid"),
]


@pytest.mark.parametrize(("built", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_malicious_or_foreign_dependency_is_refused_and_named(built, code):
    with pytest.raises(BusbarError, match="the dependency greeter-1.0-") as refused:
        read(built)
    assert refused.value.word == code
