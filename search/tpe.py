"""Optuna's TPE, drawing the same from the same trials, without working through all of them for each parameter.

Not here: its options (options.py), and who makes it (strategy.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import default_gamma  # private: pyproject.toml pins optuna ~=5.0.0 for this
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.trials import paused_at

_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)

Space = Mapping[str, BaseDistribution]


class History:
    """What TPE needs of a study's finished trials, which never change: read once each, kept as columns.

    A study has one objective, and no constraints.
    """

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._kinds: dict[frozenset[str], tuple[int, Space]] = {}  # by parameters, the first trial that has them
        self.numbers = np.empty(0, np.int64)
        self._ranks = np.empty((3, 0))  # rows to sort by: pruned or not, minus the last step of pruned ones, the value
        self._params: dict[str, NDArray[np.float64]] = {}  # Optuna's internal values; NaN where a trial has none

    def __len__(self) -> int:
        return len(self.numbers)

    def learn(self, trials: Iterable[FrozenTrial], direction: StudyDirection) -> None:
        """Take in the finished ones among these trials that are not known yet."""
        self._take([one for one in trials if one.state in _FINISHED and one.number not in self._known], direction)

    def beside(self, paused: Sequence[FrozenTrial], direction: StudyDirection) -> History:
        """Make another history that counts these as pruned where they are; they may go on, so this one must not."""
        if not paused:
            return self
        other = copy(self)
        other._known, other._kinds, other._params = set(self._known), dict(self._kinds), dict(self._params)
        other._take(paused, direction)
        return other

    def _take(self, new: Sequence[FrozenTrial], direction: StudyDirection) -> None:
        if not new:
            return
        sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
        known, self.numbers = len(self), np.append(self.numbers, [trial.number for trial in new])
        self._ranks = np.append(self._ranks, np.array([_rank(trial, sign) for trial in new]).T, axis=1)
        self._known.update(trial.number for trial in new)
        for name in {name for trial in new for name in trial.params}.union(self._params):
            added = [_internal(trial, name) for trial in new]
            self._params[name] = np.append(self._params.get(name, np.full(known, np.nan)), added)
        for trial in new:
            names = frozenset(trial.distributions)
            if names not in self._kinds or trial.number < self._kinds[names][0]:
                self._kinds[names] = (trial.number, trial.distributions)

    def groups(self) -> _SearchSpaceGroup:
        """Divide the parameters into groups that occur together; in the order in which Optuna would find them."""
        group = _SearchSpaceGroup()
        for _, distributions in sorted(self._kinds.values(), key=lambda kind: kind[0]):
            group.add_distributions(dict(distributions))
        return group

    def split(self, best: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the rows of that many best trials, and of the others; both by the trials' numbers."""
        order = np.lexsort((self.numbers, *self._ranks[::-1]))
        below, above = order[:best], order[best:]
        return below[np.argsort(self.numbers[below])], above[np.argsort(self.numbers[above])]

    def having(self, space: Space, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Keep the rows whose trial has all of these parameters: their trials' numbers, and a column a parameter."""
        columns = {name: self._params.get(name, np.full(len(self), np.nan))[rows] for name in space}
        kept = ~np.any([np.isnan(column) for column in columns.values()], axis=0)
        return self.numbers[rows[kept]], {name: column[kept] for name, column in columns.items()}


class Tpe(TPESampler):
    """TPESampler for one objective without constraints.

    Parameters
    ----------
    history : History
        Of the study that it samples for; the next trial's sampler takes it over.
    options
        TPESampler's.

    Notes
    -----
    All that a trial draws, it draws from the study as it was at the first draw; Optuna looks again for each
    group of parameters, and may meanwhile see more of the others that run.
    """

    def __init__(self, history: History, **options: Any) -> None:  # noqa: ANN401 - TPESampler's own
        super().__init__(**options)
        self.history = self._seen = history
        self._running: list[FrozenTrial] = []
        self._below = self._above = np.empty(0, np.int64)  # rows of the history: the good trials, and the rest

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Look at the study's trials, for everything that this trial draws."""
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        self.history.learn(trials, study.direction)
        self._seen = self.history.beside([one for one in trials if paused_at(one)], study.direction)
        self._below, self._above = self._seen.split(default_gamma(len(self._seen)))
        self._running = [one for one in trials if one.state == TrialState.RUNNING and one.number != trial.number]
        if not self._group:
            return super().infer_relative_search_space(study, trial)
        self._search_space_group = self._seen.groups()
        spaces = self._search_space_group.search_spaces
        return {name: one for space in spaces for name, one in sorted(space.items()) if not one.single()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - as in TPESampler
        """Draw one parameter on its own."""
        if len(self._seen) < self._n_startup_trials:
            return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        enough = len(self._seen) >= self._n_startup_trials
        return self._sample(study, trial, search_space) if search_space and enough else {}

    def _sample(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 - as in TPESampler
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        _, good = self._seen.having(search_space, self._below)
        numbers, rest = self._seen.having(search_space, self._above)
        if self._constant_liar:
            rest = self._with_running(study, search_space, numbers, rest)
        best, worse = (
            self._parzen_estimator_cls(each, search_space, self._parzen_estimator_parameters) for each in (good, rest)
        )
        drawn = best.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(drawn, self._compute_acquisition_func(drawn, best, worse))
        return {name: one.to_external_repr(chosen[name]) for name, one in search_space.items()}

    def _with_running(
        self, study: Study, space: Space, numbers: NDArray[np.int64], columns: dict[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        params = {one.number: self._get_params(one, study) for one in self._running}
        params = {number: each for number, each in params.items() if space.keys() <= each.keys()}
        order = np.argsort(np.append(numbers, np.array(list(params), np.int64)))
        return {
            name: np.append(columns[name], [one.to_internal_repr(each[name]) for each in params.values()])[order]
            for name, one in space.items()
        }


class Weighing(TPESampler):
    """Optuna's TPE for two objectives or constraints.

    Of two objectives it ranks no trial that was pruned, but fails at the first one that has reports: so those that are
    within the limits are kept from it. Those over a limit it knows what to do with.
    """

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return super()._sample(_without_pruned(study) if len(study.directions) > 1 else study, trial, search_space)


def _without_pruned(study: Study) -> Study:
    """Make a study of the same trials, but for those that were pruned within the limits."""
    seen = copy(study)

    def trials(*args: Any, **kwargs: Any) -> list[FrozenTrial]:  # noqa: ANN401 - as Study's own
        return [
            one
            for one in study._get_trials(*args, **kwargs)
            if one.state != TrialState.PRUNED or any(value > 0 for value in one.constraints.values())
        ]

    seen._get_trials = trials  # type: ignore[method-assign]
    return seen


def _rank(trial: FrozenTrial, sign: float) -> tuple[float, float, float]:
    """Sort as Optuna does: complete trials by value; behind them pruned ones by last step, later first, and value."""
    if trial.state == TrialState.COMPLETE:
        return 0.0, 0.0, sign * cast("float", trial.value)
    if not trial.intermediate_values:
        return 1.0, 1.0, 0.0
    step, value = max(trial.intermediate_values.items())
    return 1.0, -float(step), math.inf if math.isnan(value) else sign * value


def _internal(trial: FrozenTrial, name: str) -> float:
    return trial.distributions[name].to_internal_repr(trial.params[name]) if name in trial.params else math.nan
