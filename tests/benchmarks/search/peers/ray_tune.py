"""Ray Tune's ASHA over random search, and its BOHB: its own searchers and schedulers, without a cluster.

What its controller does around them is done here in the controller's order: a trial waits to be run whenever one can,
the scheduler chooses among it and the paused ones, and it hears of a result before the searcher does.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

warnings.filterwarnings("ignore")  # of what its dependencies will change
from ConfigSpace import ConfigurationSpace, EqualsCondition  # noqa: E402
from ConfigSpace.hyperparameters import (  # noqa: E402
    CategoricalHyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from ray import tune  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, HyperBandForBOHB, TrialScheduler  # noqa: E402
from ray.tune.search.bohb import TuneBOHB  # noqa: E402
from ray.tune.search.variant_generator import generate_variants  # noqa: E402

from tests.benchmarks.search.peers.space import Choice, Domain, Range, read  # noqa: E402
from tests.benchmarks.search.simulate import GO, PAUSE, STOP, Job, Task, Verdict, main  # noqa: E402

LOSS: Final = "val_loss"
RESOURCE: Final = "training_iteration"
VERDICTS: Final[Mapping[str, Verdict]] = {
    TrialScheduler.CONTINUE: GO,
    TrialScheduler.PAUSE: PAUSE,
    TrialScheduler.STOP: STOP,
}


class RandomSearcher:
    """What Tune draws where no searcher is named; it learns nothing."""

    def __init__(self, seed: int) -> None:
        self._space = {key: _tune_domain(domain) for key, domain in read().flat.items()}
        self._random = np.random.default_rng(seed)

    def suggest(self, _trial: str) -> dict[str, Any]:
        ((_, spec),) = generate_variants({"config": self._space}, random_state=self._random)
        config: dict[str, Any] = spec["config"]
        return config

    def on_trial_result(self, _trial: str, _result: Mapping[str, Any]) -> None: ...
    def on_trial_complete(self, _trial: str, result: Mapping[str, Any] | None = None) -> None: ...


class RayTune:
    """What a scheduler sees of Tune's controller, and what the simulation asks it."""

    def __init__(self, scheduler: Any, searcher: Any) -> None:
        logging.disable(logging.WARNING)
        self._scheduler, self.searcher = scheduler, searcher
        self._trials: list[Trial] = []

    @property
    def search_alg(self) -> RayTune:
        return self  # of which schedulers take the searcher

    def get_trials(self) -> list[Trial]:
        return self._trials

    def stop_trial(self, trial: Trial) -> None:
        if trial.status == Trial.TERMINATED:
            return
        if trial.status == Trial.RUNNING:
            self._scheduler.on_trial_complete(self, trial, trial.last_result)
            self.searcher.on_trial_complete(trial.trial_id, result=trial.last_result)
        else:
            self._scheduler.on_trial_remove(self, trial)
            self.searcher.on_trial_complete(trial.trial_id)
        _set_status(trial, Trial.TERMINATED)

    def decide(self, _now: float, /) -> Job | None:
        if not any(trial.status == Trial.PENDING for trial in self._trials):
            self._add()
        trial = self._scheduler.choose_trial_to_run(self)
        if trial is None:
            return None
        _set_status(trial, Trial.RUNNING)
        return Job(int(trial.trial_id), trial.config)

    def report(self, number: int, epoch: int, loss: float, _now: float, /) -> Verdict:
        trial = self._trials[number]
        result = {LOSS: loss, RESOURCE: epoch}
        decision = self._scheduler.on_trial_result(self, trial, result)
        if decision != TrialScheduler.STOP:
            self.searcher.on_trial_result(trial.trial_id, result)
        trial.update_last_result(result)  # type: ignore[no-untyped-call]
        if decision == TrialScheduler.STOP:
            self.stop_trial(trial)
        elif decision == TrialScheduler.PAUSE:
            _set_status(trial, Trial.PAUSED)
        return VERDICTS[decision]

    def _add(self) -> None:
        name = str(len(self._trials))
        config = self.searcher.suggest(name)
        if config is None:
            return
        trial = Trial("surrogate", config=config, trial_id=name, stub=True)
        self._trials.append(trial)
        self._scheduler.on_trial_add(self, trial)


def _set_status(trial: Trial, status: str) -> None:
    trial.set_status(status)  # type: ignore[no-untyped-call]


def asha(task: Task) -> RayTune:
    return RayTune(ASHAScheduler(RESOURCE, LOSS, "min", max_t=task.epochs), RandomSearcher(task.seed))


def bohb(task: Task) -> RayTune:
    searcher = TuneBOHB(_conditional(task.seed), metric=LOSS, mode="min")
    return RayTune(HyperBandForBOHB(RESOURCE, LOSS, "min", max_t=task.epochs), searcher)


def _tune_domain(domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    if domain.whole:
        return tune.randint(int(domain.low), int(domain.high) + 1)
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _conditional(seed: int) -> ConfigurationSpace:
    """Give the space with its branches, as BOHB's models know conditions."""
    declared, space = read(), ConfigurationSpace(seed=seed)
    common = {key: _hyperparameter(key, domain) for key, domain in declared.common.items()}
    space.add(list(common.values()))
    for scheduler, branch in declared.branches.items():
        for key, domain in branch.items():
            parameter = _hyperparameter(key, domain)
            space.add(parameter)
            space.add(EqualsCondition(parameter, common["scheduler"], scheduler))
    return space


def _hyperparameter(key: str, domain: Choice | Range) -> Any:
    if isinstance(domain, Choice):
        return CategoricalHyperparameter(key, choices=list(domain.values))
    if domain.whole:
        return UniformIntegerHyperparameter(key, int(domain.low), int(domain.high))
    return UniformFloatHyperparameter(key, domain.low, domain.high, log=domain.log)


if __name__ == "__main__":
    main({"ray tune asha": asha, "ray tune bohb": bohb})
