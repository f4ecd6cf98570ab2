"""How much a further trial is expected to gain: on the best value, or on the front of two objectives.

Not here: the model that foretells (fidelity_gp.py), and who looks for the best trial (curve_sampler.py).

References
----------
Jones, Schonlau, Welch, "Efficient Global Optimization of Expensive Black-Box Functions", 1998: expected improvement.
Emmerich, Giannakoglou, Naujoks, "Single- and Multiobjective Evolutionary Optimization Assisted by Gaussian Random Field
Metamodels", 2006, and Yang et al., "Efficient computation of expected hypervolume improvement using box decomposition
algorithms", 2019: expected hypervolume improvement, cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]


def improvement(means: Floats, deviations: Floats, best: float) -> Floats:
    """Expect by how much normally distributed values will be below the best."""
    z = (best - means) / deviations
    expected: Floats = deviations * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    return expected


def hypervolume_improvement(
    means: Floats, deviations: Floats, seconds: Floats, known: Iterable[tuple[float, float]], worst: tuple[float, float]
) -> Floats:
    """Expect by how much the area that a front dominates will grow.

    The second objective of a candidate is known, only the first is uncertain. So the area is cut into strips along the
    second objective, in each of which the front has one best value of the first; a candidate gains in those at or
    beyond its own second objective, in each the strip's width times the expected improvement on that best value. The
    sum is exact.

    Parameters
    ----------
    means, deviations : (n,)
        Of the first objective of candidates.
    seconds : (n,)
        Their second objective.
    known : iterable of (first, second)
        What is there; whatever is dominated changes nothing.
    worst : (first, second)
        The reference point: beyond it nothing counts.
    """
    strips = [(-math.inf, worst[0])]  # where each begins, and the best there
    for first, second in sorted(known, key=lambda point: (point[1], point[0])):
        if second < worst[1] and first < strips[-1][1]:
            strips.append((second, first))
    expected = np.zeros(len(means))
    for (begin, best), (end, _) in zip(strips, [*strips[1:], (worst[1], 0.0)], strict=True):
        width = np.maximum(0.0, end - np.maximum(begin, seconds))
        expected += width * improvement(means, deviations, best)
    return expected
