"""Read-only rows of a study, for people and for machines; nothing here writes.

Not here: how they are drawn (progress.py, cli).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState

from mlc_core import Footprint, Measure, Objective, Value, cost
from search.footprints import OVER, footprint_of, over
from search.ledger import FAILURE
from search.paper import PaperTrial, paper_trials
from search.pareto import order
from search.ranks import spearman
from search.study import COMPUTE, DIVERGED, FIT, METRICS, SECONDS, Study
from search.trials import PAPER, REPEATS, WARM_START, paused_at, value_of

STATES: Final = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}
PAUSED: Final = "paused"  # a waiting trial that is at a rung, and goes on once it is promoted


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial."""

    number: int
    state: str  # one of STATES' values, or PAUSED
    objective: Objective
    value: float | None  # the objective's best epoch of a complete trial, last one of a pruned trial
    epoch: int  # the last one reported
    epochs: int  # full length
    reports: Mapping[int, float]  # the objective by epoch
    val_loss: float | None  # of what has finished, nats, whatever the objective is: the lowest, or as the value is
    params: Mapping[str, Value]  # drawn or brought along; the fixed ones are the study's
    paper: int | None  # number of the documented trial that it replays
    repeats: int | None  # number of the trial that it repeats, in a study that confirms another
    seed: int | None  # None until it has started
    seconds: float | None  # spent training; None until it has finished
    started: datetime | None
    note: str  # why it diverged, failed or was lost last; else empty
    failures: Sequence[str]  # why it failed or was lost, oldest first
    metrics: Mapping[str, Sequence[float]]  # one value an epoch, by name; empty until it has finished
    fit: Mapping[str, Any]  # all parameters, epochs and seed of its fit; empty until it has started
    compute: Mapping[str, Any]  # precision and threads of its fit; empty until it has started
    footprint: Footprint | None = None  # in a study of two objectives, or with limits; None until it has started
    against: Measure | None = None  # the study's second objective
    limits: Mapping[Measure, float] = field(default_factory=dict)  # the study's
    over: str = ""  # which of them it is over, as a sentence
    warm_start: Mapping[str, Any] | None = None  # the earlier study and its trial that it takes the parameters of

    @property
    def latest(self) -> float | None:
        """The value, or the last report of what has none yet."""
        return self.value if self.value is not None else self.reports.get(self.epoch)

    @property
    def rank(self) -> tuple[float, int]:
        """Sort key, best first; of equal ones the earlier, and what has no value yet last."""
        return float("inf") if self.latest is None else cost(self.latest, self.objective), self.number

    @property
    def second(self) -> float | None:
        """The second objective; None where there is none."""
        return None if self.footprint is None or self.against is None else self.footprint.of(self.against)

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return {
            "number": self.number,
            "state": self.state,
            "objective": self.objective,
            "value": self.value,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "params": dict(self.params),
            "paper": self.paper,
            "repeats": self.repeats,
            "warm_start": self.warm_start,
            "seed": self.seed,
            "seconds": self.seconds,
            "started": self.started.isoformat() if self.started else None,
            "val_loss": self.val_loss,
            "reports": {str(epoch): value for epoch, value in self.reports.items()},
            "metrics": {name: list(line) for name, line in self.metrics.items()},
            "latency_ms": self.footprint.latency if self.footprint else None,
            "size_mb": self.footprint.size if self.footprint else None,
            "over_limit": self.over,
            "note": self.note,
            "failures": list(self.failures),
            "fit": dict(self.fit),
            "compute": dict(self.compute),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many trials of the study are in which state."""

    complete: int
    pruned: int
    running: int
    paused: int = 0
    waiting: int
    failed: int

    @property
    def finished(self) -> int:
        """Those that count against a budget."""
        return self.complete + self.pruned


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """A documented trial beside its replay; the data differ, so the two losses do too."""

    number: int
    documented: Mapping[str, Value]
    assumed: Mapping[str, Value]
    documented_loss: float  # nats, on the document's data
    replayed_loss: float | None  # nats, on the study's data; None until it is complete
    state: str  # of the replay; "not enqueued" if the study never had it


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The documented trials against their replays."""

    rows: tuple[PaperRow, ...]
    rank_correlation: float | None  # Spearman's, over the complete replays; None below three or among ties only
    best_searched: float | None  # lowest loss of the open search, nats


def trial_rows(study: Study) -> list[TrialRow]:
    """Read all trials, by number."""
    return [trial_row(study, trial) for trial in study.optuna.get_trials(deepcopy=False)]


def trial_row(study: Study, trial: FrozenTrial) -> TrialRow:
    """Read one trial."""
    attributes = trial.user_attrs
    spec: Mapping[str, Any] = attributes.get(FIT, {})
    failures: list[str] = attributes.get(FAILURE, [])
    note = attributes.get(DIVERGED) or attributes.get(OVER) or (failures[-1] if failures else "")
    footprint = footprint_of(trial)
    start = trial.datetime_start
    return TrialRow(
        number=trial.number,
        state=PAUSED if paused_at(trial) else STATES[trial.state],
        objective=study.declaration.objective,
        value=value_of(trial) if trial.state.is_finished() else None,
        epoch=trial.last_step or 0,
        epochs=int(spec.get("epochs", study.declaration.epochs)),
        reports=dict(sorted(trial.intermediate_values.items())),
        val_loss=_val_loss(study, trial),
        params=trial.params or trial.system_attrs.get("fixed_params", {}),
        paper=attributes.get(PAPER),
        repeats=attributes.get(REPEATS),
        seed=spec.get("seed"),
        seconds=attributes.get(SECONDS),
        started=start.astimezone(UTC) if start else None,
        metrics=attributes.get(METRICS, {}),
        note=note,
        failures=failures,
        fit=spec,
        compute=attributes.get(COMPUTE, {}),
        footprint=footprint,
        against=study.declaration.against,
        limits=study.declaration.limits,
        over=attributes.get(OVER) or ("" if footprint is None else over(footprint, study.declaration.limits)),
        warm_start=attributes.get(WARM_START),
    )


def counts(rows: Iterable[TrialRow]) -> Counts:
    """Count the trials by state."""
    states = [row.state for row in rows]
    return Counts(**{name: states.count(name) for name in (*STATES.values(), PAUSED)})


def leaderboard(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """Sort the complete trials, best first; of equal ones the earlier.

    With two objectives the front goes first, by the first objective. What is over a limit comes last.
    """
    complete, sorted_, _ = _ordered(rows)
    return [complete[number] for number in sorted_]


def front(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """List the trials on the front of two objectives, the best by the first one first; none where there is one."""
    complete, sorted_, leading = _ordered(row for row in rows if row.against is not None)
    return [complete[number] for number in sorted_[:leading]]


def _ordered(rows: Iterable[TrialRow]) -> tuple[dict[int, TrialRow], list[int], int]:
    complete = {row.number: row for row in rows if row.state == "complete"}
    points = {number: (row.rank[0], row.second or 0.0) for number, row in complete.items()}
    return complete, *order(points, {number for number, row in complete.items() if not row.over})


def compare_paper(rows: Sequence[TrialRow]) -> Comparison:
    """Set documented and replayed losses side by side."""
    replays = {row.paper: row for row in rows if row.paper is not None}
    table = tuple(_paper_row(trial, replays.get(trial.number)) for trial in paper_trials())
    pairs = [(row.documented_loss, row.replayed_loss) for row in table if row.replayed_loss is not None]
    searched = [row.val_loss for row in leaderboard(rows) if row.paper is None and row.val_loss is not None]
    return Comparison(
        rows=table,
        rank_correlation=spearman([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
        best_searched=min(searched, default=None),
    )


def _val_loss(study: Study, trial: FrozenTrial) -> float | None:
    if not trial.state.is_finished():
        return None
    if study.declaration.objective == "bce":
        return value_of(trial)
    return min(trial.user_attrs.get(METRICS, {}).get("val_loss", []), default=None)


def _paper_row(trial: PaperTrial, replay: TrialRow | None) -> PaperRow:
    return PaperRow(
        number=trial.number,
        documented=trial.documented,
        assumed=trial.assumed,
        documented_loss=trial.val_loss,
        replayed_loss=replay.val_loss if replay is not None and replay.state == "complete" else None,
        state=replay.state if replay is not None else "not enqueued",
    )
