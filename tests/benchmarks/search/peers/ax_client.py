"""Ax by its client: its own choice of models, with and without its own choice of early stopping."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

warnings.filterwarnings("ignore")  # of what its dependencies will change
import torch  # noqa: E402
from ax.api.client import Client  # noqa: E402
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig  # noqa: E402
from ax.early_stopping.dispatch import get_default_ess_or_none  # noqa: E402

from tests.benchmarks.search.peers.space import Choice, Domain, read  # noqa: E402
from tests.benchmarks.search.simulate import GO, STOP, Job, Task, Verdict, main  # noqa: E402

LOSS: Final = "val_loss"


class Ax:
    """The loop of Ax's documentation, by ask and tell."""

    def __init__(self, task: Task, *, stop: bool) -> None:
        logging.disable(logging.WARNING)
        torch.manual_seed(task.seed)
        self._epochs, self._stop = task.epochs, stop
        self._client = Client(random_seed=task.seed)
        self._client.configure_experiment(_parameters())
        self._client.configure_optimization(f"-{LOSS}")
        self._client.configure_generation_strategy(initialization_random_seed=task.seed)
        if stop:
            strategy = get_default_ess_or_none(self._client._experiment)
            if strategy is None:
                raise RuntimeError("This release of Ax has no early stopping for one objective by itself.")
            self._client.set_early_stopping_strategy(strategy)

    def decide(self, _now: float, /) -> Job | None:
        told = self._client.get_next_trials(max_trials=1)
        return next((Job(number, params) for number, params in told.items()), None)

    def report(self, number: int, epoch: int, loss: float, _now: float, /) -> Verdict:
        self._client.attach_data(number, {LOSS: loss}, progression=epoch)
        if epoch == self._epochs:
            self._client.complete_trial(number)
        elif self._stop and self._client.should_stop_trial_early(number):
            self._client.mark_trial_early_stopped(number)
            return STOP
        return GO


def _parameters() -> Sequence[RangeParameterConfig | ChoiceParameterConfig]:
    """Give the space with its branches, which Ax calls dependent parameters."""
    declared = read()
    branches = {name: list(branch) for name, branch in declared.branches.items()}
    return [
        _parameter(key, domain, dependent=branches if key == "scheduler" else None)
        for key, domain in declared.flat.items()
    ]


def _parameter(
    key: str, domain: Domain, *, dependent: dict[Any, list[str]] | None
) -> RangeParameterConfig | ChoiceParameterConfig:
    if isinstance(domain, Choice):
        kind = "int" if isinstance(domain.values[0], int) else "str"
        return ChoiceParameterConfig(key, list(domain.values), kind, dependent_parameters=dependent)
    kind = "int" if domain.whole else "float"
    return RangeParameterConfig(key, (domain.low, domain.high), kind, scaling="log" if domain.log else "linear")


if __name__ == "__main__":
    main({"ax": partial(Ax, stop=False), "ax + early stopping": partial(Ax, stop=True)})
