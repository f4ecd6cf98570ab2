"""Trials of two objectives, the study's own and one that is known beforehand: the front, and how far from it they are.

Not here: limits, and where the second objective comes from (footprints.py); what a sampler expects of a further trial
(improvement.py).

References
----------
Schmucker et al., "Multi-objective Asynchronous Successive Halving", 2021: trials pause and are promoted by where they
stand towards the front of those that came as far.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from optuna.trial import FrozenTrial

from mlc_core import cost
from search.declaration import Declaration
from search.footprints import footprint_of, over
from search.scale import logarithm
from search.trials import value_of

Points = Mapping[int, tuple[float, float]]  # by trial: the objective's cost, and the second objective


def front(points: Points) -> list[int]:
    """Name the trials that none other beats in one without being worse in the other; the lowest cost first."""
    found: list[int] = []
    best: tuple[float, float] | None = None
    for number in sorted(points, key=lambda one: (points[one][::-1], one)):
        if best is None or points[number][0] < best[0] or points[number] == best:
            best = points[number]
            found.append(number)
    return sorted(found, key=lambda one: (points[one], one))


def standings(costs: Mapping[int, float], trials: Iterable[FrozenTrial], declaration: Declaration) -> dict[int, float]:
    """Say by what trials are compared, the lowest being the best.

    With one objective that is the cost. With two it is the distance to the front, by how much the cost is above the
    lowest of all trials whose second objective is not larger: the difference of logarithms, 0 on the front.

    Parameters
    ----------
    costs : mapping
        By a trial's number, after the same number of epochs.
    trials : iterable of FrozenTrial
        These among them.
    """
    if declaration.against is None:
        return dict(costs)
    seconds = {one.number: second_of(one, declaration) for one in trials if one.number in costs}
    return distances({number: (logarithm(one, declaration.objective), seconds[number])
                      for number, one in costs.items()})  # fmt: skip


def distances(points: Points) -> dict[int, float]:
    """Measure how far each point is above the lowest of those whose second objective is not larger."""
    lowest: dict[float, float] = {}  # by second objective
    for first, second in points.values():
        lowest[second] = min(first, lowest.get(second, math.inf))
    best = math.inf
    for second in sorted(lowest):
        best = lowest[second] = min(best, lowest[second])
    return {
        number: first - lowest[second] if math.isfinite(first) else math.inf
        for number, (first, second) in points.items()
    }


def best_first(complete: Iterable[FrozenTrial], declaration: Declaration) -> tuple[list[FrozenTrial], int]:
    """Sort complete trials as `order` does, and count those that lead."""
    trials = {one.number: one for one in complete}
    points = {number: (cost(value_of(one) or 0.0, declaration.objective), second_of(one, declaration))
              for number, one in trials.items()}  # fmt: skip
    sorted_, leading = order(points, {number for number, one in trials.items() if within(one, declaration)})
    return [trials[number] for number in sorted_], leading


def order(points: Points, fits: Collection[int]) -> tuple[list[int], int]:
    """Sort trials: the front first, then the others, each by cost; what does not fit the limits last.

    With one objective, where all second ones are equal, that is by cost alone.

    Returns
    -------
    list of int
        The trials.
    int
        How many are on the front, if any fits; 1 of several that are equal.
    """
    leading = front({number: points[number] for number in points if number in fits})
    leading = [one for place, one in enumerate(leading) if not place or points[one] != points[leading[place - 1]]]
    rest = sorted(points.keys() - set(leading), key=lambda one: (one not in fits, points[one][0], one))
    return [*leading, *rest], len(leading)


def within(trial: FrozenTrial, declaration: Declaration) -> bool:
    """Tell whether a trial is within the study's limits; one that was not measured is."""
    footprint = footprint_of(trial)
    return footprint is None or not over(footprint, declaration.limits)


def second_of(trial: FrozenTrial, declaration: Declaration) -> float:
    """Read a trial's second objective; 0 where there is one objective, and infinite before it was measured."""
    if declaration.against is None:
        return 0.0
    footprint = footprint_of(trial)
    return math.inf if footprint is None else footprint.of(declaration.against)
