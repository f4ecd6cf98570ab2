"""Syne Tune with pause and promotion: ASHA, MOBSTER and Hyper-Tune, which its releases had until 0.14."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import Any

from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.legacy_baselines import ASHA, MOBSTER, HyperTune

from tests.benchmarks.search.peers.syne_tune_space import FULL, LOSS, RESOURCE, params_of, space_of, verdict_of
from tests.benchmarks.search.simulate import Job, Task, Verdict, main


class SyneTune:
    """What Syne Tune's tuner asks its scheduler and tells it."""

    def __init__(self, task: Task, *, scheduler: type[Any], brackets: int = 1) -> None:
        logging.disable(logging.WARNING)
        self._epochs = task.epochs
        # As its documentation advises for promotion: the length in the configuration, by which trials end at rungs.
        self._scheduler = scheduler(
            space_of() | {FULL: task.epochs},
            metric=LOSS,
            mode="min",
            resource_attr=RESOURCE,
            max_resource_attr=FULL,
            type="promotion",
            brackets=brackets,
            random_seed=task.seed,
            search_options={"debug_log": False},
        )
        self._trials: dict[int, Trial] = {}

    def decide(self, _now: float, /) -> Job | None:
        number = len(self._trials)
        told = self._scheduler.suggest(number)
        if told is None:
            return None
        if told.spawn_new_trial_id:
            self._trials[number] = Trial(number, told.config, datetime.now(UTC))
            self._scheduler.on_trial_add(self._trials[number])
        else:
            number = int(told.checkpoint_trial_id)
            if told.config is not None:
                self._trials[number].config = told.config
        return Job(number, params_of(self._trials[number].config))

    def report(self, number: int, epoch: int, loss: float, _now: float, /) -> Verdict:
        trial, result = self._trials[number], {LOSS: loss, RESOURCE: epoch}
        told = self._scheduler.on_trial_result(trial, result)
        if told != "CONTINUE":
            self._scheduler.on_trial_remove(trial)
        if epoch == self._epochs:
            self._scheduler.on_trial_complete(trial, result)
        return verdict_of(told)


if __name__ == "__main__":
    main({
        "syne tune asha": partial(SyneTune, scheduler=ASHA),
        "syne tune mobster": partial(SyneTune, scheduler=MOBSTER),
        # As many brackets as its authors' comparison.
        "syne tune hyper-tune": partial(SyneTune, scheduler=HyperTune, brackets=4),
    })  # fmt: skip
