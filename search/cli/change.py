"""``change``: more or fewer trials, or workers, while a search runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.printing import show_json, talk

if TYPE_CHECKING:  # Optuna costs --help a second
    from search.ledger import Budget


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("change")(change)


def change(
    *,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="How many the run is to finish in all.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=options.MOST_WORKERS, help="How many the run is to have.", show_default=False
        ),
    ] = None,
    run: Annotated[
        int | None,
        typer.Option("--run", metavar="NUMBER", help="Which, where several are under way.", show_default=False),
    ] = None,
    study: options.Study = "default",
    storage: options.Storage = None,
    as_json: options.Json = False,
) -> None:
    """Change the trials or workers of a run that is under way, from any terminal or machine that reaches the database.

    Fewer trials than have begun cannot be: then no more are begun. Workers that are one too many put their trial back
    with its checkpoint, as at Ctrl-C, and another goes on with it. Those of mlc-search worker are nobody's to change.

    Example: mlc-search change --trials 80 --workers 3
    """
    if trials is None and workers is None:
        raise typer.BadParameter("Nothing is to change: give --trials, --workers or both.")
    from search.errors import NoRun
    from search.study import open_study

    with open_study(study, storage) as opened:
        opened.ledger.recover()
        there = opened.ledger.budgets()
        chosen = _choose(opened.name, there, run)
        if workers is not None and not chosen.own:
            raise typer.BadParameter(
                "This run has no workers of its own: start or stop mlc-search worker where they are to be."
            )
        if not opened.ledger.resize_budget(chosen.budget_id, trials=trials, workers=workers):
            raise NoRun(opened.name)  # it has ended just now
        progress = opened.ledger.remaining(chosen.budget_id)
    if as_json:
        show_json(
            {
                "study": study,
                "run": chosen.budget_id,
                "asked": progress.asked,
                "finished": progress.finished,
                "workers": workers if workers is not None else chosen.workers,
            }
        )
        return
    if trials is not None and progress.asked != trials:
        talk(f"{progress.asked} trials have begun already: the run ends with them.")
    elif trials is not None:
        talk(f"The run ends after {progress.asked} trials; {progress.finished} have finished.")
    if workers is not None:
        talk(f"The run goes on with {workers} worker{'s' * (workers != 1)}.")


def _choose(study: str, there: list[Budget], number: int | None) -> Budget:
    from search.errors import NoRun

    if not there:
        raise NoRun(study)
    if number is None and len(there) > 1:
        listed = ", ".join(f"{one.budget_id} ({one.asked} trials)" for one in there)
        raise typer.BadParameter(f"Several runs of study {study!r} are under way: {listed}. Choose one with --run.")
    found = next((one for one in there if number in (None, one.budget_id)), None)
    if found is None:
        listed = ", ".join(str(one.budget_id) for one in there)
        raise typer.BadParameter(f"Run {number} of study {study!r} is not under way; there is {listed}.")
    return found
