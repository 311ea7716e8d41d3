"""The bill of materials: valid for CycloneDX's own schema, and the same bytes for the same release."""

import json
import random

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from host.supply.scan.bill_of_materials import bill_of_materials, package_url

SHA = "a" * 64


def bill(distributions=(), **changes):
    return bill_of_materials(
        **{"plugin": "acme-demo", "version": "1.0.0", "sha256": SHA, "distributions": distributions, **changes}
    )


LICENSES = [
    ("MIT", {"expression": "MIT"}),
    ("mit or apache-2.0", {"expression": "MIT OR Apache-2.0"}),
    ("GPL-3.0-or-later WITH GCC-exception-3.1", {"expression": "GPL-3.0-or-later WITH GCC-exception-3.1"}),
    ("LicenseRef-Acme", {"expression": "LicenseRef-Acme"}),
    ("Do what you want\nas long as …", {"license": {"name": "Do what you want"}}),
    ("Acme\x1b[2K", {"license": {"name": "Acme\\x1b[2K"}}),
    ("(" * 10_000, {"license": {"name": "(" * 199 + "…"}}),
]


@pytest.mark.parametrize(("text", "written"), LICENSES, ids=[repr(text[:20]) for text, _ in LICENSES])
def test_licences_are_spdx_expressions_where_they_are_some(distribution, text, written):
    raw = bill([distribution("lib", "1", license=text)])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw.decode()) is None
    (component,) = json.loads(raw)["components"]
    assert component["licenses"] == [written]


def test_the_document_holds_the_plugin_and_every_dependency_with_its_hash(distribution):
    raw = bill(
        [distribution("lib", "1.0+local", sha256="c" * 64), distribution("a-lib", "2", license=" ")], license_text="MIT"
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw.decode()) is None
    read = Bom.from_json(json.loads(raw))
    subject = read.metadata.component
    assert (subject.name, subject.version, str(subject.purl)) == ("acme-demo", "1.0.0", "pkg:pypi/acme-demo@1.0.0")
    assert [(one.name, one.version) for one in sorted(read.components, key=lambda one: one.name)] == [
        ("a-lib", "2"),
        ("lib", "1.0+local"),
    ]
    written = json.loads(raw)
    assert written["components"][1]["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
    assert "licenses" not in written["components"][0]
    assert written["dependencies"][0]["dependsOn"] == [one["bom-ref"] for one in written["components"]]


def test_a_release_without_dependencies_has_a_valid_document_too():
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill().decode()) is None


def test_the_same_release_has_the_same_bytes_and_another_has_another_number(distribution):
    ones = [distribution(f"lib-{number}", "1") for number in range(20)]
    shuffled = random.sample(ones, len(ones))
    assert bill(ones) == bill(shuffled)
    assert json.loads(bill())["serialNumber"] != json.loads(bill(sha256="b" * 64))["serialNumber"]


@pytest.mark.parametrize("version", ["1.0", "1!2.0", "1.0+acme.1", "1.0rc1"])
def test_package_urls_are_read_back_as_they_were(version):
    read = PackageURL.from_string(package_url("acme-lib", version))
    assert (read.type, read.name, read.version) == ("pypi", "acme-lib", version)
