"""What advice is made of: the trials that can be compared, by what value, and the record that a finding is.

Not here: what is found (range_advice.py, stability_advice.py, learnings.py, importance.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from mlc_core import Objective, cost
from search.ranks import spearman
from search.study import Study
from search.views import TrialRow

LEAST: Final = 10  # comparable trials from which on anything is said of a study
GROUP: Final = 5  # trials from which on anything is said of a group of them

Verdict = Literal["change", "found", "open", "too few"]
Figures = Mapping[str, float | int | str | bool | list[int] | None]
Topic = Literal["range", "stability", "learned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The trials that can be compared, each by its best value up to the same epoch.

    A pruned trial's value is that of an early epoch: beside the values of complete ones it would say how long it
    trained. So all are compared at one epoch: the one at which epochs times the square of how many trials came so far
    is most, for twice as many trials tell as much of a difference half as large. Without pruning that is the last.

    Notes
    -----
    Whatever became of a trial afterwards, pruned, paused, running or complete, what it reported counts; one that failed
    is left out. A trial that diverged before counts as the worst value: it was tried, and it was no good. Replays of
    the documented trials are left out: nobody drew them, and they train without what the study fixes besides.
    """

    rows: tuple[TrialRow, ...]
    costs: tuple[float, ...]  # lower is better
    epoch: int
    epochs: int  # full length
    objective: Objective
    diverged: int  # of the rows, before the epoch
    short: int  # left out: not yet, or never, so far
    paper: int  # left out: replays of documented trials
    complete: int  # trials of the study, without replays
    agreement: float | None  # Spearman's of these and the final values, of complete trials; None at full length

    @property
    def enough(self) -> bool:
        """Whether anything can be said."""
        return len(self.rows) >= LEAST

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        table = asdict(self)
        return {"trials": len(self.rows), "enough": self.enough} | {
            key: table[key]
            for key in ("epoch", "epochs", "objective", "diverged", "short", "paper", "complete", "agreement")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A line of a study's file that should be another."""

    table: str  # such as space.scheduler.cosine; empty: the top
    key: str
    text: str  # what stands after "="; empty: leave the key, or for a table of its own all of it, out


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One finding."""

    topic: Topic
    about: str  # parameters
    verdict: Verdict  # change the study's file; told from chance; cannot be told; not enough trials to ask
    said: str  # a sentence
    evidence: str  # the figures behind it, in words; may be empty
    trials: int  # behind it
    figures: Figures  # the same for machines
    claim: str = ""  # what the documented project learned of it
    change: Change | None = None

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return asdict(self)


def finding(
    topic: Topic,
    about: str,
    verdict: Verdict,
    said: str,
    evidence: str,
    rows: Sequence[TrialRow],
    figures: Figures,
    *,
    change: Change | None = None,
) -> Advice:
    """Make a finding that rests on these trials."""
    return Advice(
        topic=topic,
        about=about,
        verdict=verdict,
        said=said,
        evidence=evidence,
        trials=len(rows),
        figures=figures,
        change=change,
    )


def comparable(study: Study, rows: Sequence[TrialRow]) -> Sample:
    """Choose the epoch, and the trials that came so far; see `Sample`."""
    own = [row for row in rows if row.paper is None and row.state != "failed"]
    paper = sum(row.paper is not None for row in rows)
    epochs, objective = study.declaration.epochs, study.declaration.objective
    counts = {epoch: sum(epoch in row.reports for row in own) for epoch in range(1, epochs + 1)}
    enough = {epoch: count for epoch, count in counts.items() if count >= LEAST} or counts
    epoch = max(enough, key=lambda at: (at * enough[at] ** 2, at))
    reached = [row for row in own if epoch in row.reports]
    lost = [row for row in own if diverged(row) and epoch not in row.reports] if reached else []
    costs = [best_cost(row, epoch) for row in reached]
    complete = [row for row in own if row.state == "complete"]
    return Sample(
        rows=(*reached, *lost),
        costs=(*costs, *[max(costs)] * len(lost)) if reached else (),
        epoch=epoch,
        epochs=epochs,
        objective=objective,
        diverged=len(lost),
        short=len(own) - len(reached) - len(lost),
        paper=paper,
        complete=len(complete),
        agreement=None if epoch == epochs else _agreement(complete, epoch, epochs),
    )


def standing(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Put the trials that have ended or pause in one order, best first.

    Complete ones by their value, then the others by how far they came and by their value there, those that diverged
    last. So successive halving and TPE see them: a trial that was stopped was worse than others at an equal epoch, and
    values of different epochs are never compared. Failed and running trials are not among them, nor replays of the
    documented ones: nobody drew those, and they train without what the study fixes.
    """
    seen = [row for row in rows if row.paper is None and row.state in ("complete", "pruned", "paused", "waiting")]
    seen = [row for row in seen if row.reports or diverged(row)]
    return sorted(seen, key=_rank)


def _rank(row: TrialRow) -> tuple[int, int, float, int]:
    if diverged(row):
        return 2, -row.epoch, 0.0, row.number
    if row.state == "complete" and row.value is not None:
        return 0, 0, cost(row.value, row.objective), row.number
    return 1, -row.epoch, cost(row.reports[row.epoch], row.objective), row.number


def best_cost(row: TrialRow, epoch: int) -> float:
    """Return the best value up to the epoch, as one of which the lowest is the best."""
    return min(cost(value, row.objective) for at, value in row.reports.items() if at <= epoch)


def diverged(row: TrialRow) -> bool:
    """Tell whether the trial ended as its loss could not be used."""
    return row.state == "pruned" and bool(row.note) and row.note not in row.failures and row.note != row.over


def val_losses(row: TrialRow) -> list[float]:
    """Return the validation loss of each epoch; empty where the objective is another and the trial has not ended."""
    if row.objective == "bce":
        return list(row.reports.values())
    return list(row.metrics.get("val_loss", []))


def scaled(sample: Sample, costs: Sequence[float]) -> list[float]:
    """Put costs on the scale on which effects add up: a loss, which is above 0, on its logarithm."""
    return [math.log(max(one, 1e-12)) for one in costs] if sample.objective == "bce" else list(costs)


def numbers(rows: Iterable[TrialRow], most: int = 8) -> str:
    """Name trials, the first few of them."""
    named = [str(row.number) for row in rows]
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")


def toml(changes: Iterable[Change]) -> str:
    """Write the lines as they stand in a study's file, each table once."""
    tables: dict[str, list[str]] = {}
    for change in changes:
        line = f"{change.key} = {change.text}" if change.text else f"# leave out {change.key}"
        lines = tables.setdefault(change.table, [])
        if line not in lines:
            lines.append(line)
    return "\n\n".join("\n".join([f"[{name}]", *tables[name]] if name else tables[name]) for name in sorted(tables))


def _agreement(complete: Sequence[TrialRow], epoch: int, epochs: int) -> float | None:
    both = [row for row in complete if epochs in row.reports]
    if len(both) < GROUP:
        return None
    return spearman([best_cost(row, epoch) for row in both], [best_cost(row, epochs) for row in both])
