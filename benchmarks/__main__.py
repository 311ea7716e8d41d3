"""Run benchmarks by name and print a line for each figure."""

from __future__ import annotations

import argparse
import importlib
from typing import Final

NAMES: Final = (
    *("inline-call", "worker-call", "worker-call-grpc", "ingest", "ingest-processes", "append"),
    *("start-100", "memory-100", "noise"),
    *("end-to-end", "fan-out", "match", "backlog", "log-10m"),
)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=(*NAMES, "all"), metavar="NAME", help=", ".join((*NAMES, "all")))
    wanted = parser.parse_args().names
    for name in NAMES if "all" in wanted else wanted:
        module = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
        for figure in module.run():
            print(figure.line(), flush=True)


if __name__ == "__main__":
    main()
