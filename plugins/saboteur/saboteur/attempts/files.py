"""Attempts on files and folders."""

import os
from pathlib import Path


def read(target: str) -> str:
    """Read a file."""
    return Path(target).read_text(encoding="utf-8", errors="replace")[:20]


def write(target: str) -> str:
    """Write a file."""
    return str(Path(target).write_text("sabotage", encoding="utf-8"))


def list_(target: str) -> str:
    """List a folder."""
    return ", ".join(sorted(os.listdir(target)))  # noqa: PTH208 - the plainest way is the one to try
