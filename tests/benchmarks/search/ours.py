"""mlc-search's own sampler and promotions under the simulation: its code decides, nothing is imitated.

What a worker's loop does between claims and reports is done here over Optuna's storage in memory: a paused trial waits
with the same attribute, `search.promotion` plans, and `search.strategy` makes the sampler of each trial.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from search.declaration import Declaration, built_in
from search.extrapolation import forecast
from search.promotion import goes_on, plan, rung_epochs
from search.space import suggest
from search.strategy import sampler
from search.trials import PAUSED
from tests.benchmarks.search.simulate import GO, PAUSE, STOP, Job, Task, Verdict, main


class Ours:
    """The default study, or a variation of it; of so many trials, if they are limited."""

    def __init__(self, task: Task, *, study: Declaration, trials: float = math.inf) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._declaration = replace(study, seed=task.seed, epochs=task.epochs)
        self._study = optuna.create_study(study_name=f"ours-{task.seed}")
        self._storage = self._study._storage
        self._running: dict[int, Trial] = {}
        self._budget = trials

    def decide(self, _now: float, /) -> Job | None:
        trials = self._study.get_trials(deepcopy=False)
        left = self._budget - len(trials)
        decided = plan(trials, self._declaration, left=left)
        if decided is not None:
            for trial_id in decided.give_up:
                self._storage.set_trial_state_values(trial_id, TrialState.PRUNED)
            for trial_id in decided.promote or (() if left > 0 or self._running else decided.last):
                self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
                trial = Trial(self._study, trial_id)
                self._running[trial.number] = trial
                return Job(trial.number, trial.params)
        if left <= 0:
            return None
        number = len(trials)
        self._study.sampler = self._sampler(number)
        # Study.ask would take a paused trial for an enqueued one.
        trial = Trial(self._study, self._storage.create_new_trial(self._study._study_id))
        params = suggest(trial, self._declaration)
        self._running[number] = trial
        return Job(number, params)

    def _sampler(self, number: int) -> BaseSampler:
        return sampler(self._declaration, number, earlier=self._study.sampler)

    def report(self, number: int, epoch: int, loss: float, _now: float, /) -> Verdict:
        trial = self._running[number]
        trial.report(loss, epoch)
        if epoch == self._declaration.epochs:
            value = min(self._storage.get_trial(trial._trial_id).intermediate_values.values())
            self._study.tell(self._running.pop(number), value)
            return GO
        if epoch in rung_epochs(self._declaration) and not goes_on(
            self._study.get_trials(deepcopy=False), number, epoch, self._declaration
        ):
            self._storage.set_trial_system_attr(trial._trial_id, PAUSED, epoch)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            del self._running[number]
            return PAUSE
        foretold = forecast(self._study.get_trials(deepcopy=False), number, self._declaration)
        if getattr(self._declaration.pruner, "extrapolate", False) and foretold is not None and foretold.hopeless:
            self._study.tell(self._running.pop(number), state=TrialState.PRUNED)
            return STOP
        return GO


if __name__ == "__main__":
    main({"mlc-search": partial(Ours, study=built_in("default"))})
