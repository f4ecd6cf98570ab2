"""What a sampler makes of its candidates where limits or a second objective count, which are known beforehand.

Without either, everything is as if this file were not there. Not here: the candidates, and the model that foretells
their losses (curve_sampler.py); the formula (improvement.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from optuna.trial import FrozenTrial

from search.encoding import Encoding, Flat
from search.footprints import Architecture, Footprints
from search.improvement import Floats, hypervolume_improvement, improvement
from search.pareto import distances

CHOICE: Final = 30  # draws, among which the first trials' networks are looked for
TRIES: Final = 1000  # draws, until one is within the limits
# Times the largest second objective lies the reference: near it, what the largest network gains would hardly count, and
# that is where the lowest losses are.
BEYOND: Final = 2.0


def draw(encoding: Encoding, rng: np.random.Generator, footprints: Footprints | None) -> Flat:
    """Draw a configuration anywhere in the space, but none that is known to be over a limit."""
    drawn = encoding.draw(rng)
    for _ in range(TRIES):
        if footprints is None or footprints.allows(drawn):
            break
        drawn = encoding.draw(rng)
    return drawn


def begin(
    encoding: Encoding, rng: np.random.Generator, footprints: Footprints | None, tried: Iterable[FrozenTrial]
) -> Flat:
    """Draw one of a study's first trials; with two objectives one of the networks that were tried the least.

    By chance alone a network may be missed, or be met at parameters that suit none; what is small and known to be good
    would then be made a little better for long before anything else is tried.
    """
    if footprints is None or footprints.declaration.against is None:
        return draw(encoding, rng, footprints)
    times = Counter(Architecture.of(one.params, footprints.declaration) for one in tried if one.params)
    drawn = [draw(encoding, rng, footprints) for _ in range(CHOICE)]
    return min(drawn, key=lambda flat: times[Architecture.of(flat, footprints.declaration)])


def within(candidates: list[Flat], footprints: Footprints | None) -> list[Flat]:
    """Leave out what is known to be over a limit; all stay where nothing else is left."""
    if footprints is None:
        return candidates
    return [one for one in candidates if footprints.allows(one)] or candidates


def ranking(means: Floats, trials: Sequence[FrozenTrial], footprints: Footprints | None) -> Floats:
    """Say how far trials are from the best: their losses as they are, or with two objectives above the front."""
    if footprints is None or footprints.declaration.against is None:
        return means
    seconds = _seconds([one.params for one in trials], footprints)
    far = distances(dict(enumerate(zip(means.tolist(), seconds.tolist(), strict=True))))
    return np.array([far[place] for place in range(len(means))])


def expected(
    candidates: Sequence[Flat],
    foretold: tuple[Floats, Floats],
    known: tuple[Floats, Sequence[FrozenTrial]],
    footprints: Footprints | None,
) -> Floats:
    """Say how much candidates are expected to gain, on the best loss or on the front; of sizes too the ratio counts.

    Parameters
    ----------
    candidates : sequence of Flat
    foretold : (n,), (n,)
        Means and deviations of their losses, on the model's scale.
    known : (trials,), sequence of FrozenTrial
        What is believed of trials, and these.
    """
    losses, trials = known
    if footprints is None or footprints.declaration.against is None:
        return improvement(*foretold, float(losses.min()))
    seconds = _seconds([one.params for one in trials], footprints)
    worst = float(losses.max()), math.log(BEYOND * footprints.worst())
    front = zip(losses.tolist(), seconds.tolist(), strict=True)
    return hypervolume_improvement(*foretold, _seconds(candidates, footprints), front, worst)


def _seconds(configurations: Sequence[Flat], footprints: Footprints) -> Floats:
    return np.log([footprints.second(one) for one in configurations])
