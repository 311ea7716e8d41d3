"""A good signed release, changed at random: only what was signed is accepted, and only refusals come out."""

import base64
import contextlib
import csv
import hashlib
import io
import json
import struct
import zipfile
from dataclasses import replace

from archives import Entry, archive
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from supply_rig import files_of, record_of, sign
from supply_wheels import NAME, NOW, PROVIDED, Acme

from host.supply.errors import SupplyError
from host.supply.trust.dsse import parse_bundle
from host.supply.trust.verification import Purpose, verify_release
from host.supply.wheel.reader import read_wheel

ACME = Acme()
FILES = files_of(manifest='[permissions]\nsubscribe = ["acme.*"]\n') | {"acme_demo/data.bin": bytes(range(256)) * 4}
GOOD = sign(ACME, FILES)
OTHER = sign(ACME, files_of(code="class Demo:\n    pass\n"), sequence=8)
PAYLOAD = parse_bundle(GOOD.attestations)[0].payload
STATEMENT = json.loads(PAYLOAD)
INFO = "acme_demo-1.0.0.dist-info"


def fuzz(examples):
    """So many examples; how long one takes says nothing here."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def verify(wheel, attestations):
    """What is signed of a wheel; None where it is refused. Whatever else is raised comes out."""
    with contextlib.suppress(SupplyError):
        return verify_release(
            sha256=hashlib.sha256(wheel).hexdigest(),
            filename=NAME,
            attestations=attestations,
            trust=ACME.trust,
            now=NOW,
            purpose=Purpose.INSTALL,
        ).statement
    return None


def read(wheel):
    """The files of a wheel whose signature holds; None where it is refused. Whatever else is raised comes out."""
    with contextlib.suppress(SupplyError):
        return read_wheel(wheel, NAME, PROVIDED).files
    return None


def read_leniently(wheel):
    """The files as another reader sees them."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as opened:
        return {info.filename: opened.read(info) for info in opened.infolist() if not info.is_dir()}


def unaccounted(wheel):
    """How many bytes of an archive no header and no entry needs."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as opened:
        needed = 22
        for info in opened.infolist():
            name, extra = struct.unpack_from("<2H", wheel, info.header_offset + 26)
            needed += 30 + name + extra + info.compress_size + 46 + name + len(info.extra)
        return len(wheel) - needed


def check_read(wheel):
    """The law of what is read: another reader sees the same, and no byte is there for a third one."""
    files = read(wheel)
    if files is not None:
        assert files == read_leniently(wheel)
        assert unaccounted(wheel) == 0


def test_the_good_release_itself_is_accepted_and_read():
    assert verify(GOOD.wheel, GOOD.attestations).dump() == PAYLOAD
    name, record = record_of(FILES)
    assert read(GOOD.wheel) == {**FILES, name: record}
    check_read(GOOD.wheel)


# -- bytes


@st.composite
def changed_bytes(draw, original):
    """The original with up to three cuts, insertions, overwritten bytes and repetitions."""
    found = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(found)))
        end = min(len(found), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["bit", "cut", "insert", "overwrite", "repeat", "move"])):
            case "bit" if start < len(found):
                found[start] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del found[start:end]
            case "insert":
                found[start:start] = draw(st.binary(max_size=20))
            case "overwrite":
                found[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
            case "repeat":
                found[start:start] = found[start:end]
            case "move":
                piece = found[start:end]
                del found[start:end]
                at = draw(st.integers(0, len(found)))
                found[at:at] = piece
    return bytes(found)


@fuzz(200)
@given(changed_bytes(GOOD.wheel))
def test_a_wheel_of_other_bytes_is_not_the_one_that_was_signed(wheel):
    assert (verify(wheel, GOOD.attestations) is not None) == (wheel == GOOD.wheel)


@fuzz(250)
@given(changed_bytes(GOOD.attestations))
def test_attestations_of_other_bytes_say_what_was_signed_or_nothing(attestations):
    found = verify(GOOD.wheel, attestations)
    if found is not None:
        assert found.dump() == PAYLOAD
        assert PAYLOAD in {envelope.payload for envelope in parse_bundle(attestations)}


@fuzz(250)
@given(changed_bytes(GOOD.wheel))
def test_a_broken_wheel_that_is_signed_all_the_same_is_refused_or_read_as_others_read_it(wheel):
    check_read(wheel)


# -- structure: attestations

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**53) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
BASE64 = st.sampled_from(
    [
        json.loads(one.attestations)[name]
        if name == "payload"
        else json.loads(one.attestations)["signatures"][0]["sig"]
        for one in (GOOD, OTHER)
        for name in ("payload", "sig")
    ]
)


def paths(value, here=()):
    """Where each part of a JSON value is."""
    yield here
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from paths(child, (*here, name))


@st.composite
def changed_json(draw, original, values):
    """The original with up to two parts replaced, removed, added or repeated."""
    found = {"": json.loads(json.dumps(original))}
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from([("", *path) for path in paths(found[""])]))
        holder = found
        for name in above:
            holder = holder[name]
        match draw(st.sampled_from(["replace", "remove", "add", "repeat"])):
            case "remove" if above:
                del holder[last]
            case "add" if isinstance(holder[last], dict):
                holder[last][draw(st.text(max_size=8))] = draw(values)
            case "repeat" if isinstance(holder[last], list):
                holder[last] *= 2
            case _:
                holder[last] = draw(values)
    return found[""]


@st.composite
def changed_bundles(draw):
    """Lines of good, changed and other envelopes, in any order and written in several ways."""
    good, other = (json.loads(one.attestations) for one in (GOOD, OTHER))
    swapped = {**good, "signatures": other["signatures"]}
    both = {**good, "signatures": other["signatures"] + good["signatures"]}
    line = st.one_of(
        st.sampled_from([good, other, swapped, both]), changed_json(good, JSON | BASE64), changed_json(both, BASE64)
    )
    lines = draw(st.lists(line, min_size=1, max_size=3))
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([(", ", ": "), (",", ":"), (" , ", " :\t")]))
    return b"\n".join(
        json.dumps(one, ensure_ascii=ascii_only, separators=indent).encode("utf-8", "replace") for one in lines
    )


@fuzz(150)
@given(changed_bundles())
def test_attestations_of_another_structure_say_what_was_signed_or_nothing(attestations):
    found = verify(GOOD.wheel, attestations)
    if found is not None:
        assert found.dump() == PAYLOAD


@fuzz(200)
@given(changed_json(STATEMENT, JSON))
def test_a_statement_of_any_form_that_is_signed_is_refused_or_is_about_this_very_wheel(statement):
    payload = json.dumps(statement).encode()
    found = verify(GOOD.wheel, ACME.line(payload))
    if found is not None:
        assert (found.filename, found.sha256) == (NAME, GOOD.sha256)
        assert (found.publisher, found.plugin, found.version) == ("acme", "acme-demo", "1.0.0")


@fuzz(250)
@given(changed_bytes(PAYLOAD))
def test_a_payload_of_other_bytes_that_is_signed_is_refused_or_is_about_this_very_wheel(payload):
    found = verify(GOOD.wheel, ACME.line(payload))
    if found is not None:
        assert (found.filename, found.sha256) == (NAME, GOOD.sha256)


# -- structure: wheels

NAMES = st.sampled_from(
    [*FILES, "acme_demo", "acme_demo/", "ACME_DEMO/x.py", f"{INFO}/", "x.pth", "é", "e\u0301"]
) | st.text(max_size=12)
FIELDS = {
    "name": st.binary(max_size=12),
    "flags": st.integers(0, 2**16 - 1),
    "version": st.integers(0, 2**16 - 1) | st.sampled_from([20, 45, 46]),
    "method": st.sampled_from([0, 8, 9, 12, 14, 99]),
    "crc": st.integers(0, 2**32 - 1),
    "packed": st.integers(0, 2**32 - 1),
    "size": st.integers(0, 2**32 - 1),
    "extra": st.binary(max_size=12),
    "mode": st.integers(0, 2**16 - 1),
    "offset": st.integers(0, 4096),
    "comment": st.binary(max_size=4),
}
HEADERS = st.sets(st.sampled_from(list(FIELDS)), min_size=1, max_size=2).flatmap(
    lambda chosen: st.fixed_dictionaries({name: FIELDS[name] for name in sorted(chosen)})
)
ENTRIES = st.builds(
    Entry,
    NAMES.map(lambda name: name.encode("utf-8", "replace")),
    st.binary(max_size=30),
    method=st.sampled_from([0, 8]),
    mode=st.sampled_from([0o100644, 0o040755, 0o120777, 0]),
    raw=st.none() | st.binary(max_size=30),
    local=st.just({}) | HEADERS,
    central=st.just({}) | HEADERS,
    only_local=st.booleans(),
    descriptor=st.booleans(),
)


@st.composite
def changed_archives(draw):
    """The good archive with entries added, left out, moved or given other headers."""
    name, record = record_of(FILES)
    entries = [Entry(path, content) for path, content in {**FILES, name: record}.items()]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(entries) - 1))
        match draw(st.sampled_from(["header", "both", "add", "move", "remove"])):
            case "header":
                entries[at] = replace(entries[at], **{draw(st.sampled_from(["local", "central"])): draw(HEADERS)})
            case "both":
                fields = draw(HEADERS)
                entries[at] = replace(entries[at], local=fields, central=fields)
            case "add":
                entries.insert(at, draw(ENTRIES))
            case "move":
                entries.insert(draw(st.integers(0, len(entries) - 1)), entries.pop(at))
            case "remove" if len(entries) > 1:
                del entries[at]
    around = draw(st.sampled_from([{}, {}, *({name: b"x"} for name in ("prefix", "gap", "comment", "before_end"))]))
    return archive(entries, **around)


@fuzz(250)
@given(changed_archives())
def test_an_archive_of_another_structure_is_refused_or_read_as_others_read_it(wheel):
    check_read(wheel)


TEXTS = {
    f"{INFO}/WHEEL": ["Wheel-Version", "Tag", "Root-Is-Purelib"],
    f"{INFO}/METADATA": ["Metadata-Version", "Name", "Version", "Requires-Python", "Requires-Dist", "Dynamic"],
    f"{INFO}/entry_points.txt": ["[busbar.plugins]\nacme-demo", "[busbar.plugins", "[DEFAULT]\nx"],
    "acme_demo/plugin.toml": ["[plugin]\nid", "[runtime]\nmemory", "[permissions]\nnetwork", "[[plugin]]\nx"],
}
VALUES = st.text(max_size=20) | st.sampled_from(
    [
        "py3-none-any",
        "py2.py3-none-any",
        "x",
        "1",
        "1.0.0",
        "pydantic>=2; python_version > '3'",
        "x; extra == 'a'",
        "x @ https://example.org/x.whl",
        '"128MiB"',
        '["a:1"]',
        "[" * 2000,
    ]
)


@st.composite
def changed_texts(draw):
    """A whole wheel in which one of the files that are read says something else; its RECORD fits."""
    path = draw(st.sampled_from(list(TEXTS)))
    if draw(st.booleans()):
        content = draw(changed_bytes(FILES[path]))
    else:
        fields = st.tuples(st.sampled_from(TEXTS[path]), st.sampled_from([": ", " = ", ""]), VALUES)
        lines = "".join("".join(field) + "\n" for field in draw(st.lists(fields, max_size=4)))
        content = (FILES[path] if draw(st.booleans()) else b"") + lines.encode("utf-8", "replace")
    files = {**FILES, path: content}
    name, record = record_of(files)
    return archive([Entry(at, one) for at, one in {**files, name: record}.items()])


@fuzz(200)
@given(changed_texts())
def test_a_wheel_that_says_anything_of_itself_is_refused_or_read(wheel):
    check_read(wheel)


@fuzz(200)
@given(changed_bytes(record_of(FILES)[1]))
@example(b'"')
def test_a_record_of_any_form_is_refused_or_lists_exactly_the_files(record):
    name, _ = record_of(FILES)
    wheel = archive([Entry(path, content) for path, content in {**FILES, name: record}.items()])
    if read(wheel) is not None:
        rows = {row[0]: row for row in csv.reader(io.StringIO(record.decode()))}
        assert rows.keys() == {*FILES, name}
        for path, content in FILES.items():
            algorithm, _, digest = rows[path][1].partition("=")
            raw = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4))
            assert raw == hashlib.new(algorithm, content).digest()
