"""How commands answer: a table or a line for people, JSON for programs, and the exit codes of failures."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from host.cli.client import Answer, NoDaemonError, RequestFailedError
from host.errors import BusbarError
from plugin_sdk.errors import PluginError

DONE: Final = 0
FAILED: Final = 1
USED_WRONGLY: Final = 2
NO_DAEMON: Final = 3
WIDE: Final = 10_000
"""Columns of an output that is no terminal."""

P = ParamSpec("P")
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Turn every error that has a sentence into that sentence and its exit code; no traceback."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            function(*args, **kwargs)
        except RequestFailedError as error:
            fail(error.message, error.code, FAILED, as_json=as_json, errors=error.errors)
        except NoDaemonError as error:
            fail(str(error), "no_daemon", NO_DAEMON, as_json=as_json)
        except BusbarError as error:
            fail(error.message, error.word, FAILED, as_json=as_json, errors=error.errors)
        except PluginError as error:
            fail(str(error), error.code, FAILED, as_json=as_json)
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            fail(f"{name}{error.strerror or error}", "file_error", FAILED, as_json=as_json)

    return wrapped


def fail(message: str, code: str, status: int, *, as_json: bool = False, errors: Sequence[str] = ()) -> NoReturn:
    """Say what is wrong on standard error and end with `status`."""
    if as_json:
        print(json.dumps({"success": False, "code": code, "message": message, "errors": list(errors)}))
    else:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[red]{escape(code)}[/red]: {escape(_plain(message))}")
        for line in errors:
            console.print(f"  - {escape(_plain(line))}")
    raise typer.Exit(status)


def show(answer: Answer | Any, *, as_json: bool, text: str = "") -> None:
    """Print an answer: `text` for people, the data for programs."""
    data = answer.data if isinstance(answer, Answer) else answer
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return
    line = text or (answer.message if isinstance(answer, Answer) else "")
    Console(highlight=False, soft_wrap=True).print(escape(_plain(line or _readable(data))))


def aside(line: str) -> None:
    """A line about the answer, which is no part of it: it goes to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(_plain(line))


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Show a terminal that something is under way, for as long as it is; nobody else sees it."""
    console = Console(stderr=True, highlight=False)
    with console.status(escape(_plain(text))) if console.is_terminal else contextlib.nullcontext():
        yield


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str], *, as_json: bool, empty: str) -> None:
    """Print rows as a table of `columns` (field to heading), or as JSON."""
    if as_json:
        print(json.dumps(list(rows), indent=2, ensure_ascii=False))
        return
    # A program that reads the lines wants them whole, as wide as they are.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    if not rows:
        console.print(empty)
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*(escape(_plain(_cell(row.get(field)))) for field in columns))
    console.print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return str(value) if not isinstance(value, dict | list) else json.dumps(value)


def _readable(data: Any) -> str:
    if isinstance(data, dict):
        return "\n".join(f"{name}: {_cell(value)}" for name, value in data.items())
    return _cell(data)


def _plain(text: str) -> str:
    """Text without control characters: names come from third parties and must not drive a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
