"""The choice of a file, held against the rules of PEP 440, 503, 592 and 792, and against an own statement of them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag
from packaging.version import Version
from yarl import URL

from host.errors import ErrorKind
from host.supply.errors import ReleaseRefusedError
from host.supply.index.candidates import Machine, choose
from host.supply.index.core_metadata import check_metadata
from host.supply.index.errors import ReleaseNotFoundError, RequirementRefusedError
from host.supply.index.project_page import Project, ProjectFile
from host.supply.index.requirements import parse_requirement
from host.supply.wheel.reader import ReadWheel

HERE = Machine(
    Version("3.12.1"), (Tag("cp312", "cp312", "linux"), Tag("py3", "none", "any"), Tag("py2", "none", "any"))
)


def file(version, tags="py3-none-any", *, name="acme_demo", **entry):
    filename = f"{name}-{version}-{tags}.whl"
    return ProjectFile(filename, URL(f"https://plugins.example.org/{filename}"), **entry)


def chosen(requirement, *files, **options):
    return choose(parse_requirement(requirement), Project("acme-demo", files), HERE, "main", **options)


# Versions


CHOICES = [
    ("acme-demo", ["1.0", "1.10", "1.9"], "1.10"),
    ("acme-demo<1.10", ["1.0", "1.10", "1.9"], "1.9"),
    ("acme-demo>=1,<2", ["0.9", "1.5", "2.0", "2.0a1"], "1.5"),
    ("acme-demo==1.*", ["1.0", "1.5", "2.0"], "1.5"),
    ("acme-demo==1.0", ["1.0", "1.0.1"], "1.0"),
    ("acme-demo==1", ["1.0.0"], "1.0.0"),
    ("acme-demo~=1.2", ["1.1", "1.9", "2.0"], "1.9"),
    ("acme-demo!=2.0", ["1.0", "2.0"], "1.0"),
    ("acme-demo===1.0", ["1.0", "1.1"], "1.0"),
    ("acme-demo==1.0", ["1.0", "1.0+local"], "1.0+local"),
    ("ACME.demo", ["1.0"], "1.0"),
    # pre-releases: where there is nothing else, or the requirement names one
    ("acme-demo", ["1.0", "2.0rc1", "2.0.dev1"], "1.0"),
    ("acme-demo", ["2.0rc1", "2.0.dev1"], "2.0rc1"),
    ("acme-demo>=2.0rc1", ["1.0", "2.0rc1", "2.0rc2"], "2.0rc2"),
    ("acme-demo==2.0rc1", ["1.0", "2.0rc1"], "2.0rc1"),
    ("acme-demo", ["1.0", "1.0.post1"], "1.0.post1"),
]


@pytest.mark.parametrize(("requirement", "versions", "expected"), CHOICES)
def test_the_newest_version_that_is_asked_for_is_chosen(requirement, versions, expected):
    assert chosen(requirement, *map(file, versions)).version == expected


@pytest.mark.parametrize("requirement", ["acme-demo>2", "acme-demo==1.1", "acme-demo===1.0.0"])
def test_where_no_version_is_asked_for_there_is_nothing(requirement):
    with pytest.raises(ReleaseNotFoundError) as refused:
        chosen(requirement, file("1.0"))
    assert (refused.value.word, refused.value.kind) == ("release_not_found", ErrorKind.NOT_FOUND)


# Yanked


def test_a_yanked_version_is_passed_over():
    assert chosen("acme-demo", file("1.0"), file("1.1", yanked="")).version == "1.0"


@pytest.mark.parametrize("requirement", ["acme-demo", "acme-demo>=1.1", "acme-demo==1.*", "acme-demo~=1.1"])
def test_where_all_is_yanked_nothing_is_taken_unless_its_very_version_is_named(requirement):
    with pytest.raises(ReleaseNotFoundError) as refused:
        chosen(requirement, file("1.1", yanked="bad"))
    assert refused.value.errors == ("1 wheels are yanked",)


@pytest.mark.parametrize("requirement", ["acme-demo==1.1", "acme-demo===1.1", "acme-demo==1.1,>1"])
def test_a_yanked_version_that_is_named_is_taken_with_a_warning(requirement):
    candidate = chosen(requirement, file("1.0"), file("1.1", yanked="does not start"))
    assert candidate.version == "1.1"
    assert candidate.warnings == ("acme-demo 1.1 was yanked from index main: does not start",)


def test_of_a_version_that_is_named_the_file_that_is_not_yanked_is_taken():
    candidate = chosen("acme-demo==1.1", file("1.1", "cp312-cp312-linux", yanked=""), file("1.1"))
    assert (candidate.file.filename, candidate.warnings) == ("acme_demo-1.1-py3-none-any.whl", ())


# What this host can run


def test_a_version_for_another_python_is_passed_over():
    files = [
        file("1.0", requires_python=">=3.8"),
        file("1.1", requires_python=">=3.13"),
        file("1.2", requires_python="x"),
    ]
    assert chosen("acme-demo", *files).version == "1.0"


def test_a_pre_release_of_python_is_a_python():
    machine = Machine(Version("3.13.0rc1"), HERE.tags)
    project = Project("acme-demo", (file("1.0", requires_python=">=3.12"),))
    assert choose(parse_requirement("acme-demo"), project, machine, "main").version == "1.0"


def test_the_wheel_that_is_made_for_this_machine_comes_before_the_one_for_any():
    files = [file("1.0"), file("1.0", "cp312-cp312-linux"), file("1.0", "py2-none-any"), file("1.0", "cp312-cp312-win")]
    assert chosen("acme-demo", *files).file.filename == "acme_demo-1.0-cp312-cp312-linux.whl"


def test_of_equal_wheels_the_higher_build_is_taken():
    files = [file("1.0", "9-py3-none-any"), file("1.0", "10-py3-none-any"), file("1.0")]
    assert chosen("acme-demo", *files).file.filename == "acme_demo-1.0-10-py3-none-any.whl"


def test_a_version_counts_before_how_well_its_wheel_fits():
    assert chosen("acme-demo", file("1.0", "cp312-cp312-linux"), file("1.1", "py2.py3-none-any")).version == "1.1"


NO_WHEELS = ["acme_demo-2.0.tar.gz", "acme_demo-2.0.zip", "acme_demo-2.0-py3.12.egg", "acme_demo-x-py3-none-any.whl"]
NO_WHEELS += ["acme_other-2.0-py3-none-any.whl", "readme.txt", "", ".whl", "acme_demo-2.0-py3-none-any.whl.asc"]


@pytest.mark.parametrize("name", NO_WHEELS)
def test_what_is_no_wheel_of_the_project_is_passed_over(name):
    other = ProjectFile(name, URL("https://plugins.example.org/x"))
    assert chosen("acme-demo", other, file("1.0")).version == "1.0"


def test_a_refusal_says_what_there_is_and_why_it_does_not_fit():
    files = [
        ProjectFile("acme_demo-1.0.tar.gz", URL("https://plugins.example.org/x")),
        file("1.0", "cp312-cp312-win"),
        file("1.0", requires_python="<3"),
        file("1.1", yanked=""),
        file("0.1"),
    ]
    with pytest.raises(ReleaseNotFoundError, match="index main has acme-demo") as refused:
        chosen("acme-demo>=1", *files)
    assert refused.value.errors == (
        "1 files are no wheels of acme-demo",
        "2 wheels are for another Python or platform",
        "1 wheels are yanked",
        "1 wheels are of versions that are not asked for",
    )


# The project as a whole


@pytest.mark.parametrize("status", ["archived", "deprecated", "haunted"])
def test_a_project_that_is_not_active_is_installed_with_a_warning(status):
    project = Project("acme-demo", (file("1.0"),), status, "use another")
    candidate = choose(parse_requirement("acme-demo"), project, HERE, "main")
    assert candidate.warnings == (f"index main says that acme-demo is {status}: use another",)


def test_a_project_in_quarantine_is_not():
    project = Project("acme-demo", (file("1.0"),), "quarantined")
    with pytest.raises(ReleaseRefusedError) as refused:
        choose(parse_requirement("acme-demo==1.0"), project, HERE, "main")
    assert refused.value.word == "release_quarantined_by_index"


def test_a_newest_version_that_was_yanked_is_still_there_and_no_sign_of_an_old_state():
    assert chosen("acme-demo", file("1.0"), file("1.1", yanked=""), newest="1.1").version == "1.0"
    with pytest.raises(ReleaseRefusedError) as refused:
        chosen("acme-demo", file("1.0"), newest="1.1")
    assert refused.value.word == "release_stale_trust_data"


def test_the_newest_version_is_told_for_the_next_time_pre_releases_aside():
    files = [file("1.0"), file("1.2", yanked=""), file("1.1", "cp312-cp312-win"), file("2.0rc1")]
    assert chosen("acme-demo==1.0", *files).newest == "1.2"
    assert chosen("acme-demo", file("2.0rc1")).newest is None


# Laws

VERSIONS = st.sampled_from(["0.9", "1.0", "1.0.1", "1.1a1", "1.1", "1.1.post1", "2.0.dev1", "2.0rc1", "2.0", "2.0+x"])
SPECIFIERS = st.sampled_from(["", "==1.0", "==1.*", ">=1,<2", "<2", ">=2.0rc1", "!=1.1", "~=1.0", "===2.0", "==2.0rc1"])
FILES = st.builds(
    file,
    VERSIONS,
    st.sampled_from(["py3-none-any", "cp312-cp312-linux", "cp312-cp312-win", "1-py3-none-any", "py2.py3-none-any"]),
    yanked=st.sampled_from([None, None, None, "", "bad"]),
    requires_python=st.sampled_from([None, ">=3.8", ">=3.13", "nonsense"]),
)


@given(
    specifier=SPECIFIERS,
    files=st.lists(FILES, max_size=12, unique_by=lambda one: one.filename),
    seed=st.integers(0, 2**16),
)
def test_what_is_chosen_stands_fits_and_is_the_newest_in_whatever_order_the_page_has_it(specifier, files, seed):
    requirement = parse_requirement("acme-demo" + specifier)
    runs = [one for one in files if "win" not in one.filename and one.requires_python in {None, ">=3.8"}]

    def versions(which):
        return {Version(one.filename.split("-")[1]) for one in which}

    standing = set(requirement.specifier.filter(versions(one for one in runs if one.yanked is None)))
    named = specifier.startswith("==") and not specifier.endswith(".*")
    all_fit = set(requirement.specifier.filter(versions(runs))) if named else set()

    try:
        candidate = chosen("acme-demo" + specifier, *files)
    except ReleaseNotFoundError:
        assert not standing
        assert not all_fit
        return
    assert candidate.file in runs
    assert candidate.version == str(max(standing or all_fit))
    assert (candidate.file.yanked is not None) == bool(candidate.warnings) == (not standing)
    shuffled = random.Random(seed).sample(files, len(files))
    assert chosen("acme-demo" + specifier, *shuffled) == candidate


# What may be asked for


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("acme-demo[extra]", "names extras"),
        ("acme-demo; python_version>'3'", "has a condition"),
        ("acme-demo @ https://evil.example.org/x.whl", "names an address"),
        ("acme-demo @ file:///etc/passwd", "names an address"),
        ("", "is no requirement"),
        ("acme demo", "is no requirement"),
        ("acme-demo==", "is no requirement"),
        ("acme-demo>=x", "is no requirement"),
        ("../acme", "is no requirement"),
        ("--index-url=https://evil.example.org", "is no requirement"),
        ("acme-demo\n--pre", "is no requirement"),
        ("acme\x1b[2J", "is no requirement"),
        ("1acme", "names no plugin"),
        ("a" * 65, "names no plugin"),
        ("acme-demo" + "==1.0," * 200, "at most 500 characters"),
    ],
)
def test_a_requirement_says_a_name_and_versions_and_no_more(text, why):
    with pytest.raises(RequirementRefusedError) as refused:
        parse_requirement(text)
    assert why in refused.value.message
    assert refused.value.message.isprintable()
    assert (refused.value.word, refused.value.kind) == ("requirement_invalid", ErrorKind.INVALID)


# What the index said of the METADATA


def test_a_wheel_whose_metadata_is_not_what_the_index_named_is_refused():
    files = {"acme/x.dist-info/METADATA": b"other", "acme_demo-1.0.dist-info/METADATA": b"metadata"}
    wheel = ReadWheel("acme-demo", "1.0", None, "", files, "")
    check_metadata(None, wheel)
    check_metadata("45447b7afbd5e544f7d0f1df0fccd26014d9850130abd3f020b89ff96b82079f", wheel)
    with pytest.raises(ReleaseRefusedError) as refused:
        check_metadata("0" * 64, wheel)
    assert refused.value.word == "release_metadata_mismatch"
