"""Whether a search has converged: what it could still gain, beside what luck alone makes of a value.

The bound on the regret is that of a search which goes on as it did, for as many trials again; it says nothing of places
where this search's sampler would not go. Each of the forecast's two views is blind at times, and then sees nothing to
be gained: so the bound is the view's that sees more, and as both know a search only by its few complete trials, a
quantile farther out than CONFIDENCE. In 17 simulated searches with the default study, looked at 488 times, as many
trials again gained more in 1.6 % of cases (95 % interval over searches 0 to 4.4 %), and than the 95 % quantile of both
views mixed, in 12.3 %; of the one that sees more, in 9.4 %; and with trials in the order in which they ended, in 6.6 %.
Searches differ: in one of them it was exceeded at every sixth look, and of made-up ones that still fell steeply after
40 trials in 7 of 100, far above any noise. Not here: the distribution
of gains (forecast.py); who stops (cli/run.py).

References
----------
Makarova et al., "Automatic Termination for Hyperparameter Optimization", AutoML 2022: stop once a bound on the regret
is below the noise of the value. Their bound is a Gaussian process's over the whole space; over the default study's
dozen parameters it stayed, for 160 trials, at a quarter of the best value and more, so that nothing ever stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, Final, Literal

import numpy as np

from search.confirm import open_confirmation
from search.forecast import gains
from search.study import Study
from search.views import TrialRow, leaderboard, trial_rows

CONFIDENCE: Final = 0.95  # of the bound
QUANTILE: Final = 0.99  # of the gains by the view that sees more, which makes the bound hold with CONFIDENCE
FEWEST: Final = 40  # trials that ran, and
FEWEST_COMPLETE: Final = 10  # complete ones among them, before a bound is believed
BEST_CURVES: Final = 5  # whose last epochs tell the noise where no repetition does
LAST_EPOCHS: Final = 6  # of each
LOOK_SECONDS: Final = 2.0  # between two readings of the study


@dataclass(frozen=True, slots=True)
class Noise:
    """What the value of one configuration varies by."""

    deviation: float  # standard deviation, in units of the objective
    source: Literal["seeds", "epochs"]  # of confirmed trials; or of the best curves' last epochs


@dataclass(frozen=True, slots=True)
class Bound:
    """How much better than its best trial a study would get by as many trials again."""

    regret: float  # at most, with CONFIDENCE; in units of the objective
    noise: Noise
    trials: int  # it rests on, and is about, so many

    @property
    def converged(self) -> bool:
        """Whether what can be gained would not be told from luck."""
        return self.regret < self.noise.deviation

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return {
            "regret": self.regret,
            "confidence": CONFIDENCE,
            "noise": self.noise.deviation,
            "noise_from": self.noise.source,
            "trials": self.trials,
            "converged": self.converged,
        }


class Convergence:
    """Watches a budget, and lets no more trials begin once the study has converged; what runs may finish.

    Parameters
    ----------
    study : Study
    budget_id : int
    storage_url : str
        Resolved; the study's confirmation, if there is one, is read for the noise.
    """

    def __init__(self, study: Study, budget_id: int, storage_url: str) -> None:
        self._study, self._budget_id = study, budget_id
        with open_confirmation(study, storage_url) as confirmation:
            self._noise = None if confirmation is None else between_seeds(trial_rows(confirmation))
        self._looked, self._finished = 0.0, -1
        self.bound: Bound | None = None  # the last one; None while too few trials have run
        self.reached = False

    def watch(self) -> None:
        """Look at the study, unless that was a moment ago."""
        if self.reached or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self.look()

    def look(self) -> None:
        """Look at the study, if a trial has finished since."""
        rows = trial_rows(self._study)
        finished = sum(row.state in ("complete", "pruned") for row in rows)
        if finished == self._finished:
            return
        self._finished = finished
        self.bound = bound(rows, self._noise)
        if self.bound is not None and self.bound.converged:
            self.reached = True
            self._study.ledger.close_budget(self._budget_id)


def bound(rows: Sequence[TrialRow], noise: Noise | None = None) -> Bound | None:
    """Bound what can still be gained; None while too few trials have run.

    Parameters
    ----------
    noise : Noise, optional
        By default that of the best curves' last epochs.
    """
    ran = sum(row.state in ("complete", "pruned", "paused") for row in rows)
    if ran < FEWEST or len(leaderboard(rows)) < FEWEST_COMPLETE:
        return None
    noise = noise or between_epochs(rows)
    gained = gains(rows, ran)
    if noise is None or gained is None:
        return None
    return Bound(max(float(np.quantile(view, QUANTILE)) for view in gained), noise, ran)


def between_seeds(rows: Iterable[TrialRow]) -> Noise | None:
    """Estimate the noise from the repetitions of a confirmation; None where they are too few."""
    groups: dict[int, list[float]] = {}
    for row in rows:
        if row.state == "complete" and row.repeats is not None and row.value is not None:
            groups.setdefault(row.repeats, []).append(row.value)
    squares = sum((value - mean(group)) ** 2 for group in groups.values() for value in group)
    freedom = sum(len(group) - 1 for group in groups.values())
    return Noise((squares / freedom) ** 0.5, "seeds") if freedom >= 2 else None


def between_epochs(rows: Iterable[TrialRow]) -> Noise | None:
    """Estimate the noise from second differences of the best curves' ends, which a steady descent leaves at 0."""
    found: list[float] = []
    for row in leaderboard(rows)[:BEST_CURVES]:
        line = list(row.reports.values())[-LAST_EPOCHS:]
        found += [a - 2 * b + c for a, b, c in zip(line, line[1:], line[2:], strict=False)]
    if len(found) < 3:
        return None
    # A step of the scheduler bends the curve, which a median does not mind. 0.6745: of a normal deviate's size;
    # a second difference of independent deviates varies by the root of 6 of theirs.
    return Noise(median(map(abs, found)) / 0.6745 / 6**0.5, "epochs")
