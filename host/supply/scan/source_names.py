"""What the names in a module stand for: imports, aliases, and the roundabout ways to say a name.

`os.system`, `from os import system as s`, `__import__("os").system`, `getattr(os, "sys" + "tem")` and
`vars(os)["system"]` all stand for `os.system`. Runs in a child with the standard library alone.
"""

from __future__ import annotations

import ast
import builtins
import sys
from typing import Final

_PASSES: Final = 4
"""An alias of an alias of an alias: further than this nobody goes who does not hide something anyway."""
_MAX_TEXT: Final = 1000
_BUILTINS: Final = frozenset(dir(builtins))
_NEVER_SHADOWED: Final = frozenset({"exec", "eval", "__import__", "getattr", "globals", "vars", "bytes", "bytearray"})
"""Taken for the built-in wherever they stand, or a parameter of that name somewhere else would hide them."""
_MODULE_DICTS: Final = frozenset({"builtins.globals", "builtins.locals"})


class Names:
    """The names of one module.

    Scopes are not told apart: a name stands for the same in the whole module, and where it could stand for
    several things, for the one in a module that `watched` names.

    Attributes:
        imported: The modules that it imports, each with the line of the first import.
        ambiguous: Names that stand for something watched in one place and for something else in another.
    """

    def __init__(self, tree: ast.Module, watched: frozenset[str]) -> None:
        self.imported: dict[str, int] = {}
        self.ambiguous: dict[str, int] = {}
        self._watched = watched
        self._alias: dict[str, str] = {}
        self._stars: list[str] = []
        self._bound: set[str] = set()
        self._known: dict[ast.expr, str | None] = {}
        assigned: list[tuple[str, ast.expr]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._imports(node)
            else:
                assigned += self._binds(node)
        for _ in range(_PASSES):
            before = len(self._alias)
            self._known.clear()
            for name, value in assigned:
                if name not in self._alias and (meaning := self.meant(value)):
                    self._alias[name] = meaning
            if len(self._alias) == before:
                break
        self._known.clear()

    def meant(self, node: ast.expr) -> str | None:
        """The dotted name that an expression stands for, such as `os.system` or `builtins.eval`; None for others."""
        if node not in self._known:  # else nested subscripts would be looked at again and again
            self._known[node] = self._meant(node)
        return self._known[node]

    def _meant(self, node: ast.expr) -> str | None:
        match node:
            case ast.Name(id=name):
                return self._named(name)
            case ast.Attribute(value=value, attr=attr):
                return self._within(value, "" if attr == "__dict__" else attr)
            case ast.Subscript(value=value, slice=key):
                return self._looked_up(value, key)
            case ast.Call(func=func, args=[what, *_]) if isinstance(func, ast.Name | ast.Attribute):
                return self._made(self.meant(func), node, what)
            case _:
                return None

    def roundabout(self, node: ast.expr) -> bool:
        """Whether an expression says a name in a way that a reader, or a search, would miss."""
        match node:
            case ast.Attribute(value=value):
                return isinstance(value, ast.Call | ast.Subscript) and self.meant(value) is not None
            case ast.Subscript():
                return True
            case ast.Call(args=[_, name, *_]):
                return not isinstance(name, ast.Constant) or (self.meant(node) or "").startswith("builtins.")
            case _:
                return False

    def _imports(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.imported.setdefault(alias.name, node.lineno)
                top = alias.name.partition(".")[0]
                self._calls(alias.asname or top, alias.name if alias.asname else top, node.lineno)
        elif node.module and not node.level:
            self.imported.setdefault(node.module, node.lineno)
            for alias in node.names:
                if alias.name == "*":
                    self._stars.append(node.module)
                else:
                    name = f"{node.module}.{alias.name}"
                    self.imported.setdefault(name, node.lineno)
                    self._calls(alias.asname or alias.name, name, node.lineno)
        else:
            self._bound.update(alias.asname or alias.name for alias in node.names)

    def _calls(self, name: str, meaning: str, line: int) -> None:
        known = self._alias.setdefault(name, meaning)
        if known == meaning:
            return
        watched = [one for one in (known, meaning) if one.partition(".")[0] in self._watched]
        if watched:
            self._alias[name] = watched[0]
            self.ambiguous.setdefault(name, line)

    def _binds(self, node: ast.AST) -> list[tuple[str, ast.expr]]:
        """Note what a node gives a name to; the names that get a value here, with the value."""
        match node:
            case ast.Assign(value=value):
                return [(target.id, value) for target in node.targets if isinstance(target, ast.Name)]
            case (
                ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                return [(name, value)]
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.arg(arg=name)
            ):
                self._bound.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                self._bound.add(name)
            case _:
                pass
        return []

    def _named(self, name: str) -> str | None:
        if name in _NEVER_SHADOWED:
            return f"builtins.{name}"
        if name in self._alias:
            return _plain(self._alias[name])
        if name == "__builtins__":
            return "builtins"
        if name in _BUILTINS:
            return None if name in self._bound else f"builtins.{name}"
        if self._stars and name not in self._bound:
            return f"{self._stars[-1]}.{name}"
        return None

    def _within(self, value: ast.expr, attr: str) -> str | None:
        base = self.meant(value)
        if base is None:
            return None
        return _plain(f"{base}.{attr}" if attr else base)

    def _looked_up(self, value: ast.expr, key: ast.expr) -> str | None:
        name = text_of(key)
        if name is None:
            return None
        if isinstance(value, ast.Call):
            called = self.meant(value.func)
            if called in _MODULE_DICTS:
                return self._named(name)
            if called == "builtins.vars" and value.args:
                return self._within(value.args[0], name)
        if self.meant(value) == "sys.modules":
            return name
        if isinstance(value, ast.Attribute) and value.attr == "__dict__":
            return self._within(value.value, name)
        return f"builtins.{name}" if self.meant(value) == "builtins" else None

    def _made(self, called: str | None, node: ast.Call, what: ast.expr) -> str | None:
        if called in {"builtins.__import__", "importlib.import_module", "importlib.__import__"}:
            module = text_of(what)
            if module is not None and called == "builtins.__import__" and len(node.args) == 1:
                return module.partition(".")[0]
            return module
        if called == "builtins.getattr" and len(node.args) > 1:
            name = text_of(node.args[1])
            return self._within(what, name) if name else None
        return None


def text_of(node: ast.expr) -> str | None:
    """The text of an expression that is made of constants, such as `"ev" + "al"`; None for others."""
    match node:
        case ast.Constant(value=str(text)):
            return text[:_MAX_TEXT]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = text_of(left), text_of(right)
            return None if first is None or second is None else (first + second)[:_MAX_TEXT]
        case ast.JoinedStr(values=values):
            return _joined([text_of(value) for value in values])
        case ast.FormattedValue(value=value, format_spec=None):
            return text_of(value)
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(glue)), attr="join"),
            args=[ast.List() | ast.Tuple() as parts],
        ):
            return _joined([text_of(part) for part in parts.elts], glue)
        case ast.Call(func=ast.Name(id="chr"), args=[ast.Constant(value=int(code))]) if 0 <= code <= sys.maxunicode:
            return chr(code)
        case ast.Subscript(
            value=value,
            slice=ast.Slice(lower=None, upper=None, step=ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1))),
        ):
            backwards = text_of(value)
            return None if backwards is None else backwards[::-1]
        case _:
            return None


def _joined(parts: list[str | None], glue: str = "") -> str | None:
    known = [part for part in parts if part is not None]
    return glue.join(known)[:_MAX_TEXT] if len(known) == len(parts) else None


def _plain(name: str) -> str:
    return "builtins." + name.removeprefix("__builtins__.") if name.startswith("__builtins__.") else name
