"""``report``: what a search came to, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli import options
from search.cli.evaluate import GoalOption, opened, parsed
from search.cli.printing import talk


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The HTML file to write.")] = Path("report.html"),
    goal: GoalOption = "f1",
    study: options.Study = "default",
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
) -> None:
    """Write one HTML file that needs no network: data, study, documented trials, model, thresholds, ensemble.

    Example: mlc-search report --out report.html
    """
    if not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"--out {out}: there is no folder {out.absolute().parent}.")
    with opened(study, storage, artifacts, data, format, skip_bad=skip_bad) as (own, repeated, root, dataset):
        from search.chosen import choose
        from search.confirm import verdicts
        from search.report import commands_of, sections
        from search.report_page import write_page

        wanted = parsed(goal)
        best = choose(own, repeated, root, dataset, which="best", goal=wanted)
        ensemble = choose(own, repeated, root, dataset, which="ensemble", goal=wanted)
        told = verdicts(own, repeated) if repeated is not None else []
        about = () if data is None else ("--data", data)
        parts = sections(own, dataset, best, ensemble, told, commands_of(own, *about))
        try:
            write_page(out, f"mlc-search: study {own.name}", parts)
        except OSError as error:
            raise typer.BadParameter(f"--out {out} cannot be written: {error.strerror}.") from None
    talk(f"The report is {out}.")
