"""A hundred odd values, and what is made of an OpenAPI document to put them in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "\0",
    "a\0b",
    "\n",
    "\r\nX-Injected: 1",
    "\x1b[2J",
    "\x7f",
    "\u0085",
    "\u2028",
    "\u202egnp.exe",
    "\ufeff",
    "\uffff",
    "\ufdd0",
    "\U0010ffff",
    "é",
    "e\u0301",
    "Ａ",  # noqa: RUF001 - a full-width letter is the case
    "١",  # noqa: RUF001 - and an Arabic digit
    "²",
    "a" * 65,
    "a" * 201,
    "a" * 2001,
    "ß" * 600,
    ".",
    "..",
    "../../etc/passwd",
    "/",
    "//x",
    "\\",
    "%",
    "%00",
    "%2e%2e",
    "%zz",
    "'",
    '"',
    "' OR 1=1 --",
    "{}",
    "[]",
    "{id}",
    "*",
    "**",
    "a*" * 200,
    "?",
    "#",
    "&x=1",
    "null",
    "true",
    "NaN",
    "Infinity",
    "-1",
    "0",
    "1",
    "1e400",
    "9" * 19,
    "9" * 30,
    "9" * 5000,
    "0x10",
    "1.5",
    "1_000",
    "2026-11-20T10:00:00Z",
    "2026-11-20T10:00:00",
    "2026-W47-5T10:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "2016-12-31T23:59:60Z",
    "busbar.x",
    "bbt_x",
    "__proto__",
    "${jndi:ldap://x}",
    "a" * 64 + "-",
    "f" * 64,
)
"""Texts for paths, queries, headers and fields."""

_RAW: tuple[bytes, ...] = (
    b"null",
    b"true",
    b"false",
    b"0",
    b"-0",
    b"1",
    b"-1",
    b"0.1",
    b"2147483648",
    b"9223372036854775808",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"9" * 400,
    b"9" * 4300,
    b"9" * 5000,
    b"1e308",
    b"1e400",
    b"-1e400",
    b"NaN",
    b"-Infinity",
    b"[]",
    b"[[]]",
    b"[null]",
    b'[""]',
    b'["x", 1]',
    b'["x", "x"]',
    b"[" + b'"x",' * 3000 + b'"x"]',
    b"{}",
    b'{"a": 1}',
    b'{"a": 1, "a": 2}',
    b'{"": null}',
    b'[{"a": {}}]',
    b'"\\ud800"',
    b'"a\\udc00b"',
    b'{"\\ud800": 1}',
    b'["\\ud83d"]',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b"[" * 66 + b"]" * 66,
    b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 100 + b"1" + b"}" * 100,
)
VALUES: tuple[bytes, ...] = (*(json.dumps(text).encode() for text in TEXTS), *_RAW)
"""JSON texts for fields and bodies; some are no JSON to a strict reader."""

BODIES: tuple[tuple[str, bytes], ...] = (
    ("application/json", b""),
    ("application/json", b"{"),
    ("application/json", b"\xef\xbb\xbf{}"),
    ("application/json", "{}".encode("utf-16")),
    ("application/json; charset=latin-1", b'{"name": "\xe9"}'),
    ("application/json", b"{}" * 2),
    ("application/json", b" " * (2**20 + 1)),
    ("application/json;", b"{}"),
    ("application/jsonx", b"{}"),
    ("text/plain", b"x"),
    ("", b"x"),
    ("/", b"x"),
    ("application/x-www-form-urlencoded", b"name=x"),
    ("multipart/form-data", b"x"),
    ("multipart/form-data; boundary=", b"x"),
    ("multipart/form-data; boundary=" + "b" * 80, b"x"),
    ("multipart/form-data; boundary=b", b""),
    ("multipart/form-data; boundary=b", b"--b\r\n"),
    ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="wh\0eel"\r\n\r\nx\r\n--b--'),
    ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n--b--'),
    ("multipart/form-data; boundary=b", b"--b\r\n\0: x\r\n\r\nx\r\n--b--"),
    ("multipart/form-data; boundary=b", b"--b\r\nContent-Length: -1\r\n\r\nx\r\n--b--"),
    ("multipart/form-data; boundary=b", b"--b\r\nContent-Length: 99\r\n\r\nx\r\n--b--"),
    ("multipart/form-data; boundary=b", b"--b\r\n" + b"x: y\r\n" * 500 + b"\r\nx\r\n--b--"),
    ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n?\r\n--b--'),
    (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="wheel"; filename="a\0b"\r\n\r\nx\r\n--b--',
    ),
    (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="wheel"; filename="a-1-py3-none-any.whl"\r\n\r\nx\r\n--b--',
    ),
    (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="wheel"\r\nContent-Transfer-Encoding: base64\r\n\r\n?\r\n--b--',
    ),
    (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="wheel"; filename="x"\r\nContent-Encoding: odd\r\n\r\nx\r\n--b--',
    ),
    ("multipart/form-data; boundary=b", b"--b\r\nContent-Type: multipart/mixed\r\n\r\nx\r\n--b--"),
    ("multipart/form-data; boundary=b", b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b--"),
)
"""Whole bodies with their content types."""


class Operation:
    """One operation of an OpenAPI document.

    Args:
        document: The document.
        path: Its path, with parts in braces.
        method: In capitals.
        known: A value for each name of a part, parameter or field that must be right for the others to be looked at.
    """

    def __init__(self, document: dict[str, Any], path: str, method: str, known: dict[str, Any]) -> None:
        self._document = document
        self._known = known
        self.path = path
        self.method = method
        self.described: dict[str, Any] = document["paths"][path][method.lower()]
        self.id: str = self.described["operationId"]
        parameters = self.described.get("parameters", [])
        self.parts: list[str] = [one["name"] for one in parameters if one["in"] == "path"]
        self.query: list[str] = [one["name"] for one in parameters if one["in"] == "query"]

    @property
    def statuses(self) -> set[str]:
        """The statuses that are documented by number."""
        return set(self.described["responses"]) - {"default"}

    def target(self, parts: dict[str, str] | None = None, query: str = "") -> str:
        """The request's target; what is not given among its parts is as known."""
        chosen = {part: quote(str(self._known.get(part, "x")), safe="/") for part in self.parts} | (parts or {})
        return re.sub(r"\{(\w+)\}", lambda found: chosen[found[1]], self.path) + (f"?{query}" if query else "")

    def body(self) -> dict[str, Any] | None:
        """A body of JSON that is as it should be; None where the operation takes none."""
        content = self.described.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        return None if schema is None else self._example(schema)

    def fields(self) -> Iterator[str]:
        """The names of the body's fields."""
        content = self.described.get("requestBody", {}).get("content", {})
        yield from self._resolved(content.get("application/json", {}).get("schema", {})).get("properties", {})

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            found: dict[str, Any] = self._document
            for name in schema["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            return found
        return schema

    def _example(self, schema: dict[str, Any], name: str = "") -> Any:
        schema = self._resolved(schema)
        if name in self._known:
            return self._known[name]
        if "anyOf" in schema:
            return self._example(schema["anyOf"][0])
        if "enum" in schema or "const" in schema:
            return schema.get("const", schema.get("enum", [None])[0])
        match schema.get("type"):
            case "object":
                properties = schema.get("properties", {})
                return {one: self._example(properties[one], one) for one in schema.get("required", [])}
            case "array":
                return [self._example(schema["items"])] * schema.get("minItems", 0)
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return False
            case _:
                return "x"


def with_field(body: dict[str, Any], field: str, value: bytes) -> bytes:
    """A body with a raw JSON text in one field."""
    marker = "\u0001odd\u0001"
    return json.dumps({**body, field: marker}).encode().replace(json.dumps(marker).encode(), value)
