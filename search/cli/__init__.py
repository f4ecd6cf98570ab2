"""The commands: each parses, calls one function of the search, prints. Errors become a sentence and an exit code.

Modules import what they need inside the commands, so that --help and status do not wait for it.
"""

from __future__ import annotations

import sys

import typer

from search.cli import (
    advise,
    change,
    confirm,
    dashboard,
    data,
    delete,
    doctor,
    evaluate,
    export,
    fit,
    labels,
    look,
    paper,
    predict,
    pretrain,
    report,
    run,
    storage_proxy,
)

app = typer.Typer(
    name="mlc-search",
    help="Search, train and compare ResNet classifiers for images that carry several labels each.",
    epilog="Start with: mlc-search run --trials 50",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug keeps its plain traceback; a user's mistake gets none
    rich_markup_mode=None,  # plain help answers in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    run,
    change,
    paper,
    look,
    confirm,
    advise,
    evaluate,
    report,
    export,
    predict,
    data,
    labels,
    pretrain,
    fit,
    dashboard,
    storage_proxy,
    doctor,
    delete,
):
    module.register(app)


@app.callback(invoke_without_command=True)
def version(*, version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Handle what stands before a command."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"mlc-search {installed('mlc-search')}")
        raise typer.Exit


def main() -> None:
    """Run the command line; what a user can mend is said in a sentence, without a traceback."""
    try:
        app()
    except Exception as error:
        from mlc_core import MlcError

        if not isinstance(error, MlcError):
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
