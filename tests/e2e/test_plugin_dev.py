"""`busbar plugin dev`, as an author uses it: a project from source, events by standard input, saving, Ctrl-C."""

import json
import os
import pty
import queue
import select
import signal
import subprocess
import threading
import time

import pytest

from tests.e2e.conftest import BUSBAR, ROOT

MODULE = '''"""Greets."""
from plugin_sdk import Plugin, on_event


class Greeter(Plugin):
    @on_event("person.came", first_retry=3600)
    async def greet(self, event, context):
        print("greeting", event.data["name"])
        if event.data["name"] == "nobody":
            raise LookupError("there is nobody")  # the author's line
        await context.emit("greeting.said", data={"text": "hello " + event.data["name"]})
'''
PROJECT = """[project]
name = "greeter"
version = "1.0.0"

[project.entry-points."busbar.plugins"]
greeter = "greeter:Greeter"
"""
MANIFEST = """[plugin]
id = "greeter"
title = "Greeter"

[permissions]
subscribe = ["person.*"]
publish = ["greeting.said"]
"""


class Author:
    """A terminal on which the command runs."""

    def __init__(self, project, *options):
        self.project = project
        self.lines = []
        self._coming = queue.Queue()
        self.process = subprocess.Popen(
            [*BUSBAR, "plugin", "dev", str(project), *options],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._coming.put(line.rstrip("\n"))

    def sees(self, text, seconds=30):
        """Wait for a line with this text, after those that were seen already."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._coming.get(timeout=left)
            except queue.Empty:
                break
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"no '{text}' in:\n" + "\n".join(self.lines[-40:]))

    def types(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def publishes(self, name):
        self.types(json.dumps({"type": "person.came", "data": {"name": name}}))

    def saves(self, text, file="greeter/__init__.py"):
        (self.project / file).write_text(text)

    def stops(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    (folder / "greeter").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "greeter" / "plugin.toml").write_text(MANIFEST)
    (folder / "greeter" / "__init__.py").write_text(MODULE)
    return folder


@pytest.fixture
def dev(project):
    made = []

    def start(*options):
        made.append(Author(project, *options))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait(10)


@pytest.mark.parametrize("options", [(), ("--inline",)], ids=["worker", "inline"])
def test_an_author_sees_the_plugin_work_change_fail_and_mend(dev, options):
    author = dev(*options)
    author.sees("loaded greeter from")
    author.sees("on person.came: greet")
    author.sees("running")

    author.publishes("Ada")
    seen = [author.sees(text) for text in ("greeting.said", "delivered: person.came to greet")]
    assert 'emitted: greeting.said {"text":"hello Ada"}' in seen[0]
    if not options:
        assert any("log info: greeting Ada" in line for line in author.lines)

    author.publishes("nobody")
    author.sees("retried: person.came to greet")
    author.sees("greeter/__init__.py")
    author.sees("# the author's line")
    author.sees("LookupError: there is nobody")

    author.saves(MODULE.replace("hello ", "good evening "))
    author.sees("saved: loading anew")
    author.sees("running")
    author.publishes("Grace")
    assert "good evening Grace" in author.sees("emitted: greeting.said")

    author.saves(MODULE.replace("async def greet(", "async def greet(("))
    author.sees("not loaded: greeter could not be loaded")
    author.sees("SyntaxError")
    author.saves(MODULE.replace("hello ", "welcome "))
    author.sees("running")
    author.publishes("Linus")
    assert "welcome Linus" in author.sees("emitted: greeting.said")

    assert author.stops() == 0
    author.sees("ended")
    assert not any("Traceback" in line for line in author.lines if "greeter" in line)


def test_what_is_wrong_with_the_project_is_said_in_a_sentence_and_mended_by_the_next_save(dev, project):
    author = dev()
    author.sees("running")
    author.saves(MANIFEST.replace("publish", "publsh"), "greeter/plugin.toml")
    assert "unknown key 'permissions.publsh': did you mean 'publish'?" in author.sees("not loaded:")
    author.saves(MANIFEST.replace("person.*", "animal.*"), "greeter/plugin.toml")
    assert "permissions.subscribe does not cover" in author.sees("not loaded:")
    author.saves(MANIFEST, "greeter/plugin.toml")
    author.sees("running")
    author.types("{")
    author.sees("not published: this is no JSON")
    author.types('{"data": 1}')
    assert "'type'" in author.sees("not published:")
    assert author.stops() == 0


def test_an_event_from_a_file_comes_after_every_load(dev, tmp_path):
    (tmp_path / "event.json").write_text('{"type": "person.came", "data": {"name": "Ada"}}')
    author = dev("--event", str(tmp_path / "event.json"))
    assert "hello Ada" in author.sees("emitted: greeting.said")
    author.saves(MODULE.replace("hello ", "welcome "))
    assert "welcome Ada" in author.sees("emitted: greeting.said")
    assert author.stops() == 0


def test_a_breakpoint_stops_at_the_authors_line_and_no_time_limit_runs_out(project, tmp_path):
    """On a terminal, standard input is left to the debugger; the event comes from a file."""
    (tmp_path / "event.json").write_text('{"type": "person.came", "data": {"name": "Ada"}}')
    (project / "greeter" / "plugin.toml").write_text(MANIFEST + '\n[runtime]\ntimeout = "1s"\n')
    (project / "greeter" / "__init__.py").write_text(
        MODULE.replace("        print(", "        breakpoint()\n        print(")
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        event = str(tmp_path / "event.json")
        command = [*BUSBAR, "plugin", "dev", str(project), "--inline", "--event", event]
        os.execv(command[0], command)  # noqa: S606 - the command itself, on a terminal of its own
    seen = ""

    def until(text):
        nonlocal seen
        deadline = time.monotonic() + 30
        while text not in seen:
            assert time.monotonic() < deadline, seen[-2000:]
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 4096).decode(errors="replace")
        seen = seen.partition(text)[2]

    try:
        until("(Pdb)")
        os.write(terminal, b"p event.data['name']\n")
        until("'Ada'")
        time.sleep(1.2)  # longer than the time limit of the manifest
        os.write(terminal, b"c\n")
        until("delivered: person.came to greet")
        os.kill(pid, signal.SIGINT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


def test_a_folder_without_a_project_is_said(tmp_path):
    done = subprocess.Popen(
        [*BUSBAR, "plugin", "dev", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = done.stdout.readline()
    done.send_signal(signal.SIGINT)
    assert done.wait(30) == 0
    assert "pyproject.toml cannot be read" in line
