"""The maintainers' pages name what is there: the files of the two paths, the rooms, and the targets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")


def section(title):
    return re.search(rf"## {title}\n(.*?)(?=\n## |\Z)", ARCHITECTURE, re.DOTALL)[1]


def files(text):
    return re.findall(r"`((?:host|plugin_sdk)/[\w/]+\.py)`", text)


@pytest.mark.parametrize("path", ["The path of an event", "The path of a release"])
def test_every_file_of_a_path_is_there(path):
    named = files(section(path))
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_path_of_an_event_is_told_in_its_order():
    """From the edge to the worker and back: whoever is imported by the one before comes after it."""
    named = files(section("The path of an event"))
    order = [name for name in dict.fromkeys(named) if name.startswith("host/routing/") or "/runtime/" in name]
    wanted = ["bus", "router", "feed", "consumer", "guard", "process", "settlements"]
    assert [Path(name).stem for name in order if Path(name).stem in wanted] == wanted


def test_every_room_of_the_house_is_in_the_table_and_the_contract():
    rooms = {path.parent.name for path in (ROOT / "host").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"`host/(\w+)`", section("The house")))
    contract = (ROOT / "pyproject.toml").read_text().split('type = "layers"')[1]
    assert [room for room in rooms if f'"host.{room}"' not in contract] == []


@pytest.mark.parametrize("page", PAGES)
def test_whatever_a_page_names_is_there(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:host|plugin_sdk|plugins|tests|docs|config)/[\w/.-]+)`", text)
    named += re.findall(r"\]\(([\w/.-]+)\)", text)
    assert [name for name in named if "NNNN" not in name and not (ROOT / name).exists()] == []


def test_every_target_is_told():
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    told = re.findall(r"`make (\w+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert set(targets) - {"setup", "clean"} == set(told)
