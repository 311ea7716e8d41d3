"""Errors are sentences for people: whatever they quote, they drive no terminal, no log and no page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import BusbarError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("what is wrong, and how to mend it", "what is wrong, and how to mend it"),
        ("Grüße, 你好 🚀", "Grüße, 你好 🚀"),
        ("\x1b[2J", r"\x1b[2J"),
        ("one\nof\ttwo", r"one\nof\ttwo"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_an_error_shows_what_cannot_be_printed_as_an_escape(text, shown):
    error = BusbarError(text, errors=[text])
    assert (error.message, str(error), error.errors) == (shown, shown, (shown,))


@given(st.text())
def test_what_is_made_printable_is_printable_and_stays_as_it_is(text):
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert (shown == text) == text.isprintable()
