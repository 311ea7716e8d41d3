"""Frames as the host makes them, small and by hand."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from host.storage.log_writer.frames import VERSION, Frame, Letter, Operation, Retried, Settled, answers_of, encode
from host.storage.log_writer.settling import Attempt, CursorWanted


def row(id_: Any, *, source: str = "/tests", subject: Any = None, **data: Any) -> list[Any]:
    body = json.dumps({"id": str(id_), "source": source, "type": "a.b", **data}).encode()
    return [source, id_ if isinstance(id_, bytes) else str(id_), "a.b", subject, body]


def frame(number: int, *rows: list[Any], settled: Any = (), operations: Any = ()) -> Frame:
    return Frame(VERSION, number, number, [value for one in rows for value in one], list(settled), list(operations))


def line(sequence: int, outcome: str = "delivered") -> list[Any]:
    return ["p", "p/s", sequence, f"e{sequence}", 1, outcome, 1.0, 0.5, ""]


def settled(*lines: list[Any], cursors: Any = None, ahead: Any = None, **more: Any) -> Settled:
    return Settled([value for one in lines for value in one], cursors or {}, ahead or {}, **more)


def retried(sequence: int, attempt: int = 1) -> Retried:
    return Retried("p/s", sequence, attempt, 5.0, "boom", json.dumps({"attempt": attempt}))


def letter(sequence: int, *, noted: bool = False) -> Letter:
    entry = json.dumps({"attempt": 9})
    return Letter("p", "p/s", "p/s", sequence, f"e{sequence}", "a.b", b"{}", "why", "", 9, 1.0, entry, noted)


def operation(name: str, arguments: Any, *rows: list[Any]) -> Operation:
    return Operation(name, msgspec.Raw(encode(arguments)), [value for one in rows for value in one])


def cursor(subscription: str = "p/s", start: int = 0) -> Operation:
    return operation("cursor", CursorWanted(subscription, start, holds=True))


def begin(*sequences: int) -> Operation:
    return operation("begin", [Attempt("p/s", sequence, 1, 5.0, "begun") for sequence in sequences])


def write(core: Any, *frames: Frame) -> list[Any]:
    return answers_of(core.write(frames))


TABLES = ("events", "cursors", "settled_ahead", "retries", "deliveries", "dead_letters", "log_shares", "firings")


def content(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All that the core has written."""
    return {
        table: sorted((tuple(one) for one in connection.execute(f"SELECT * FROM {table}")), key=repr)
        for table in TABLES
    }
