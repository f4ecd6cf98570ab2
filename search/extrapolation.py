"""How a training will end, from its first epochs and from whole trainings of the same study.

Not here: who asks (objective.py); which trials pause (promotion.py).

References
----------
Domhan, Springenberg, Hutter, "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by
Extrapolation of Learning Curves", IJCAI 2015: stop what will probably not beat the best. Instead of parametric curves a
straight line in logarithms, with the error that it makes when each whole training is foretold from the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from mlc_core import cost
from search.declaration import Declaration
from search.pareto import second_of
from search.scale import logarithm
from search.trials import is_replay

FEWEST: Final = 6  # whole trainings, before anything is foretold
EARLIEST: Final = 2 / 3  # share of a training that must be known: sooner, other schedules than those seen mislead
DEVIATIONS: Final = 2.0  # by which a forecast must miss the best: of 40 hopeless trainings one is not
_SPREAD: Final = 0.14  # of what a line leaves of log losses, before any is seen
_LEAST: Final = 0.05  # error, whatever a few trainings that are alike promise
_TRUST: Final = np.array([1.0, 0.3, 0.3])  # how far its three figures may be from what is assumed
_ONWARD: Final = 0.4  # share of the latest slope that is expected to go on


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a training is expected to end."""

    value: float  # of the objective
    error: float  # deviation of the logarithm, leave-one-out over the whole trainings
    whole: int  # trainings that this rests on
    hopeless: bool  # the best of them will not be reached, by DEVIATIONS


def forecast(trials: Sequence[FrozenTrial], number: int, declaration: Declaration) -> Forecast | None:
    """Foretell how a trial ends.

    Parameters
    ----------
    trials : sequence of FrozenTrial
        Of the study; this one among them.
    number : int
        Of the trial.

    Returns
    -------
    Forecast or None
        None before EARLIEST, after the end, where fewer than FEWEST trials came to their end, or where the trial's
        reports are no numbers.
    """
    own = next(trial for trial in trials if trial.number == number)
    epoch, epochs = own.last_step or 0, declaration.epochs
    if not EARLIEST * epochs <= epoch < epochs:
        return None
    whole = _whole(trials, declaration)
    begun = _curve(own, declaration, epoch)
    if len(whole) < FEWEST or begun is None:
        return None
    line = _Line.through(np.array([curve for _, curve in whole]), epoch)
    expected = float(_features(begun[None], epoch)[0] @ line.figures)
    # Of two objectives, what is no larger: of a small network nobody expects the loss of a large one.
    size = second_of(own, declaration)
    best = min((float(curve[-1]) for one, curve in whole if second_of(one, declaration) <= size), default=math.inf)
    value = math.exp(expected)
    return Forecast(
        value=value if declaration.objective == "bce" else 1.0 - value,
        error=line.error,
        whole=len(whole),
        hopeless=expected - DEVIATIONS * line.error > best,
    )


def accuracy(trials: Sequence[FrozenTrial], declaration: Declaration) -> dict[int, float]:
    """Measure the error of forecasts, by the epoch that they are made after; empty where nothing is foretold.

    Returns
    -------
    dict
        Deviation of the logarithm, leave-one-out over the whole trainings.
    """
    epochs, whole = declaration.epochs, _whole(trials, declaration)
    if len(whole) < FEWEST:
        return {}
    first = math.ceil(EARLIEST * epochs)
    curves = np.array([curve for _, curve in whole])
    return {epoch: _Line.through(curves, epoch).error for epoch in range(first, epochs)}


@dataclass(frozen=True, slots=True)
class _Line:
    """A training's end as a line over where it stands and how it got there, in logarithms."""

    figures: NDArray[np.float64]
    error: float

    @classmethod
    def through(cls, curves: NDArray[np.float64], epoch: int) -> _Line:
        """Fit it to whole trainings, (n, epochs), and foretell each of them from the others."""
        features, ends = _features(curves, epoch), curves[:, -1]
        everyone = np.arange(len(curves))
        left_out = [ends[one] - features[one] @ _fit(features, ends, everyone != one, epoch, curves.shape[1])
                    for one in everyone]  # fmt: skip
        # As far as the line is trusted before anything is seen: a few alike tell little of the others.
        error = math.sqrt(max(float(np.mean(np.square(left_out))), _LEAST**2) * (1 + 1 / len(curves)))
        return cls(_fit(features, ends, everyone >= 0, epoch, curves.shape[1]), error)


def _fit(
    features: NDArray[np.float64], ends: NDArray[np.float64], seen: NDArray[np.bool_], epoch: int, epochs: int
) -> NDArray[np.float64]:
    before = np.array([0.0, 1.0, _ONWARD * (epochs - epoch) / (epoch - epoch // 2)])
    rows, values = features[seen], ends[seen]
    precision = rows.T @ rows / _SPREAD**2 + np.diag(1 / _TRUST**2)
    figures: NDArray[np.float64] = before + np.linalg.solve(precision, rows.T @ (values - rows @ before) / _SPREAD**2)
    return figures


def _features(curves: NDArray[np.float64], epoch: int) -> NDArray[np.float64]:
    stands, stood = curves[:, epoch - 1], curves[:, max(1, epoch // 2) - 1]
    return np.stack([np.ones(len(curves)), stands, stands - stood], axis=1)


def _whole(trials: Iterable[FrozenTrial], declaration: Declaration) -> list[tuple[FrozenTrial, NDArray[np.float64]]]:
    """Gather the trials that came to their end, with their curves."""
    ended = [one for one in trials if one.state == TrialState.COMPLETE and not is_replay(one)]
    curves = ((one, _curve(one, declaration, declaration.epochs)) for one in ended)
    return [(one, curve) for one, curve in curves if curve is not None]


def _curve(trial: FrozenTrial, declaration: Declaration, epochs: int) -> NDArray[np.float64] | None:
    """Spell the best so far of each epoch as a logarithm; None where one is missing or no number."""
    objective = declaration.objective
    reports = [trial.intermediate_values.get(epoch, math.nan) for epoch in range(1, epochs + 1)]
    costs = np.minimum.accumulate([logarithm(cost(value, objective), objective) for value in reports])
    return costs if np.isfinite(costs).all() else None
