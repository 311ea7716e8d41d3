"""The `busbar` command itself: its nouns, and `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from host.cli import dead_letter, event, key, plugin, publisher, schedule, token
from host.cli.output import command

app = typer.Typer(
    help="Run and manage a Busbar plugin host.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(plugin.app, name="plugin")
app.add_typer(key.app, name="key")
app.add_typer(publisher.app, name="publisher")
app.add_typer(token.app, name="token")
app.add_typer(event.app, name="event")
app.add_typer(dead_letter.app, name="dead-letter")
app.add_typer(schedule.app, name="schedule")


@app.command()
@command
def run(
    config: Annotated[Path | None, typer.Option("--config", help="The settings file, in TOML.")] = None,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    from host.daemon import main as run_daemon  # noqa: PLC0415 - only this command needs the whole host

    raise typer.Exit(run_daemon(config))


@app.callback()
def nouns() -> None:
    """Keep the nouns: a Typer app with one command would swallow its name."""


def main() -> None:
    """Entry point of the `busbar` script."""
    app()


if __name__ == "__main__":
    main()
