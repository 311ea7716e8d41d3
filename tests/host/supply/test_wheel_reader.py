"""Every malicious or doubtful wheel is refused with its own code, and nothing is written on the way."""

import struct
import zipfile

import pytest
import supply_wheels as wheels

from host.errors import BusbarError
from host.supply.wheel_reader import read_wheel

INFO, NAME, contents, good, pack, record = (
    wheels.INFO,
    wheels.NAME,
    wheels.contents,
    wheels.good,
    wheels.pack,
    wheels.record,
)


def with_record(files, extra=()):
    return pack({**files, f"{INFO}/RECORD": record(files, extra)})


def unlisted(path, content=b"x"):
    """A wheel with one more entry, listed in RECORD, so that only its name is wrong."""
    files = contents()
    listed = {**files, path: content}
    return pack({**listed, f"{INFO}/RECORD": record(listed)})


def replaced(name, content):
    return good(files={f"{INFO}/{name}": content})


def own_record(text):
    files = contents()
    return pack({**files, f"{INFO}/RECORD": text(record(files).decode()).encode()})


def symlink(info):
    if info.filename.endswith("link.py"):
        info.external_attr = 0o120777 << 16


def flagged(bit):
    def alter(info):
        info.flag_bits |= bit

    return alter


def raw_named(name):
    """A wheel whose extra entry has these very bytes for a name."""
    placeholder = "x" * len(name)
    wheel = unlisted(placeholder)
    return wheel.replace(placeholder.encode(), name, 2)


def descriptors():
    wheel = good()
    return wheels.patch_header(wheel, "acme_demo/plugin.toml", 8, 0x8)


def encrypted():
    return wheels.patch_header(good(), "acme_demo/plugin.toml", 8, 0x1)


def lying_size():
    return wheels.patch_header(good(), "acme_demo/plugin.toml", 24, 3, form="<L")


def lying_crc():
    return wheels.patch_header(good(), "acme_demo/plugin.toml", 16, 3, form="<L")


def local_differs():
    return wheels.patch_header(good(), "acme_demo/plugin.toml", 16, 3, form="<L", central=False)


def hidden_entry():
    """An entry in front that no central header names."""
    one = pack({"hidden.py": b"evil"})
    local = one[: one.find(b"PK\x01\x02")]
    wheel = good()
    at = wheel.find(b"PK\x01\x02")
    moved = bytearray(wheel[:at] + local + wheel[at:])
    end = moved.rfind(b"PK\x05\x06")
    struct.pack_into("<L", moved, end + 16, at + len(local))
    return bytes(moved)


CASES = [
    ("zipslip dotdot", lambda: unlisted("../evil.py"), "wheel_unsafe_path"),
    ("zipslip nested", lambda: unlisted("acme_demo/../../evil.py"), "wheel_unsafe_path"),
    ("absolute path", lambda: unlisted("/etc/evil"), "wheel_unsafe_path"),
    ("drive", lambda: unlisted("C:/evil.py"), "wheel_unsafe_path"),
    ("backslash path", lambda: raw_named(b"acme_demo\\evil.py"), "wheel_unsafe_path"),
    ("dot segment", lambda: unlisted("acme_demo/./evil.py"), "wheel_unsafe_path"),
    ("empty segment", lambda: unlisted("acme_demo//evil.py"), "wheel_unsafe_path"),
    (
        "symlink entry",
        lambda: pack({**contents(files={"acme_demo/link.py": b"/etc/passwd"})}, alter=symlink),
        "wheel_non_regular_entry",
    ),
    ("case collision", lambda: unlisted("acme_demo/PLUGIN.toml"), "wheel_path_collision"),
    ("unicode NFD", lambda: unlisted("acme_demo/e\u0301.py"), "wheel_path_collision"),
    ("file and folder", lambda: unlisted("acme_demo/plugin.toml/x.py"), "wheel_path_collision"),
    ("control character", lambda: unlisted("acme_demo/a\x07.py"), "wheel_bad_name"),
    ("non-UTF-8 name", lambda: raw_named(b"acme_demo/\xff.py"), "wheel_bad_name"),
    ("long name", lambda: unlisted("acme_demo/" + "a" * 201), "wheel_bad_name"),
    ("windows reserved", lambda: unlisted("acme_demo/con.py"), "wheel_bad_name"),
    ("trailing dot", lambda: unlisted("acme_demo/x."), "wheel_bad_name"),
    ("two dist-info", lambda: unlisted("other-1.0.dist-info/METADATA"), "wheel_dist_info"),
    ("deprecated signature", lambda: unlisted(f"{INFO}/RECORD.jws"), "wheel_deprecated_signature_file"),
    ("startup hook", lambda: unlisted("evil.pth"), "wheel_startup_hook"),
    ("sitecustomize", lambda: unlisted("sitecustomize.py"), "wheel_startup_hook"),
    ("data scripts", lambda: unlisted("acme_demo-1.0.0.data/scripts/x"), "wheel_data_dir"),
    ("shadows the standard library", lambda: unlisted("json/__init__.py"), "wheel_shadows_stdlib"),
    ("brings the host", lambda: unlisted("host/__init__.py"), "wheel_module_collision"),
    ("brings the SDK", lambda: unlisted("plugin_sdk.py"), "wheel_module_collision"),
    ("brings what workers have", lambda: unlisted("pydantic/__init__.py"), "wheel_module_collision"),
    ("bytecode", lambda: unlisted("acme_demo/__pycache__/x.cpython-311.pyc"), "wheel_bytecode_in_wheel"),
    (
        "file not in RECORD",
        lambda: pack({**contents(), "acme_demo/extra.py": b"x", f"{INFO}/RECORD": record(contents())}),
        "wheel_record_mismatch",
    ),
    ("RECORD lists a missing file", lambda: with_record(contents(), ["gone.py,sha256=x,1"]), "wheel_record_mismatch"),
    ("wrong hash", lambda: own_record(lambda text: text.replace("sha256=", "sha256=A", 1)), "wheel_record_mismatch"),
    ("md5 hash", lambda: own_record(lambda text: text.replace("sha256=", "md5=", 1)), "wheel_weak_hash"),
    ("no hash", lambda: own_record(lambda text: text.replace("sha256=", "", 1)), "wheel_record_mismatch"),
    (
        "duplicate RECORD row",
        lambda: own_record(lambda text: text.splitlines()[0] + "\n" + text),
        "wheel_record_duplicate_row",
    ),
    (
        "RECORD with its own hash",
        lambda: own_record(lambda text: text.replace("RECORD,,", "RECORD,sha256=x,1")),
        "wheel_record_malformed",
    ),
    ("RECORD traversal", lambda: with_record(contents(), ["../../x,sha256=x,1"]), "wheel_unsafe_path"),
    ("no RECORD", lambda: pack(contents()), "wheel_record_missing"),
    ("RECORD not UTF-8", lambda: pack({**contents(), f"{INFO}/RECORD": b"\xff,,\n"}), "wheel_record_malformed"),
    ("wheel version 2", lambda: replaced("WHEEL", b"Wheel-Version: 2.0\nTag: py3-none-any\n"), "wheel_wheel_version"),
    ("tags differ", lambda: replaced("WHEEL", b"Wheel-Version: 1.0\nTag: py2-none-any\n"), "wheel_tag_mismatch"),
    (
        "METADATA name differs",
        lambda: replaced("METADATA", b"Metadata-Version: 2.1\nName: other\nVersion: 1.0.0\n"),
        "wheel_name_version_mismatch",
    ),
    (
        "METADATA version differs",
        lambda: replaced("METADATA", b"Metadata-Version: 2.1\nName: acme-demo\nVersion: 2.0\n"),
        "wheel_name_version_mismatch",
    ),
    ("METADATA not UTF-8", lambda: replaced("METADATA", b"Name: \xff\n"), "wheel_metadata_encoding"),
    (
        "needs another Python",
        lambda: replaced("METADATA", b"Metadata-Version: 2.1\nName: acme-demo\nVersion: 1.0.0\nRequires-Python: >=4\n"),
        "wheel_requires_python",
    ),
    (
        "needs what no worker has",
        lambda: replaced(
            "METADATA", b"Metadata-Version: 2.1\nName: acme-demo\nVersion: 1.0.0\nRequires-Dist: requests\n"
        ),
        "wheel_dependency_unavailable",
    ),
    (
        "script",
        lambda: replaced(
            "entry_points.txt",
            b"[console_scripts]\npython = acme_demo:Demo\n[busbar.plugins]\nacme-demo = acme_demo:Demo\n",
        ),
        "wheel_scripts_not_allowed",
    ),
    (
        "script traversal",
        lambda: replaced("entry_points.txt", b"[console_scripts]\n../../x = acme_demo:Demo\n"),
        "wheel_entry_point_name",
    ),
    (
        "entry point elsewhere",
        lambda: replaced("entry_points.txt", b"[busbar.plugins]\nacme-demo = os:system\n"),
        "wheel_entry_point_name",
    ),
    ("entry points not UTF-8", lambda: replaced("entry_points.txt", b"\xff"), "wheel_metadata_encoding"),
    ("no entry point", lambda: good(files={f"{INFO}/entry_points.txt": None}), "plugin_no_entry_point"),
    ("no manifest", lambda: good(files={"acme_demo/plugin.toml": None}), "manifest_missing"),
    (
        "unknown manifest key",
        lambda: good(files={"acme_demo/plugin.toml": b'[plugin]\nid = "acme-demo"\ntitle = "x"\ntilte = 1\n'}),
        "manifest_invalid",
    ),
    (
        "manifest of another plugin",
        lambda: good(files={"acme_demo/plugin.toml": b'[plugin]\nid = "other"\ntitle = "x"\n'}),
        "plugin_id_mismatch",
    ),
    ("encrypted", encrypted, "wheel_encrypted_entry"),
    ("data descriptors", descriptors, "wheel_zip_structure"),
    ("lying size", lying_size, "wheel_zip_structure"),
    ("lying checksum", lying_crc, "wheel_zip_structure"),
    ("local header differs", local_differs, "wheel_zip_structure"),
    ("local entry only", hidden_entry, "wheel_zip_structure"),
    ("prefix", lambda: b"#!/bin/sh\n" + good(), "wheel_zip_structure"),
    ("trailing data", lambda: good() + b"x", "wheel_zip_structure"),
    ("comment", lambda: good()[:-2] + b"\x01\x00x", "wheel_zip_structure"),
    ("zip in comment", lambda: good()[:-2] + struct.pack("<H", len(good())) + good(), "wheel_zip_structure"),
    (
        "lzma",
        lambda: pack({**contents(), f"{INFO}/RECORD": record(contents())}, method=zipfile.ZIP_LZMA),
        "wheel_compression_method",
    ),
    ("bomb", lambda: unlisted("acme_demo/bomb.bin", bytes(40 * 2**20)), "wheel_size_limit"),
    ("not a ZIP", lambda: b"\x1f\x8b" + b"x" * 600, "wheel_not_a_wheel"),
]


@pytest.mark.parametrize(("build", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_malicious_wheel_is_refused_with_its_code(build, code):
    with pytest.raises(BusbarError) as refused:
        read_wheel(build(), NAME, wheels.PROVIDED)
    assert refused.value.word == code
    assert refused.value.kind.value == 422


def test_a_duplicate_entry_is_refused():
    files = [*contents().items(), ("acme_demo/plugin.toml", b"x")]
    with pytest.warns(UserWarning, match="Duplicate"):
        wheel = pack(files)
    with pytest.raises(BusbarError) as refused:
        read_wheel(wheel, NAME, wheels.PROVIDED)
    assert refused.value.word == "wheel_duplicate_entry"


def test_a_good_wheel_is_read():
    read = read_wheel(good(), NAME, wheels.PROVIDED)
    assert (read.name, read.version, read.entry_point) == ("acme-demo", "1.0.0", "acme_demo:Demo")
    assert read.manifest.plugin.title == "Demo"


def test_a_requirement_that_every_worker_meets_is_no_obstacle():
    metadata = b"Metadata-Version: 2.1\nName: acme-demo\nVersion: 1.0.0\nRequires-Dist: pydantic>=2\n"
    assert read_wheel(replaced("METADATA", metadata), NAME, wheels.PROVIDED).name == "acme-demo"


def test_an_unknown_manifest_key_names_the_nearest_known_one():
    wheel = good(files={"acme_demo/plugin.toml": b'[plugin]\nid = "acme-demo"\ntitle = "x"\ntilte = 1\n'})
    with pytest.raises(BusbarError, match="unknown key 'plugin.tilte': did you mean 'title'"):
        read_wheel(wheel, NAME, wheels.PROVIDED)
