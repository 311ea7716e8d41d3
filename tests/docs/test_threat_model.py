"""The threat model names tests that are there, and has something to say of what each rule leaves open."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "threat-model.md").read_text(encoding="utf-8")
RULES = re.findall(r"^\| (.+) \| (.+) \| (`test_.+`) \| (.+) \|$", PAGE, re.MULTILINE)


def test_every_rule_is_tested_somewhere_and_says_what_it_does_not_stop():
    assert len(RULES) > 15
    named = {name for _, _, tests, _ in RULES for name in re.findall(r"`(\w+\.py)`", tests)}
    there = {path.name for path in TESTS.rglob("test_*.py")}
    assert named <= there, named - there


def test_every_table_of_attacks_is_a_rules():
    attacks = {path.name for path in TESTS.rglob("test_attacks_*.py")}
    assert len(attacks) > 3
    assert attacks <= set(re.findall(r"`(test_\w+\.py)`", PAGE))


def test_every_link_to_a_section_of_a_guide_leads_there():
    for name in ("threat-model", "administrator", "operator", "publisher"):
        text = (TESTS.parent / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for page, anchor in re.findall(r"\]\(([\w-]*(?:\.md)?)#([\w-]+)\)", text):
            there = (TESTS.parent / "docs" / (page or f"{name}.md")).read_text(encoding="utf-8")
            assert anchor in {_anchor(title) for title in re.findall(r"^#+ (.+)$", there, re.MULTILINE)}, (name, anchor)


def _anchor(title):
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
