"""Results to standard output, as JSON or drawn; talk to standard error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:  # rich costs a tenth of a second
    from rich.console import Console, RenderableType

_WIDTH_OF_A_PIPE = 200  # columns; a table in a file is not cut at 80


def show(*results: RenderableType) -> None:
    """Draw on standard output."""
    console = _console()
    for result in results:
        console.print(result)


def show_json(result: object) -> None:
    """Print as JSON, in which neither NaN nor infinity can occur."""
    typer.echo(json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False))


def talk(text: str) -> None:
    """Say something that is not a result."""
    typer.echo(text, err=True)


def error_console() -> Console:
    """Open standard error, for what moves."""
    from rich.console import Console

    return Console(stderr=True)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _WIDTH_OF_A_PIPE))
