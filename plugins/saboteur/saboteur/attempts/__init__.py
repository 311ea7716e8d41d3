"""What a sandbox is there to refuse: each public function of a file here tries one thing, and answers what it got."""

from collections.abc import Callable
from types import ModuleType

from saboteur.attempts import answers, files, network, processes

KINDS: tuple[ModuleType, ...] = (files, processes, network, answers)

ATTEMPTS: dict[str, Callable[[str], str]] = {
    name.rstrip("_"): function
    for kind in KINDS
    for name, function in vars(kind).items()
    if not name.startswith("_") and getattr(function, "__module__", "") == kind.__name__
}
