"""Attempts on files and folders."""

import os
from pathlib import Path


def read(target: str) -> str:
    """Read a file."""
    return Path(target).read_text(encoding="utf-8", errors="replace")[:20]


def write(target: str) -> str:
    """Write a file."""
    return str(Path(target).write_text("sabotage", encoding="utf-8"))


def link(target: str) -> str:
    """Have a path lead to where the plugin is not let in; a link that is there already is put in its place."""
    beside = f"{target}.sabotage"
    Path(beside).symlink_to("/etc")
    Path(beside).replace(target)
    return target


def pipe(target: str) -> str:
    """Put a pipe there, which keeps whoever opens it waiting."""
    os.mkfifo(target)
    return target


def remove(target: str) -> str:
    """Remove a file."""
    Path(target).unlink()
    return target


def list_(target: str) -> str:
    """List a folder."""
    return ", ".join(sorted(os.listdir(target)))  # noqa: PTH208 - the plainest way is the one to try
