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
    """Delete a study with its trials, checkpoints and weights; asks first.

    Example: mlc-search delete default
    """
    import optuna

    from search.artifacts import artifacts_folder, remove_all
    from search.drawing import counted
    from search.errors import StudyBusy
    from search.storage import resolve_url
    from search.study import open_study
    from search.views import counts, trial_rows

    url = resolve_url(storage)
    with open_study(study, url) as opened:
        name, figures = opened.name, counts(trial_rows(opened))
        if figures.running and not force:
            raise StudyBusy(name, figures.running)
        if not yes:
            typer.confirm(f"Delete study {name!r} ({counted(figures)}) and its files?", abort=True, err=True)
        remove_all(artifacts_folder(artifacts, url), opened)
        optuna.delete_study(study_name=name, storage=opened.optuna._storage)
    talk(f"Study {name!r} is deleted.")
