"""The best trials once more over fresh seeds, and which of them is the best then.

A search keeps the luckiest of many trials; what it promises is only seen on seeds that it did not choose by. The
repetitions are trials of a study of their own, so that its workers share them, resume them and never draw others.
Not here: who runs them (pool.py); how they are printed (drawing.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any, Final

from mlc_core import Objective, Stream, cost, stream_seed
from search.declaration import Declaration
from search.errors import SearchError, StudyNotFound
from search.options import NoPruner
from search.study import DATA, FIT, PRECISION, Study, open_study
from search.trials import REPEATS
from search.views import TrialRow, leaderboard, trial_rows

SUFFIX: Final = "-confirmation"  # of the study's name that holds the repetitions
CONFIDENCE: Final = 0.95  # of the statement that two can be told apart


class NothingToConfirm(SearchError):
    """No trial of the study is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """One trial's parameters over fresh seeds."""

    trial: TrialRow  # of the search
    values: Mapping[int, float]  # the objective by seed, of the repetitions that are complete
    missing: int  # repetitions that diverged, failed or are not done
    objective: Objective

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return mean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None of fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def rank(self) -> tuple[int, float, int]:
        """Sort key, best first: what lost a repetition comes last, then by mean plus one deviation to the bad side.

        About five of six further seeds will do better than that, so a steady trial goes before a lucky one.
        """
        if not self.values:
            return self.missing, math.inf, self.trial.number
        costs = [cost(value, self.objective) for value in self.values.values()]
        return self.missing, mean(costs) + (self.spread or 0.0), self.trial.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A confirmed trial beside the first one."""

    row: Confirmed
    behind: float | None  # mean difference to the first over common seeds, positive: worse; None for the first
    margin: float | None  # half-width of its interval at CONFIDENCE; None where too few seeds are common

    @property
    def told_apart(self) -> bool:
        """Whether it is different from the first for more than luck."""
        return self.behind is not None and self.margin is not None and abs(self.behind) > self.margin

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        row = self.row
        return {
            "trial": row.trial.number,
            "searched": row.trial.value,
            "mean": row.mean,
            "spread": row.spread,
            "values": {str(seed): value for seed, value in row.values.items()},
            "missing": row.missing,
            "behind": self.behind,
            "margin": self.margin,
            "told_apart": self.told_apart,
            "params": dict(row.trial.params),
        }


@contextmanager
def open_confirmation(study: Study, storage_url: str, *, create: bool = False) -> Iterator[Study | None]:
    """Open the study of a study's repetitions; None where there is none and none is to be made."""
    wanted = _declaration(study.declaration)
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(
                open_study(wanted, storage_url, create=True, confirms=study.name)
                if create
                else open_study(wanted.name, storage_url)
            )
        except StudyNotFound:
            if create:
                raise
            opened = None
        if opened is not None and create:
            for key in (DATA, PRECISION):
                if (known := study.optuna.user_attrs.get(key)) is not None:
                    opened.ledger.remember(key, known)
        yield opened


def enqueue_repetitions(study: Study, confirmation: Study, *, top: int, seeds: int) -> int:
    """Put the best trials of a study into its confirmation's queue; what is there already is left alone.

    All trials have the same seeds, so that differences between them are of the parameters.

    Returns
    -------
    int
        How many repetitions, of these or earlier calls, are not finished.

    Raises
    ------
    NothingToConfirm
    """
    best = leaderboard(trial_rows(study))[:top]
    if not best:
        raise NothingToConfirm(f"No trial of study {study.name!r} is complete yet. Run the search first.")
    for turn in range(1, seeds + 1):
        seed = stream_seed(study.declaration.seed, Stream.CONFIRM, turn)
        for row in best:
            confirmation.ledger.enqueue(
                f"trial {row.number}, seed {seed}",
                params=row.params,
                user_attrs={REPEATS: row.number, FIT: {**row.fit, "seed": seed}},
            )
    return sum(row.state in ("waiting", "running") for row in trial_rows(confirmation))


def verdicts(study: Study, confirmation: Study) -> list[Verdict]:
    """Rank what was confirmed, best first, each beside the first."""
    searched = {row.number: row for row in trial_rows(study)}
    repeated: dict[int, list[TrialRow]] = {}
    for row in trial_rows(confirmation):
        if row.repeats in searched:
            repeated.setdefault(row.repeats, []).append(row)
    rows = [_confirmed(searched[number], tries, study.declaration.objective) for number, tries in repeated.items()]
    return compare(sorted(rows, key=lambda row: row.rank))


def compare(rows: Sequence[Confirmed]) -> list[Verdict]:
    """Set each beside the first, over the seeds that all complete ones have in common.

    Notes
    -----
    The spread of a difference is estimated from all rows together, once what a trial and what a seed contribute is
    taken away (randomized complete block design; Montgomery, Design and Analysis of Experiments, 4.1): with three
    seeds a pair alone could tell nothing apart. Bonferroni's correction over the comparisons with the first.
    """
    full = [row for row in rows if not row.missing and row.values]
    seeds = sorted(set.intersection(*(set(row.values) for row in full))) if full else []
    margin = _margin([[row.values[seed] for seed in seeds] for row in full])
    answer = []
    for place, row in enumerate(rows):
        behind = None
        if place and row in full and len(seeds) > 0:
            costs = [
                cost(row.values[seed], row.objective) - cost(rows[0].values[seed], row.objective) for seed in seeds
            ]
            behind = mean(costs)
        answer.append(Verdict(row=row, behind=behind, margin=margin if behind is not None else None))
    return answer


def _margin(table: Sequence[Sequence[float]]) -> float | None:
    """Half-width of a difference's interval; the table has a row for each trial, a column for each seed."""
    trials, seeds = len(table), len(table[0]) if table else 0
    if trials < 2 or seeds < 2:
        return None
    from scipy.stats import t  # costs a second, and only this needs it

    of_all = mean(map(mean, table))
    of_seed = [mean(row[place] for row in table) for place in range(seeds)]
    rest = sum((value - mean(row) - of_seed[place] + of_all) ** 2 for row in table for place, value in enumerate(row))
    freedom = (trials - 1) * (seeds - 1)
    quantile = float(t.ppf(1 - (1 - CONFIDENCE) / 2 / (trials - 1), freedom))
    return quantile * math.sqrt(2 * rest / freedom / seeds)


def _declaration(declaration: Declaration) -> Declaration:
    name = f"{declaration.name}{SUFFIX}"
    # What is repeated was judged by limits and a second objective when it was chosen; they do not depend on a seed.
    return replace(declaration, name=name, pruner=NoPruner(), against=None, limits={})


def _confirmed(row: TrialRow, tries: Sequence[TrialRow], objective: Objective) -> Confirmed:
    done = {one.seed: one.value for one in tries if one.state == "complete"}
    values = {seed: value for seed, value in sorted(done.items()) if seed is not None and value is not None}
    return Confirmed(trial=row, values=values, missing=len(tries) - len(values), objective=objective)
