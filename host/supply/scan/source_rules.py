"""What a module's syntax tree tells: hidden code, dynamic code, processes, what happens at import, what it needs.

A rule is `high` only where code is hidden from its reader; what honest plugins do now and then is at most
`medium`. Runs in a child with the standard library alone.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from typing import Final

from host.supply.scan.source_names import Names, text_of
from host.supply.scan.source_text import Note

MAX_DEPTH: Final = 300
"""Levels of a syntax tree; far more than people write, far fewer than break a visitor."""

_RUNNERS: Final = frozenset({"builtins.exec", "builtins.eval", "builtins.compile"})
_HIDDEN: Final = _RUNNERS | {"builtins.__import__"}
# The longest prefix decides; a trailing dot stands for everything inside.
_RULES: Final[dict[str, tuple[str, str, str]]] = {
    "builtins.exec": ("dynamic-code", "medium", "runs code that is made at run time (exec)"),
    "builtins.eval": ("dynamic-code", "medium", "runs code that is made at run time (eval)"),
    "builtins.compile": ("dynamic-code", "medium", "compiles code at run time"),
    "code.": ("dynamic-code", "medium", "runs code that is made at run time"),
    "marshal.load": ("marshalled-code", "high", "loads marshalled objects, which may be bytecode that nobody can read"),
    "marshal.loads": (
        "marshalled-code",
        "high",
        "loads marshalled objects, which may be bytecode that nobody can read",
    ),
    "builtins.__import__": ("dynamic-import", "medium", "imports a module by a name that is made at run time"),
    "importlib.import_module": ("dynamic-import", "medium", "imports a module by a name that is made at run time"),
    "importlib.__import__": ("dynamic-import", "medium", "imports a module by a name that is made at run time"),
    "importlib.util.spec_from_file_location": ("dynamic-import", "medium", "imports a file by its path"),
    "importlib.util.spec_from_loader": ("dynamic-import", "medium", "imports with a loader of its own"),
    "importlib.machinery.": ("dynamic-import", "medium", "imports with a loader of its own"),
    "importlib.machinery.ModuleSpec": ("interpreter", "low", "describes a module to import"),
    "imp.": ("dynamic-import", "medium", "imports a file by its path"),
    "runpy.": ("dynamic-import", "medium", "runs a module or a file by its name"),
    "zipimport.": ("dynamic-import", "medium", "imports from an archive, into which no scan looks"),
    "subprocess.": ("starts-process", "medium", "starts processes"),
    "os.system": ("starts-process", "medium", "starts a shell"),
    "os.popen": ("starts-process", "medium", "starts a shell"),
    "os.exec": ("starts-process", "medium", "becomes another program"),
    "os.spawn": ("starts-process", "medium", "starts processes"),
    "os.posix_spawn": ("starts-process", "medium", "starts processes"),
    "os.fork": ("starts-process", "medium", "starts processes"),
    "os.startfile": ("starts-process", "medium", "starts processes"),
    "posix.": ("starts-process", "medium", "reaches the system below the os module"),
    "_posixsubprocess.": ("starts-process", "medium", "starts processes"),
    "pty.": ("starts-process", "medium", "starts processes"),
    "multiprocessing.": ("starts-process", "medium", "starts processes"),
    "concurrent.futures.ProcessPoolExecutor": ("starts-process", "medium", "starts processes"),
    "asyncio.create_subprocess_": ("starts-process", "medium", "starts processes"),
    "asyncio.subprocess.create_subprocess_": ("starts-process", "medium", "starts processes"),
    "pickle.load": ("pickle", "low", "loads pickles, which run code"),
    "pickle.Unpickler": ("pickle", "low", "loads pickles, which run code"),
    "shelve.open": ("pickle", "low", "loads pickles, which run code"),
    "codecs.register": ("interpreter", "medium", "adds an encoding, in which source could be written"),
    "codecs.register_error": ("interpreter", "low", "adds a handler of encoding errors"),
    "sys.meta_path": ("interpreter", "low", "changes how modules are imported"),
    "sys.path_hooks": ("interpreter", "low", "changes how modules are imported"),
    "sys.settrace": ("interpreter", "low", "watches every line that runs"),
    "sys.setprofile": ("interpreter", "low", "watches every call"),
    "sys.addaudithook": ("interpreter", "low", "watches what the interpreter does"),
    "gc.get_objects": ("interpreter", "low", "looks at objects that it was not given"),
    "gc.get_referrers": ("interpreter", "low", "looks at objects that it was not given"),
}
_WATCHED: Final = frozenset(prefix.partition(".")[0] for prefix in _RULES)
_NATIVE: Final = frozenset({"ctypes", "_ctypes", "cffi", "_cffi_backend"})
_NETWORK: Final = (
    *("socket", "_socket", "socketserver", "ssl", "http.client", "http.server", "urllib.request", "ftplib", "smtplib"),
    *("poplib", "imaplib", "nntplib", "telnetlib", "xmlrpc", "requests", "httpx", "aiohttp", "urllib3", "websockets"),
    *("websocket", "paramiko", "pycurl", "grpc", "boto3", "botocore", "dns", "asyncssh", "httplib2"),
)
_NETWORK_CALLS: Final = ("asyncio.open_connection", "asyncio.start_server", "asyncio.open_unix_connection")
_FILES: Final = (
    "shutil.",
    "tempfile.",
    "os.remove",
    "os.unlink",
    "os.rename",
    "os.mkdir",
    "os.makedirs",
    "builtins.open",
)
_DECODERS: Final = (
    *("base64.", "binascii.", "zlib.decompress", "gzip.", "bz2.", "lzma.", "codecs.decode", "codecs.get", "marshal."),
)
_FETCHERS: Final = ("urllib.request.", "requests.", "httpx.", "urllib3.", "http.client.", "socket.")
_BYTE_MAKERS: Final = frozenset({"builtins.bytes", "builtins.bytearray"})
_FLOWS: Final = 5


class TooDeepError(Exception):
    """A tree with more levels than are looked at."""


def notes(tree: ast.Module, *, network: bool, inline: bool) -> Iterator[Note]:
    """What the rules find in one module; `network` and `inline` are what the manifest says of the plugin.

    Raises:
        TooDeepError: the tree has more than `MAX_DEPTH` levels.
    """
    _check_depth(tree)
    names = Names(tree, _WATCHED)
    visitor = _Visitor(names, _Decoded(names, tree))
    visitor.visit(tree)
    yield from dict.fromkeys(visitor.found)
    yield from _imports(names, visitor, network=network, inline=inline)


def _check_depth(tree: ast.Module) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise TooDeepError


def _imports(names: Names, visitor: _Visitor, *, network: bool, inline: bool) -> Iterator[Note]:
    imported = {**visitor.imported, **names.imported}
    native = {top: line for module, line in imported.items() if (top := module.partition(".")[0]) in _NATIVE}
    for module, line in native.items():
        yield ("native-code", "medium", line, f"calls native code through {module}")
    for name, line in names.ambiguous.items():
        yield ("ambiguous-name", "medium", line, f"the name {name} stands for more than one thing in this module")
    if network:
        return
    used = dict(visitor.network)
    for module, line in imported.items():
        reaches = _inside(module, _NETWORK)
        if reaches is not None:
            used[reaches] = line
    for name, line in used.items():
        if inline:
            yield ("undeclared-network", "medium", line, f"uses {name}, and plugin.toml asks for no network")
        else:
            yield (
                "undeclared-network",
                "low",  # a worker without the permission has no way out anyway
                line,
                f"uses {name}, and plugin.toml asks for no network: the sandbox will stop it",
            )


def _inside(name: str, modules: tuple[str, ...]) -> str | None:
    return next((module for module in modules if name == module or name.startswith(module + ".")), None)


class _Decoded:
    """Which expressions of a module come out of a decoder or from the network, followed through its names."""

    def __init__(self, names: Names, tree: ast.Module) -> None:
        self._names = names
        self._tree = tree
        self._followed = False
        self._tainted: set[str] = set()

    def holds(self, node: ast.expr) -> bool:
        """Whether a part of the expression does."""
        if not self._followed:  # few modules ever ask
            self._followed = True
            self._follow()
        return any(self._is(found) for found in ast.walk(node))

    def _follow(self) -> None:
        flows = list(_flows(self._tree))
        for _ in range(_FLOWS):
            before = len(self._tainted)
            for target, value in flows:
                if target not in self._tainted and self.holds(value):
                    self._tainted.add(target)
            if len(self._tainted) == before:
                break

    def _is(self, node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in self._tainted:
                return True
            case ast.Call(func=func):
                called = self._names.meant(func) or ""
                if called in _BYTE_MAKERS:
                    return bool(node.args) and not isinstance(node.args[0], ast.Constant | ast.Name)
                if called.startswith((*_DECODERS, *_FETCHERS)) or called.endswith(".fromhex"):
                    return True
                return isinstance(func, ast.Attribute) and func.attr == "join" and _has_chr(node)
            case ast.Subscript(slice=ast.Slice(step=ast.UnaryOp(op=ast.USub()))):
                return text_of(node) is not None  # a text that is written backwards
            case _:
                return False


def _has_chr(node: ast.AST) -> bool:
    return any(isinstance(found, ast.Name) and found.id == "chr" for found in ast.walk(node))


def _flows(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Each name that gets a value, and the value; of functions what they return, of parameters what is handed in."""
    parameters: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                yield from ((name, value) for target in targets for name in _targets(target))
            case (
                ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.AugAssign(target=target, value=value)
                | ast.NamedExpr(target=target, value=value)
                | ast.For(target=target, iter=value)
                | ast.comprehension(target=target, iter=value)
                | ast.withitem(context_expr=value, optional_vars=ast.expr() as target)
            ):
                yield from ((name, value) for name in _targets(target))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                parameters[name] = [argument.arg for argument in node.args.args]
                yield from ((name, value) for value in _returned(node))
            case _:
                pass
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from zip(parameters.get(node.func.id, ()), node.args, strict=False)


def _returned(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    for statement in function.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Return) and node.value is not None:
                yield node.value


def _targets(target: ast.expr) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


class _Visitor(ast.NodeVisitor):
    """Walks a module once.

    Attributes:
        found: What the rules say.
        network: What reaches the network, and where first.
        imported: What is imported by a name in a string, and where first.
    """

    def __init__(self, names: Names, decoded: _Decoded) -> None:
        self.found: list[Note] = []
        self.network: dict[str, int] = {}
        self.imported: dict[str, int] = {}
        self._names = names
        self._decoded = decoded
        self._inside_function = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self._inside_function += 1
        self.visit(node.body)
        self._inside_function -= 1

    def visit_If(self, node: ast.If) -> None:
        main = (
            isinstance(node.test, ast.Compare)
            and isinstance(node.test.left, ast.Name)
            and node.test.left.id == "__name__"
        )
        self._inside_function += main  # it is not run by an import
        for part in (node.test, *node.body):
            self.visit(part)
        self._inside_function -= main
        for part in node.orelse:
            self.visit(part)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._refers(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self._refers(node):
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not self._refers(node):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = self._names.meant(node.func) or ""
        if not self._inside_function:
            self._at_import(called, node)
        runs = called in _RUNNERS or any(self._names.meant(argument) in _RUNNERS for argument in node.args)
        if runs and any(self._decoded.holds(argument) for argument in node.args):
            self._note(node, "decoded-code", "high", "runs code that was decoded, put together or fetched")
        elif called == "types.CodeType":
            self._note(node, "marshalled-code", "high", "builds a code object out of bytes")
        elif called.endswith(("__import__", ".import_module")) and node.args and self._imports(node):
            self._visit_arguments(node)
            return
        if not self._refers(node):
            self.generic_visit(node)
        else:
            self._visit_arguments(node)

    def _visit_arguments(self, node: ast.Call) -> None:
        for part in (*node.args, *node.keywords):
            self.visit(part)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # Decorators and defaults are evaluated where the function is defined.
        for part in (*node.decorator_list, node.args):
            self.visit(part)
        self._inside_function += 1
        for statement in node.body:
            self.visit(statement)
        self._inside_function -= 1

    def _imports(self, node: ast.Call) -> bool:
        """Whether a call imports a module whose name is plain to see; then it counts as an import."""
        name = node.args[0]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            return False
        self.imported.setdefault(name.value, node.lineno)
        self._note(node, "named-import", "low", f"imports {name.value} by its name at run time")
        return True

    def _refers(self, node: ast.expr) -> bool:
        """Note what an expression stands for; whether there was a rule for it."""
        meant = self._names.meant(node)
        if meant is None:
            return False
        if meant.startswith(_NETWORK_CALLS) or _inside(meant, _NETWORK):
            self.network.setdefault(_inside(meant, _NETWORK) or meant, node.lineno)
        rule = _rule(meant)
        if rule is None:
            return False
        if (meant in _HIDDEN or rule[1] != "low") and self._names.roundabout(node):
            self._note(node, "hidden-name", "high", f"says {meant} in a way that hides it")
        self._note(node, *rule)
        return True

    def _at_import(self, called: str, node: ast.Call) -> None:
        rule = _rule(called)
        process = rule is not None and rule[0] == "starts-process"
        if process or _inside(called, _NETWORK) or called.startswith(_NETWORK_CALLS):
            self._note(node, "import-side-effect", "medium", f"calls {called} while it is imported")
        elif called.startswith(_FILES):
            self._note(node, "import-side-effect", "low", f"calls {called} while it is imported")

    def _note(self, node: ast.expr, rule: str, severity: str, message: str) -> None:
        self.found.append((rule, severity, node.lineno, message))


@functools.lru_cache(4096)
def _rule(name: str) -> tuple[str, str, str] | None:
    """The rule for a name: its own, or that of the longest beginning."""
    found = [prefix for prefix in _RULES if name == prefix or (name.startswith(prefix) and _open(prefix))]
    return _RULES[max(found, key=len)] if found else None


def _open(prefix: str) -> bool:
    """Whether a rule's name stands for all that begins with it: a module, or a family such as os.exec*."""
    return prefix.endswith((".", "_")) or prefix in {"os.exec", "os.spawn", "os.posix_spawn", "os.fork", "pickle.load"}
