"""``status``, ``best``, ``trials``, ``show`` and ``studies``: what one reads of a study.

None of them writes, but that trials of workers that fell silent go back to the queue, where whoever looks expects them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.printing import show, show_json, talk

if TYPE_CHECKING:
    from search.views import TrialRow


class State(StrEnum):
    """What --state takes."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    RUNNING = "running"
    PAUSED = "paused"
    WAITING = "waiting"
    FAILED = "failed"


class Sort(StrEnum):
    """What --sort takes."""

    NUMBER = "number"
    VALUE = "value"
    SECONDS = "seconds"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, best, trials, show_trial, studies):
        app.command("show" if command is show_trial else command.__name__)(command)


def status(*, study: options.Study = "default", storage: options.Storage = None, as_json: options.Json = False) -> None:
    """Say where a study stands: trials by state, what runs, what failed and why, the best so far.

    Example: mlc-search status
    """
    from search.drawing import (
        best_line,
        counted,
        failures_table,
        forecast_line,
        front_table,
        over_lines,
        rung_lines,
        trials_table,
    )
    from search.extend import changes
    from search.extrapolation import accuracy
    from search.forecast import forecast
    from search.promotion import rungs
    from search.study import open_study
    from search.views import counts, front, leaderboard, trial_rows

    with open_study(study, storage) as opened:
        opened.ledger.recover()
        name, rows, extended = opened.name, trial_rows(opened), changes(opened)
        trials = opened.optuna.get_trials(deepcopy=False)
        steps = rungs(trials, opened.declaration)
        errors = accuracy(trials, opened.declaration) if steps else {}
    leaders, figures, coming = leaderboard(rows), counts(rows), forecast(rows)
    running = [row for row in rows if row.state == "running"]
    failed = [row for row in rows if row.failures and row.state not in ("complete", "pruned")]
    if as_json:
        best = leaders[0].to_table() if leaders else None
        states = asdict(figures) | {"finished": figures.finished}
        lists = {key: [row.to_table() for row in some] for key, some in (("running", running), ("failed", failed))}
        judged = {"rungs": [step.to_table() for step in steps], "forecast_errors": errors}
        grown = [change.to_table() for change in extended]
        ahead = {"forecast": None if coming is None else coming.to_table()}
        lists["front"] = [row.to_table() for row in front(rows)]
        show_json({"study": name, "trials": states, **lists, "best": best, "changes": grown, **judged, **ahead})
        return
    show(f"Study {name}: {counted(figures)}")
    for line in (*over_lines(rows), *rung_lines(steps, errors)):
        show(line)
    if leaders:
        show(best_line(leaders[0]))
    if leading := front(rows):
        show(front_table(leading, title="The front"))
    if coming is not None:
        show(forecast_line(coming))
    if running:
        show(trials_table(running, title="Running"))
    if failed:
        show(failures_table(failed))
    for change in extended:
        show(f"Extended {change.at:%Y-%m-%d %H:%M} UTC after {change.trials} trials: {'; '.join(change.differences)}")


def best(
    *,
    study: options.Study = "default",
    storage: options.Storage = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the best to list.")] = 10,
    as_json: options.Json = False,
) -> None:
    """Show the best complete trials, of two objectives the front, and the parameters of the first.

    Of two objectives the first is the one with the best loss or score within the limits.

    Example: mlc-search best --top 3
    """
    from search.drawing import best_line, leaders_table, params_table
    from search.views import front, leaderboard

    name, rows, fixed = _read(study, storage)
    leaders = leaderboard(rows)[:top]
    if as_json:
        lists = {"leaderboard": leaders, "front": front(rows)}
        show_json({"study": name, "fixed": fixed, **{key: [row.to_table() for row in lists[key]] for key in lists}})
        return
    if not leaders:
        talk(f"No trial of study {name!r} is complete yet.")
        return
    table = leaders_table(rows, title=f"Best of study {name}", top=top)
    show(table, "", best_line(leaders[0]), params_table(leaders[0], fixed))


def trials(
    *,
    study: options.Study = "default",
    storage: options.Storage = None,
    state: Annotated[
        list[State] | None, typer.Option("--state", help="Only these; may be repeated.", show_default=False)
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Only replays of the documented trials.")] = False,
    sort: Annotated[Sort, typer.Option("--sort", help="By value: best first; else smallest first.")] = Sort.NUMBER,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the trials.

    Example: mlc-search trials --state complete --sort value
    """
    from search.drawing import trials_table

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json: choose one.")
    name, rows, _ = _read(study, storage)
    wanted = {chosen.value for chosen in state or State}
    rows = [row for row in rows if row.state in wanted and (row.paper is not None or not paper)]
    rows.sort(key=lambda row: _place(row, sort))
    if as_json:
        show_json([row.to_table() for row in rows])
    elif as_csv:
        _print_csv(rows)
    else:
        show(trials_table(rows, title=f"Study {name}: {len(rows)} trials"))


def show_trial(
    number: Annotated[int, typer.Argument(min=0, metavar="NUMBER", help="The trial's number.")],
    *,
    study: options.Study = "default",
    storage: options.Storage = None,
    as_json: options.Json = False,
) -> None:
    """Show everything about one trial.

    Example: mlc-search show 12
    """
    from search.drawing import trial_table
    from search.errors import TrialNotFound

    name, rows, _ = _read(study, storage)
    row = next((row for row in rows if row.number == number), None)
    if row is None:
        raise TrialNotFound(name, number, len(rows))
    if as_json:
        show_json(row.to_table())
    else:
        show(trial_table(row))


def studies(*, storage: options.Storage = None, as_json: options.Json = False) -> None:
    """List the studies in the database.

    Example: mlc-search studies
    """
    from search.drawing import studies_table
    from search.storage import close, connect, resolve_url
    from search.study import study_names
    from search.views import counts, leaderboard

    opened = connect(resolve_url(storage), create=False)
    names = study_names(opened)
    close(opened)
    rows = []
    for name in names:
        trials_of = _read(name, storage)[1]
        leaders = leaderboard(trials_of)
        rows.append((name, counts(trials_of), leaders[0].value if leaders else None))
    if as_json:
        show_json([{"study": name, "trials": asdict(figures), "best": best} for name, figures, best in rows])
    else:
        show(studies_table(rows))


def _read(study: str, storage: str | None) -> tuple[str, list[TrialRow], dict[str, str | int | float]]:
    """Read a study's name, trials and fixed parameters."""
    from search.study import open_study
    from search.views import trial_rows

    with open_study(study, storage) as opened:
        opened.ledger.recover()
        return opened.name, trial_rows(opened), dict(opened.declaration.fixed)


def _place(row: TrialRow, sort: Sort) -> tuple[float, int]:
    """Sort key; what has no such figure yet comes last."""
    if sort is Sort.VALUE:
        return row.rank
    figure = row.number if sort is Sort.NUMBER else row.seconds
    return (float("inf") if figure is None else figure, row.number)


def _print_csv(rows: Sequence[TrialRow]) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row.params))
    writer = csv.writer(sys.stdout)
    heads = ("number", "state", "value", "epoch", "epochs", "paper", "seed", "seconds", "started", "note")
    writer.writerow([*heads, *keys])
    for row in rows:
        table = row.to_table()
        writer.writerow([*(table[head] for head in heads), *(row.params.get(key) for key in keys)])
