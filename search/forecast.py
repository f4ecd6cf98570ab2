"""What the next few trials will bring, from those that ran: a forecast of their gain and of their time.

Two views are mixed evenly, as each alone is wrong where the other is right. Extreme values: the better half of the
complete trials tells how the best of further ones is distributed, if they are drawn as those were. Records: the best
best value's own way, as far as it went while the number of trials grew by as much; a sampler that learns is seen there.
On recorded curves of 110 random configurations the 90 % interval of the next 10 trials held what they gained in 93 % of
516 cases with halving and in 92 % of 540 without; of 16 searches by TPE on a surrogate of such curves, in 90 % of 346.
Not here: when to stop for it (convergence.py).

References
----------
Pickands, "Statistical inference using extreme order statistics", 1975: beyond a threshold, tails are generalized
Pareto. Zhang & Stephens, "A new and efficient estimation method for the generalized Pareto distribution", 2009: its
posterior. Renyi, "On the extreme elements of observations", 1962: records come evenly in the logarithm of time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlc_core import cost
from search.scale import logarithm
from search.views import TrialRow

AHEAD: Final = 10  # trials
LEVEL: Final = 0.9  # of the interval
FEWEST: Final = 6  # complete trials below which nothing is foretold
OLD: Final = 4  # records of the first one in so many trials tell of a sampler that knew nothing
_DRAWS: Final = 4_000


@dataclass(frozen=True, slots=True)
class Forecast:
    """What so many more trials are expected to bring."""

    trials: int
    gain: float  # expected, of the best value; at least 0, in units of the objective
    low: float  # ends of the interval at LEVEL
    high: float
    seconds: float | None  # until they have finished, at the pace of late; None where nobody knows it

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return {
            "trials": self.trials,
            "gain": self.gain,
            "low": self.low,
            "high": self.high,
            "level": LEVEL,
            "seconds": self.seconds,
        }


def forecast(rows: Sequence[TrialRow], trials: int = AHEAD) -> Forecast | None:
    """Foretell what the next trials of a search gain; None while too few are complete, or where none is drawn.

    The same rows give the same figures.
    """
    views = gains(rows, trials)
    if views is None:
        return None
    drawn = np.concatenate(views)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    pace = seconds_a_trial(rows)
    return Forecast(
        trials, float(drawn.mean()), float(low), float(high), None if pace is None else float(pace * trials)
    )


def gains(rows: Iterable[TrialRow], trials: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw how much better than the best so far the best of further trials is, by each of the two views.

    None where nothing can be told. Trials that were stopped or wait at a rung count as ones that were not better: what
    they would have come to, the pruner did not want to know.
    """
    ran = [row for row in rows if row.state in ("complete", "pruned", "paused")]
    if any(row.repeats is not None or row.against is not None for row in ran):
        return None  # a confirmation draws none; of two objectives there is no best value
    depths = np.array([_depth(row) for row in ran])
    if np.isfinite(depths).sum() < FEWEST:
        return None
    rng = np.random.default_rng(len(ran))
    deeper = _by_extremes(depths, trials, rng), _by_records(depths, trials, rng)
    by_extremes, by_records = (np.exp(-depths.max()) - np.exp(-(depths.max() + one)) for one in deeper)
    return by_extremes, by_records


def seconds_a_trial(rows: Iterable[TrialRow]) -> float | None:
    """Tell how far apart the last trials ended, as many as ran side by side; times in which none ran do not count."""
    ended = [
        (row.started.timestamp(), row.started.timestamp() + row.seconds)
        for row in rows
        if row.started is not None and row.seconds and row.state in ("complete", "pruned", "paused")
    ]
    busy, until = 0.0, -np.inf
    for start, end in sorted(ended[-2 * AHEAD :]):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / len(ended[-2 * AHEAD :]) if ended else None


def _depth(row: TrialRow) -> float:
    """Tell how deep the value lies, the more the better; infinitely little where it is none of a whole training."""
    if row.state != "complete" or row.value is None:
        return -math.inf
    return -logarithm(cost(row.value, row.objective), row.objective)


def _by_extremes(depths: np.ndarray, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Draw by how much the deepest of further trials goes beyond the deepest so far, by the tail of all."""
    ordered = np.sort(depths[np.isfinite(depths)])[::-1]
    beyond = min(max(5, -(-len(ordered) // 2)), len(ordered) - 1)
    threshold = ordered[beyond]
    exceedances = ordered[:beyond] - threshold
    exceedances = exceedances[exceedances > 0]
    if len(exceedances) < 2:
        return np.zeros(_DRAWS)  # all are equal
    chance = rng.beta(beyond + 0.5, len(depths) - beyond + 0.5, _DRAWS)
    many = rng.binomial(trials, chance)
    largest = rng.random(_DRAWS) ** (1 / np.maximum(many, 1))
    shape, scale = _pareto(exceedances, rng)
    deepest = np.where(many > 0, threshold + _quantile(largest, shape, scale), -np.inf)
    return np.asarray(np.maximum(deepest - ordered[0], 0.0))


def _by_records(depths: np.ndarray, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Draw it from what was gained whenever the number of trials had grown by the same factor."""
    count = len(depths)
    factor = (count + trials) / count
    deepest = np.maximum.accumulate(depths)
    first = int(np.argmax(np.isfinite(deepest))) + 1
    starts = np.arange(max(first + 2, count // OLD), int(count / factor) + 1)
    if not len(starts):
        return _by_extremes(depths, trials, rng)
    ends = np.minimum(np.round(starts * factor).astype(int), count)
    return np.asarray(rng.choice(deepest[ends - 1] - deepest[starts - 1], _DRAWS))


def _pareto(exceedances: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the shape (above 0: the tail has an end) and scale of a generalized Pareto distribution."""
    ordered, count = np.sort(exceedances), len(exceedances)
    grid = 20 + int(count**0.5)
    quartile = ordered[int(count / 4 + 0.5) - 1]
    theta = 1 / ordered[-1] + (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * quartile)
    with np.errstate(all="ignore"):
        shape = -np.log1p(-theta[:, None] * ordered).mean(axis=1)
        likelihood = count * (np.log(theta / shape) + shape - 1)
    likelihood = np.where(np.isfinite(likelihood), likelihood, -np.inf)
    weight = np.exp(likelihood - likelihood.max())
    chosen = rng.choice(grid, _DRAWS, p=weight / weight.sum())
    return shape[chosen], shape[chosen] / theta[chosen]


def _quantile(probability: np.ndarray, shape: np.ndarray, scale: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        curved = scale / shape * (1 - (1 - probability) ** shape)
    return np.asarray(np.where(np.abs(shape) < 1e-6, -scale * np.log1p(-probability), curved))
