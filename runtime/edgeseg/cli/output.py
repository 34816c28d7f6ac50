"""What commands print: results on stdout, progress and notes on stderr.

With ``--json`` stdout is exactly one JSON document; with ``--quiet`` only errors (and that
document) remain.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgeseg.errors import one_line

EPILOG = "Also: --json (one JSON document on stdout), --quiet (errors only), --debug (tracebacks)."
PIPE_WIDTH = 160  # columns for tables when stdout is no terminal


def command_app(command: Callable[..., Any]) -> typer.Typer:
    """Return a Typer application with ``command`` as its only command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=EPILOG)(command)
    return app


@dataclass(frozen=True)
class Output:
    """Where a command's words go; passed to commands as ``ctx.obj``."""

    as_json: bool = False
    quiet: bool = False

    def note(self, text: str) -> None:
        """Say something about the work, on stderr."""
        if not self.quiet:
            # Not typer.echo: this stream is the one that a progress bar on screen redirects.
            sys.stderr.write(one_line(text) + "\n")

    def error(self, text: str) -> None:
        """Say what failed, on stderr, also with ``--quiet``; the command goes on to its result."""
        typer.echo(f"edgeseg: error: {one_line(text)}", err=True)

    def result(self, document: dict[str, Any], text: str | Table | Sequence[str | Table]) -> None:
        """Print the command's result: ``document`` with ``--json``, else ``text``."""
        if self.as_json:
            typer.echo(json.dumps(document, indent=2, allow_nan=False))
        elif not self.quiet:
            parts = [text] if isinstance(text, str | Table) else text
            width = None if sys.stdout.isatty() else PIPE_WIDTH
            console = Console(
                highlight=False, markup=False, emoji=False, width=width, soft_wrap=True
            )
            with console.capture() as shown:  # printing itself, rich would exit 1 on a closed pipe
                for part in parts:
                    console.print(part)
            typer.echo(shown.get(), nl=False)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar on stderr while the body runs; the body calls what it is given.

        The argument of each call is the number of steps done since the last one.
        """
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        hidden = self.quiet or not console.is_terminal
        with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> Table:
    """Return a table for ``Output.result``.

    Columns whose name starts with ``>`` are right-aligned; only the last column wraps.
    """
    grid = Table(
        box=None,
        title=one_line(title) or None,
        title_justify="left",
        pad_edge=False,
        show_header=any(columns),
    )
    for i, name in enumerate(columns):
        side: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        grid.add_column(name.removeprefix(">"), justify=side, no_wrap=i < len(columns) - 1)
    for row in rows:
        grid.add_row(*(Text(one_line(str(cell))) for cell in row))
    return grid
