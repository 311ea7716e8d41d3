"""The `busbar` command itself: its nouns, and `run`.

A noun's module is imported when it is asked for: the daemon starts without the tools of publishers, and a command
that asks a daemon something without the daemon.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from host.cli.output import command

NOUNS: Final = ("plugin", "key", "publisher", "token", "event", "dead-letter", "schedule", "state")


class _Nouns(TyperGroup):
    """The commands of this file, and each noun as the group of its module's `app`."""

    def list_commands(self, ctx: Any) -> list[str]:  # Typer has click inside, under a private name
        return [*super().list_commands(ctx), *NOUNS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in NOUNS:
            return super().get_command(ctx, cmd_name)
        noun = typer.main.get_group(importlib.import_module(f"host.cli.{cmd_name.replace('-', '_')}").app)
        noun.name = cmd_name
        return noun


app = typer.Typer(
    cls=_Nouns,
    help="Run and manage a Busbar plugin host.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
@command
def run(
    config: Annotated[Path | None, typer.Option("--config", help="The settings file, in TOML.")] = None,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    from host.cli.run import main as run_daemon  # noqa: PLC0415 - only this command needs the whole host

    raise typer.Exit(run_daemon(config))


@app.callback()
def nouns() -> None:
    """Keep the nouns: a Typer app with one command would swallow its name."""


def main() -> None:
    """Entry point of the `busbar` script."""
    app()


if __name__ == "__main__":
    main()
