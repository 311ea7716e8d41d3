"""Malicious wheels, each signed by a publisher who is trusted: a signature makes no archive safe to read.

Every row goes through the installer; what is refused leaves no trace on disk or in the database, and runs no code.
"""

import hashlib
import io
import stat
import struct
import tarfile
import zipfile
from dataclasses import replace

import pytest
import pytest_asyncio
import supply_wheels as wheels
from archives import DEFLATED, ENCRYPTED, STORED, Entry, archive, pack
from supply_rig import files_of, record_of, sign, supply_rig, table

from host.supply.wheel.record import digest_of

INFO, NAME = wheels.INFO, wheels.NAME
RECORD = f"{INFO}/RECORD"
INIT = "acme_demo/__init__.py"
LZMA = 14


@pytest.fixture
async def rig(tmp_path):
    async with supply_rig(tmp_path) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(tmp_path_factory):
    """One host for a whole table of attacks: none of them changes it."""
    async with supply_rig(tmp_path_factory.mktemp("attacked")) as found:
        yield found


def entries(files, extra_rows=(), record=None):
    """The entries of a wheel with these files and their RECORD, to which rows are added, or another RECORD."""
    _, listed = record_of(files)
    if extra_rows:
        listed = b"\n".join([*(row.encode() for row in extra_rows), listed])
    content = listed if record is None else record
    return [*(Entry(path, body) for path, body in files.items()), Entry(RECORD, content)]


def good():
    return entries(files_of())


def wheel_with(files=None, *, record=None, extra_rows=()):
    """A wheel with more or other files, all of them listed in RECORD."""
    return archive(entries(files_of() | (files or {}), extra_rows, record))


def named(path, content=b"x"):
    """A wheel with one more file of this name, listed in RECORD, so that only its name is wrong."""
    return wheel_with({path: content})


def bytes_named(name):
    """A wheel with one more entry, whose name is these very bytes."""
    return archive([*good(), Entry(name, b"x")])


def with_entry(entry):
    return archive([*good(), entry])


def changed(path=INIT, **changes):
    """A wheel in which one entry is made otherwise."""
    return archive([replace(one, **changes) if one.name == path else one for one in good()])


def with_record(edit):
    _, record = record_of(files_of())
    return wheel_with(record=edit(record.decode()).encode())


def info(name, content):
    return wheel_with({f"{INFO}/{name}": content})


def metadata(**fields):
    given = {"Metadata-Version": "2.1", "Name": "acme-demo", "Version": "1.0.0"} | fields
    return info("METADATA", "".join(f"{name}: {value}\n" for name, value in given.items()).encode())


def tagged(tag):
    return info("WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode())


def points(text):
    return info("entry_points.txt", text.encode())


def renamed_dist_info(name):
    return archive([replace(one, name=str(one.name).replace(INFO, name)) for one in good()])


def overlapping():
    """Two names in the central directory for the same bytes: the quoted overlap of CVE-2024-0450."""
    first, *others = good()
    return archive([first, Entry("acme_demo/twin.py", first.content, raw=b"", central={"offset": 0}), *others])


def tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        made.addfile(tarfile.TarInfo(INIT), io.BytesIO())
    return out.getvalue()


def huge_record():
    rows = "".join(f"acme_demo/{number:0>60}.py,sha256={number:0>43},1\n" for number in range(40_000))
    return archive([*good()[:-1], Entry(RECORD, rows.encode(), method=STORED)])


def bomb(size):
    # Made of one run of zeros and repeated, because deflating that much takes longer than the rest of these tests.
    megabyte = bytes(2**20)
    return with_entry(
        Entry("acme_demo/zeros.bin", raw=pack(megabyte) * (size // 2**20), local={"size": size}, central={"size": size})
    )


def hidden_entry():
    return archive([*good(), Entry("acme_demo/hidden.py", b"x", only_local=True)])


def zip64_end():
    """The end record of ZIP64 with its locator, before an end record that says nothing (CVE-2025-8291)."""
    plain = good()
    size = len(archive(plain))
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 6, 6, 1, 1)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, size, 1)
    return archive(plain, before_end=record + locator, end={"offset": 0xFFFFFFFF, "total": 0xFFFF, "here": 0xFFFF})


def quoted_comma():
    row = f'"acme_demo/a,b.txt",sha256={digest_of("sha256", b"x")},1\n'.encode()
    return archive([*good()[:-1], Entry("acme_demo/a,b.txt", b"x"), Entry(RECORD, record_of(files_of())[1] + row)])


def other_name(path=b"acme_demo/other.py"):
    """A second name in an extra field: Info-ZIP's Unicode Path."""
    return struct.pack("<HH", 0x7075, 5 + len(path)) + b"\x01" + bytes(4) + path


ACCEPTED = {
    "ok": lambda: archive(good()),
    "sig file in distinfo recorded": lambda: info("acme.sig", b"anything"),
    "quoted comma path": quoted_comma,
    "exec bit setuid": lambda: changed(mode=0o106777),
    "flags of how hard it was deflated": lambda: changed(flags=0x6),
    "version of ZIP64": lambda: changed(local={"version": 45}, central={"version": 45}),
}
REFUSED = [
    ("record jws", lambda: with_entry(Entry(f"{INFO}/RECORD.jws", b"x")), "deprecated_signature_file"),
    ("record jws listed in RECORD", lambda: info("RECORD.jws", b"x"), "deprecated_signature_file"),
    ("record p7s", lambda: info("RECORD.p7s", b"x"), "deprecated_signature_file"),
    ("zipslip dotdot", lambda: named("../evil.py"), "unsafe_path"),
    ("zipslip nested", lambda: named("acme_demo/../../evil.py"), "unsafe_path"),
    ("abs path", lambda: named("/etc/evil"), "unsafe_path"),
    ("drive", lambda: named("C:/evil.py"), "unsafe_path"),
    ("backslash path", lambda: named("acme_demo\\evil.py"), "unsafe_path"),
    ("symlink entry", lambda: changed(mode=0o120777), "non_regular_entry"),
    (
        "symlink dir then file",
        lambda: archive([Entry("acme_demo/x", b"/tmp", mode=0o120777), Entry("acme_demo/x/evil.py", b"x"), *good()]),
        "non_regular_entry",
    ),
    ("device entry", lambda: changed(mode=stat.S_IFCHR | 0o666), "non_regular_entry"),
    ("dup name same cd", lambda: with_entry(Entry(INIT, b"other")), "duplicate_entry"),
    ("casefold collision", lambda: named("acme_demo/PLUGIN.toml"), "path_collision"),
    ("unicode nfc nfd", lambda: wheel_with({"acme_demo/é.py": b"", "acme_demo/e\u0301.py": b""}), "path_collision"),
    ("unicode compatibility", lambda: wheel_with({"acme_demo/fi.py": b"", "acme_demo/ﬁ.py": b""}), "path_collision"),
    ("two distinfo", lambda: named("other-1.0.dist-info/METADATA"), "dist_info"),
    ("distinfo name mismatch", lambda: renamed_dist_info("other-1.0.0.dist-info"), "dist_info"),
    ("distinfo version mismatch", lambda: renamed_dist_info("acme_demo-1.0.1.dist-info"), "dist_info"),
    ("ctrl char name", lambda: named("acme_demo/a\x07.py"), "bad_name"),
    ("newline in name", lambda: with_entry(Entry("acme_demo/a\n.py")), "bad_name"),
    ("right-to-left override", lambda: named("acme_demo/a\u202eyp.py"), "bad_name"),
    ("file and dir same path", lambda: archive([*good(), Entry(f"{INIT}/", mode=0o040755)]), "path_collision"),
    ("file below a file", lambda: named(f"{INIT}/x.py"), "path_collision"),
    ("dot segment", lambda: named("acme_demo/./evil.py"), "unsafe_path"),
    ("empty segment", lambda: named("acme_demo//evil.py"), "unsafe_path"),
    ("file not in RECORD", lambda: with_entry(Entry("acme_demo/extra.py", b"x")), "record_mismatch"),
    ("RECORD lists missing", lambda: wheel_with(extra_rows=["acme_demo/gone.py,sha256=x,1"]), "record_mismatch"),
    ("wrong hash", lambda: with_record(lambda text: text.replace("sha256=", "sha256=A", 1)), "record_mismatch"),
    ("wrong size", lambda: with_record(lambda text: text.replace("\n", "0\n", 1)), "record_mismatch"),
    ("md5 hash", lambda: with_record(lambda text: text.replace("sha256=", "md5=", 1)), "weak_hash"),
    ("no hash rows", lambda: wheel_with(record=f"{INIT},,\n{RECORD},,\n".encode()), "record_mismatch"),
    ("dup RECORD row conflict", lambda: wheel_with(extra_rows=[f"{INIT},sha256=x,1"]), "record_duplicate_row"),
    (
        "RECORD with own hash",
        lambda: with_record(lambda text: text.replace("RECORD,,", "RECORD,sha256=x,1")),
        "record_malformed",
    ),
    ("RECORD traversal row", lambda: wheel_with(extra_rows=["../../x,sha256=x,1"]), "unsafe_path"),
    ("RECORD not UTF-8", lambda: wheel_with(record=b"\xff,,\n"), "record_malformed"),
    ("no RECORD", lambda: archive(good()[:-1]), "record_missing"),
    ("pth file", lambda: named("evil.pth"), "startup_hook"),
    ("pth file in the package", lambda: named("acme_demo/evil.pth"), "startup_hook"),
    ("sitecustomize", lambda: named("sitecustomize.py"), "startup_hook"),
    ("usercustomize package", lambda: named("usercustomize/__init__.py"), "startup_hook"),
    ("sitecustomize as an extension module", lambda: named("sitecustomize.abi3.so"), "startup_hook"),
    ("data scripts", lambda: named("acme_demo-1.0.0.data/scripts/evil"), "data_dir"),
    ("data data abs", lambda: named("acme_demo-1.0.0.data/data/etc/evil"), "data_dir"),
    ("data scripts traversal", lambda: named("acme_demo-1.0.0.data/scripts/../../evil.py"), "unsafe_path"),
    ("data unknown scheme", lambda: named("acme_demo-1.0.0.data/unknown/evil.py"), "data_dir"),
    ("shadow stdlib", lambda: named("json/__init__.py"), "shadows_stdlib"),
    ("shadow stdlib by extension module", lambda: named("json.cpython-311-x86_64-linux-gnu.so"), "shadows_stdlib"),
    ("ep traversal script", lambda: points("[console_scripts]\n../../x = acme_demo:Demo\n"), "entry_point_name"),
    (
        "ep python name",
        lambda: points("[console_scripts]\npython = acme_demo:Demo\n[busbar.plugins]\nacme-demo = acme_demo:Demo\n"),
        "scripts_not_allowed",
    ),
    ("ep of another module", lambda: points("[busbar.plugins]\nacme-demo = os:system\n"), "entry_point_name"),
    ("top level other pkg", lambda: named("pydantic/__init__.py"), "module_collision"),
    ("top level of the host", lambda: named("host/__init__.py"), "module_collision"),
    ("top level of the SDK", lambda: named("plugin_sdk.py"), "module_collision"),
    ("requires python mismatch", lambda: metadata(**{"Requires-Python": ">=4"}), "requires_python"),
    ("platform tag mismatch", lambda: tagged("cp311-cp311-win_amd64"), "platform_tag"),
    ("WHEEL tag differs from filename", lambda: tagged("py2-none-any"), "tag_mismatch"),
    ("WHEEL tag is none", lambda: tagged("x"), "tag_mismatch"),
    ("WHEEL tag that stands for 10^9", lambda: tagged("-".join([".".join("abcdefghij" * 100)] * 3)), "tag_mismatch"),
    ("WHEEL tag a thousand times", lambda: tagged("py3-none-any\nTag: ".join([""] * 1000)), "tag_mismatch"),
    ("WHEEL of a megabyte", lambda: info("WHEEL", b"Wheel-Version: 1.0\n" + b"X: y\n" * 200_000), "size_limit"),
    ("wheel version 2", lambda: info("WHEEL", b"Wheel-Version: 2.0\nTag: py3-none-any\n"), "wheel_version"),
    ("version differs filename", lambda: metadata(Version="2.0"), "name_version_mismatch"),
    ("METADATA name differs", lambda: metadata(Name="other"), "name_version_mismatch"),
    ("METADATA not UTF-8", lambda: info("METADATA", b"Name: \xff\n"), "metadata_encoding"),
    ("METADATA of 3 MiB", lambda: info("METADATA", b"Metadata-Version: 2.1\n" + b"X: y\n" * 630_000), "size_limit"),
    ("version of 5000 digits", lambda: metadata(Version="1" * 5000), "metadata_invalid"),
    ("Python of 5000 digits", lambda: metadata(**{"Requires-Python": ">=" + "1" * 5000}), "metadata_invalid"),
    ("requirement of 5000 digits", lambda: metadata(**{"Requires-Dist": "x>=" + "1" * 5000}), "metadata_invalid"),
    (
        "marker of 20 000 brackets",
        lambda: metadata(**{"Requires-Dist": "x; " + "(" * 20_000 + "os_name=='x'" + ")" * 20_000}),
        "metadata_invalid",
    ),
    ("encrypted flag", lambda: changed(flags=ENCRYPTED), "encrypted_entry"),
    ("cd name differs local", lambda: changed(local={"name": b"acme_demo/other___.py"}), "zip_structure"),
    ("cd method differs local", lambda: changed(local={"method": STORED}), "zip_structure"),
    ("cd size differs local", lambda: changed(local={"size": 1}), "zip_structure"),
    ("prefix data", lambda: archive(good(), prefix=b"#!/bin/sh\n"), "zip_structure"),
    ("prefix data, unadjusted", lambda: b"#!/bin/sh\n" + archive(good()), "zip_structure"),
    ("trailing data", lambda: archive(good(), after=b"x"), "zip_structure"),
    ("gap before the central directory", lambda: archive(good(), gap=b"x"), "zip_structure"),
    ("eocd comment plain", lambda: archive(good(), comment=b"hello"), "zip_structure"),
    ("zip in comment", lambda: archive(good(), comment=archive(good())), "zip_structure"),
    ("comment of an entry", lambda: changed(central={"comment": b"x"}), "zip_structure"),
    ("cd crc bad", lambda: changed(local={"crc": 1}, central={"crc": 1}), "zip_structure"),
    ("local only entry", hidden_entry, "zip_structure"),
    ("central only entry", lambda: archive(good(), end={"here": 7, "total": 7}), "zip_structure"),
    ("several disks", lambda: archive(good(), end={"disk": 1}), "zip_structure"),
    ("ZIP64 end record (CVE-2025-8291)", zip64_end, "zip_structure"),
    ("ZIP64 sizes", lambda: changed(extra=struct.pack("<HHQQ", 1, 16, 1, 1)), "zip_structure"),
    ("second name in an extra field", lambda: changed(extra=other_name()), "zip_structure"),
    ("extra field cut short", lambda: changed(extra=b"\x01\x02\xff\x00"), "zip_structure"),
    ("non utf8 name", lambda: bytes_named(b"acme_demo/\xff.py"), "bad_name"),
    ("nul in name", lambda: bytes_named(b"acme_demo/a.py\0.txt"), "bad_name"),
    ("bomb 200MB", lambda: bomb(200 * 2**20), "size_limit"),
    ("bomb by ratio", lambda: bomb(40 * 2**20), "size_limit"),
    (
        "bomb that declares little",
        lambda: with_entry(
            Entry("acme_demo/zeros.bin", raw=pack(bytes(2**24)), local={"size": 9}, central={"size": 9})
        ),
        "zip_structure",
    ),
    ("overlapping entries", overlapping, "zip_structure"),
    ("usize lie", lambda: changed(local={"size": 3}, central={"size": 3}), "zip_structure"),
    ("csize lie", lambda: changed(local={"packed": 2**31}, central={"packed": 2**31}), "zip_structure"),
    ("lzma compression", lambda: changed(method=LZMA, raw=b"x"), "compression_method"),
    ("deflate that is none", lambda: changed(method=DEFLATED, raw=b"\xff" * 9), "zip_structure"),
    ("flag of patched data", lambda: changed(flags=0x20), "zip_structure"),
    ("flag of a masked directory", lambda: changed(flags=0x4000), "zip_structure"),
    ("version that nobody reads", lambda: changed(local={"version": 99}, central={"version": 99}), "zip_structure"),
    ("version that nobody reads, before the file", lambda: changed(local={"version": 46}), "zip_structure"),
    ("bytes behind the deflated ones", lambda: changed(raw=pack(files_of()[INIT]) + b"x"), "zip_structure"),
    ("data descriptors valid", lambda: changed(descriptor=True), "zip_structure"),
    ("long name", lambda: named("acme_demo/" + "a" * 201), "bad_name"),
    ("long path", lambda: named("/".join(["acme_demo", *["a" * 100] * 6])), "bad_name"),
    ("windows reserved", lambda: named("acme_demo/con.py"), "bad_name"),
    ("trailing dot", lambda: named("acme_demo/x."), "bad_name"),
    ("alternate data stream", lambda: named("acme_demo/x.py:y"), "bad_name"),
    ("pyc only mismatch", lambda: named("acme_demo/__pycache__/x.cpython-311.pyc"), "bytecode_in_wheel"),
    ("pyc in the place of a source", lambda: named("acme_demo/x.pyc"), "bytecode_in_wheel"),
    ("tar named whl", tar, "not_a_wheel"),
    ("nothing named whl", lambda: b"", "not_a_wheel"),
    ("huge RECORD", huge_record, "size_limit"),
    ("entry_points.txt not UTF-8", lambda: info("entry_points.txt", b"\xff"), "metadata_encoding"),
    ("entry_points.txt of a megabyte", lambda: points("[x]\n" + "a = b\n" * 200_000), "size_limit"),
    ("too many entries", lambda: archive([*good(), *[Entry(f"x/{i}") for i in range(10_001)]]), "size_limit"),
]

FILENAMES = {"platform tag mismatch": "acme_demo-1.0.0-cp311-cp311-win_amd64.whl"}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("case", "build", "code"), table(REFUSED))
async def test_a_malicious_wheel_is_refused_and_leaves_no_trace(attacked, case, build, code):
    wheel, filename = build(), FILENAMES.get(case, NAME)
    refused = await attacked.refusal(wheel, attacked.acme.sign(wheel, filename=filename), filename)
    assert refused.word == f"wheel_{code}"
    assert refused.message.isprintable()


@pytest.mark.parametrize("build", ACCEPTED.values(), ids=ACCEPTED)
async def test_a_wheel_that_only_looks_odd_is_installed(rig, build):
    wheel = build()
    before = await rig.picture()
    release = await rig.take(wheel, rig.acme.sign(wheel, record_sha256=read_record(wheel)))
    assert await rig.picture() != before
    assert (await rig.installer.verify_installed(release.sha256)).version == "1.0.0"
    for path in release.folder.rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o444, path


async def test_what_is_not_the_signed_record_is_refused_although_the_wheel_is_good(rig):
    wheel = archive(good())
    refused = await rig.refusal(wheel, rig.acme.sign(wheel, record_sha256="0" * 64))
    assert refused.word == "release_subject_mismatch"


async def test_a_wheel_that_never_ends_is_cut_off(rig):
    async def endless():
        while True:
            yield bytes(2**20)

    refused = await rig.refusal(endless(), sign(rig.acme).attestations)
    assert refused.word == "release_size_limit"


def read_record(wheel):
    """The SHA-256 of the RECORD in a wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as opened:
        return hashlib.sha256(opened.read(RECORD)).hexdigest()
