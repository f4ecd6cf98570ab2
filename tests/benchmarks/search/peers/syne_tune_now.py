"""Syne Tune as it is now: ASHA that stops, with conformal quantile regression (ASHA-CQR) and with KDEs (BOHB)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import Any

from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import ASHACQR, BOHB

from tests.benchmarks.search.peers.syne_tune_space import LOSS, RESOURCE, params_of, space_of, verdict_of
from tests.benchmarks.search.simulate import Job, Task, Verdict, main


class SyneTune:
    """What Syne Tune's tuner asks its scheduler and tells it."""

    def __init__(self, task: Task, *, scheduler: type[Any]) -> None:
        logging.disable(logging.WARNING)
        self._scheduler = scheduler(
            space_of(), metric=LOSS, time_attr=RESOURCE, max_t=task.epochs, random_seed=task.seed
        )
        self._trials: dict[int, Trial] = {}

    def decide(self, _now: float, /) -> Job | None:
        number = len(self._trials)
        told = self._scheduler.suggest()
        if told is None:
            return None
        self._trials[number] = Trial(number, told.config, datetime.now(UTC))
        self._scheduler.on_trial_add(self._trials[number])
        return Job(number, params_of(told.config))

    def report(self, number: int, epoch: int, loss: float, _now: float, /) -> Verdict:
        trial = self._trials[number]
        told = self._scheduler.on_trial_result(trial, {LOSS: loss, RESOURCE: epoch})
        if told != "CONTINUE":  # so it is after the last epoch
            self._scheduler.on_trial_remove(trial)
        return verdict_of(told)


if __name__ == "__main__":
    main({
        "syne tune asha-cqr": partial(SyneTune, scheduler=ASHACQR),
        "syne tune bohb": partial(SyneTune, scheduler=BOHB),
    })  # fmt: skip
