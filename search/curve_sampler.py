"""What to try next, from whole learning curves: a sampler that counts what paused and pruned trials have told.

Not here: the model (fidelity_gp.py); which paused trial goes on (promotion.py); the sampler's options (options.py).

References
----------
Jones, Schonlau, Welch, "Efficient Global Optimization of Expensive Black-Box Functions", 1998: expected improvement.
Gonzalez et al., "Batch Bayesian Optimization via Local Penalization", 2016: less is expected near what runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from mlc_core import Objective
from search import front_proposals
from search.declaration import Declaration
from search.encoding import Encoding, Flat
from search.fidelity_gp import FidelityGp, Floats, Level, distances
from search.footprints import OVER, Footprints
from search.promotion import cost_at, rung_epochs
from search.scale import logarithm
from search.trials import is_replay

MOST: Final = 150  # trials that the model sees: the best ones, and the latest
LATEST: Final = 50
ANYWHERE: Final = 300  # candidates from the whole space
NEAR: Final = 15  # and near each of the best, at each scale
BEST: Final = 5
SCALES: Final = (0.03, 0.1, 0.2)  # of the space
RESERVED: Final = 0.02  # squared distance within which a trial that runs is alone


@dataclass(slots=True)
class Memory:
    """What one fit hands to the next."""

    thetas: Sequence[Floats] = ()


class CurveSampler(BaseSampler):
    """Expected improvement at full length, by a Gaussian process over configurations and epochs.

    The first trial of a study is the default configuration, or what comes nearest to it: people have chosen it for
    good reasons, and the model learns early what a sensible one comes to.

    Parameters
    ----------
    declaration : Declaration
        Of the study that it samples for.
    memory : Memory
        The next trial's sampler takes it over.
    seed : int
    startup : int
        Trials drawn at random, the first one among them, before the model is asked.
    """

    def __init__(self, declaration: Declaration, memory: Memory, *, seed: int, startup: int) -> None:
        self.memory = memory
        self._declaration, self._startup = declaration, startup
        self._encoding = Encoding.of(declaration)
        self._rng, self._aside = np.random.default_rng(seed), RandomSampler(seed=seed)

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - as in BaseSampler
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Name all parameters, those of every scheduler included."""
        return self._encoding.distributions

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002 - it is the encoding's
    ) -> dict[str, Any]:
        """Draw a whole configuration."""
        others = [one for one in study._storage.get_all_trials(study._study_id, deepcopy=False)
                  if one.number != trial.number and not is_replay(one)]  # fmt: skip
        footprints = None
        if self._declaration.weighs:
            footprints = Footprints.of(study._storage.get_study_user_attrs(study._study_id), self._declaration)
        if not others:
            default = self._encoding.near_default()
            if footprints is None or footprints.allows(default):
                return default
        told = [one for one in others if one.intermediate_values and one.state != TrialState.FAIL]
        if len(told) < self._startup:
            return front_proposals.begin(self._encoding, self._rng, footprints, others)
        # Of matrices as small as these more threads would only wait, and add up in another order.
        with threadpool_limits(1, user_api="blas"):
            return propose(believe(others, self._declaration, self._encoding, self.memory), self._rng, footprints)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - as in BaseSampler
        """Draw what the space does not have, as of a trial that somebody enqueued."""
        return self._aside.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What is believed of a study."""

    encoding: Encoding
    epochs: Sequence[int]  # of the levels, the last one a whole training
    model: FidelityGp
    trials: Sequence[FrozenTrial]  # that the model has seen, or that run
    means: Floats  # of each trial at its end
    deviations: Floats

    def foretell(self, configurations: Sequence[Flat]) -> tuple[Floats, Floats]:
        """Foretell how configurations would end that nobody has tried: means and deviations."""
        points = [self.encoding.features(configurations, epoch) for epoch in self.epochs]
        unknown = np.full(len(configurations), math.nan)
        return self.model.predict(points, [unknown] * len(self.epochs))


def believe(trials: Sequence[FrozenTrial], declaration: Declaration, encoding: Encoding, memory: Memory) -> Beliefs:
    """Fit the model to what trials have told; at least one must have."""
    epochs, chosen = levels(declaration), _chosen(trials, declaration)
    points = [encoding.features([one.params for one in chosen], epoch) for epoch in epochs]
    known = _known(chosen, epochs, declaration)
    seen = []
    for place, values in enumerate(known):
        there = ~np.isnan(values)
        below = known[place - 1][there] if place else np.zeros(int(there.sum()))
        seen.append(Level(points[place][there], values[there], below))
    model = FidelityGp(seen, encoding.categories, encoding.lengths, ratios=_ratios(epochs), start=memory.thetas)
    memory.thetas = model.thetas
    means, deviations = model.predict(points, known)
    return Beliefs(encoding, epochs, model, chosen, means, deviations)


def propose(beliefs: Beliefs, rng: np.random.Generator, footprints: Footprints | None = None) -> Flat:
    """Choose the configuration whose expected improvement on the best is the largest, among random candidates.

    Near one that runs, where soon more will be known, less is expected. Where limits or a second objective count, by
    what is known of footprints; see front_proposals.py.
    """
    best = np.argsort(front_proposals.ranking(beliefs.means, beliefs.trials, footprints), kind="stable")[:BEST]
    candidates = [front_proposals.draw(beliefs.encoding, rng, footprints) for _ in range(ANYWHERE)]
    candidates += [
        beliefs.encoding.near(beliefs.trials[place].params, scale, rng)
        for place in best
        for scale in SCALES
        for _ in range(NEAR)
    ]
    candidates = front_proposals.within(candidates, footprints)
    expected = front_proposals.expected(
        candidates, beliefs.foretell(candidates), (beliefs.means, beliefs.trials), footprints
    )
    running = [one.params for one in beliefs.trials if one.state == TrialState.RUNNING]
    if running:
        last = beliefs.epochs[-1]
        there, here = beliefs.encoding.features(running, last), beliefs.encoding.features(candidates, last)
        nearest = distances(here, there, beliefs.encoding.categories).sum(axis=0).min(axis=1)
        expected = expected * (1.0 - np.exp(-nearest / RESERVED))
    return candidates[int(np.argmax(expected))]


def levels(declaration: Declaration) -> list[int]:
    """List the epochs at which trials are compared, the last one included.

    Besides the rungs they are the thirds of a training: a trial that is stopped in its last third tells as much of its
    configuration as one that ends. Unheard, the same region would be tried again and again.
    """
    epochs = declaration.epochs
    thirds = {max(1, epochs // 3), max(1, 2 * epochs // 3)}
    return sorted({*rung_epochs(declaration), *thirds, epochs})


def _chosen(trials: Sequence[FrozenTrial], declaration: Declaration) -> list[FrozenTrial]:
    silent = (TrialState.RUNNING, TrialState.PRUNED)  # one that diverged in its first epoch has told something too
    told = [one for one in trials if one.params and (one.intermediate_values or one.state in silent)
            and one.state != TrialState.FAIL and OVER not in one.user_attrs]  # fmt: skip
    if len(told) <= MOST:
        return told
    latest, earlier = told[-LATEST:], told[:-LATEST]
    epochs = levels(declaration)
    objective = declaration.objective

    def place(one: FrozenTrial) -> tuple[int, float]:
        return -sum((one.last_step or 0) >= epoch for epoch in epochs), _value(one, declaration.epochs, objective)

    kept = sorted(earlier, key=place)[: MOST - LATEST]
    return sorted((*kept, *latest), key=lambda one: one.number)


def _known(trials: Sequence[FrozenTrial], epochs: Sequence[int], declaration: Declaration) -> list[Floats]:
    """List the trials' values at each level; NaN where they have not come as far."""
    known = [
        np.array([_value(one, epoch, declaration.objective) if (one.last_step or 0) >= epoch else math.nan
                  for one in trials])
        for epoch in epochs
    ]  # fmt: skip
    lowest = known[0]
    # What ended before the first level, or has no number there, is as bad as the worst.
    for place, one in enumerate(trials):
        if one.state.is_finished() and math.isnan(lowest[place]):
            lowest[place] = math.inf
    for values in known:
        numbers = values[np.isfinite(values)]
        values[np.isinf(values)] = numbers.max() if len(numbers) else 0.0
    return known


def _ratios(epochs: Sequence[int]) -> list[float]:
    return [1.0, *(above / below for below, above in pairwise(epochs))]


def _value(trial: FrozenTrial, epoch: int, objective: Objective) -> float:
    """Give the best until an epoch on the model's scale; infinite where none is a number."""
    return logarithm(cost_at(trial, epoch, objective), objective)
