"""``doctor``: whether a search can run here."""

from __future__ import annotations

import typer

from search.cli import options
from search.cli.printing import show, show_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    *,
    study: options.Study = "default",
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    corrections: options.Corrections = None,
    as_json: options.Json = False,
) -> None:
    """Check database, artifact store, data, workers, versions, disk and device, before a night is lost to one of them.

    Exit code 1 where something has to be mended. Trials of workers that fell silent go back to the queue.

    Example: mlc-search doctor --study mine
    """
    from search.doctor import Level, examine
    from search.drawing import findings_table

    source = options.source(data, format, skip_bad=skip_bad, corrections=corrections)
    findings = examine(study, storage, artifacts, source)
    if as_json:
        show_json([finding.to_table() for finding in findings])
    else:
        show(findings_table(findings))
    if any(finding.level is Level.FAILED for finding in findings):
        raise typer.Exit(1)
