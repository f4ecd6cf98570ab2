"""Optuna as its documentation uses it: TPE with its defaults, without a pruner and with Hyperband's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.trial import Trial, TrialState

from tests.benchmarks.search.peers.space import Choice, Domain, read
from tests.benchmarks.search.simulate import GO, STOP, Job, Task, Verdict, main


class OptunaTpe:
    """What ``study.optimize`` does, by ask and tell: a trial's value is its best epoch, as that of a fit is."""

    def __init__(self, task: Task, *, prune: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = read()
        self._epochs = task.epochs
        pruner: BasePruner = NopPruner()
        if prune:
            pruner = HyperbandPruner(min_resource=1, max_resource=task.epochs, reduction_factor=3)
        sampler = optuna.samplers.TPESampler(seed=task.seed)
        # A trial's bracket comes from the study's name.
        self._study = optuna.create_study(study_name=f"study-{task.seed}", sampler=sampler, pruner=pruner)
        self._running: dict[int, Trial] = {}
        self._best: dict[int, float] = {}

    def decide(self, _now: float, /) -> Job:
        trial = self._study.ask()
        self._running[trial.number] = trial
        params = _suggest(trial, self._space.common)
        return Job(trial.number, params | _suggest(trial, self._space.branches[params["scheduler"]]))

    def report(self, number: int, epoch: int, loss: float, _now: float, /) -> Verdict:
        trial = self._running[number]
        self._best[number] = min(loss, self._best.get(number, loss))
        trial.report(loss, epoch - 1)  # the documentation counts steps from 0
        if trial.should_prune():
            self._study.tell(self._running.pop(number), state=TrialState.PRUNED)
            return STOP
        if epoch == self._epochs:
            self._study.tell(self._running.pop(number), self._best[number])
        return GO


def _suggest(trial: Trial, domains: Mapping[str, Domain]) -> dict[str, Any]:
    return {key: _suggest_one(trial, key, domain) for key, domain in domains.items()}


def _suggest_one(trial: Trial, key: str, domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(key, domain.values)
    if domain.whole:
        return trial.suggest_int(key, int(domain.low), int(domain.high))
    return trial.suggest_float(key, domain.low, domain.high, log=domain.log)


if __name__ == "__main__":
    main({
        "optuna tpe": partial(OptunaTpe, prune=False),
        "optuna tpe + hyperband": partial(OptunaTpe, prune=True),
    })  # fmt: skip
