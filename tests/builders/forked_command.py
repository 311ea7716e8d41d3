"""The `busbar` command, forked from a process that has imported it already: a tenth of a second instead of a whole one.

Apart from the tests, because the forked process imports this module and nothing of theirs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    ["host.cli.main", "host.cli.run", "host.cli.plugin", "host.cli.publish", "host.cli.publisher", "rich.status"]
)
SECONDS = 60


def busbar(
    folder: Path, *arguments: object, environment: Mapping[str, str], stdin: str = os.devnull
) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`; `stdin` is the path of what it reads, a terminal's too."""
    said, wrong = folder / "stdout", folder / "stderr"
    words = [str(one) for one in arguments]
    process = WARM.Process(
        target=_run, args=(words, str(folder), {**os.environ, **environment}, stdin, str(said), str(wrong))
    )
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired(["busbar", *words], SECONDS)
    return subprocess.CompletedProcess(["busbar", *words], process.exitcode, said.read_text(), wrong.read_text())


@contextlib.contextmanager
def on_path(folder: Path, workplace: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """A folder for PATH whose `busbar` is this command, run in `workplace`: for scripts, a command at a time."""
    ask, status = folder / "ask", folder / "status"
    for fifo in (ask, status):
        os.mkfifo(fifo)
    script = folder / "busbar"
    said, wrong = workplace / "stdout", workplace / "stderr"
    # A word of a command has no line break in the guides.
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {ask}\nread -r status < {status}\ncat {said}\ncat {wrong} >&2\n'
        "exit $status\n"
    )
    script.chmod(0o755)

    def serve() -> None:
        while words := ask.read_text().splitlines():
            done = busbar(workplace, *words, environment=environment)
            status.write_text(f"{done.returncode}\n")

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield folder
    finally:
        ask.write_text("")
        serving.join()


def _run(words: list[str], folder: str, environment: dict[str, str], stdin: str, said: str, wrong: str) -> None:
    """In the forked process: what the script `busbar` does."""
    from host.cli.main import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for standard, path, flags in (
        (0, stdin, os.O_RDWR | os.O_NOCTTY),
        (1, said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, wrong, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    sys.argv = ["busbar", *words]
    main()
