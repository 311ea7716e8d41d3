"""Lines of the host's log: whatever they quote, they are written."""

import io
import logging
import sys

import pytest
import structlog

from host.observe.logging import configure


@pytest.fixture
def restored():
    """The process's own logging, afterwards as it was."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("quoted", [0xDCFF, 0xD800, 0xE9, 0x202E])
def test_a_line_is_written_whatever_it_quotes(monkeypatch, form, quoted):
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    configure("info", form)
    structlog.get_logger("api").info("Request started", userAgent=f"x{chr(quoted)}y")
    assert b"Request started" in written.getvalue()
    assert written.getvalue().isascii()
