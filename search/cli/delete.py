"""``delete``: a study and its files."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli import options
from search.cli.printing import talk


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("delete")(delete)


def delete(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")],
    *,
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while trials of it run.")] = False,
) -> None:
    """Delete a study with its trials, confirmation, checkpoints and weights; asks first.

    Example: mlc-search delete default
    """
    import optuna

    from search.artifacts import artifacts_folder, remove_all
    from search.confirm import open_confirmation
    from search.drawing import counted
    from search.errors import StudyBusy
    from search.storage import resolve_url
    from search.study import open_study
    from search.views import counts, trial_rows

    url = resolve_url(storage)
    with open_study(study, url) as opened, open_confirmation(opened, url) as repeated:
        both = [opened] if repeated is None else [opened, repeated]
        for one in both:
            one.ledger.recover()
        name, figures = opened.name, counts(trial_rows(opened))
        running = sum(counts(trial_rows(one)).running for one in both)
        if running and not force:
            raise StudyBusy(name, running)
        if not yes:
            too = "" if repeated is None else ", its confirmation"
            typer.confirm(f"Delete study {name!r} ({counted(figures)}){too} and its files?", abort=True, err=True)
        for one in both:
            remove_all(artifacts_folder(artifacts, url), one)
            optuna.delete_study(study_name=one.name, storage=one.optuna._storage)
    talk(f"Study {name!r} is deleted.")
