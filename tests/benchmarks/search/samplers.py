"""Samplers compared within our own search: the best loss of so many trials, with everything else as it is by default.

``python -m tests.benchmarks.search.samplers`` simulates studies of 25, 50 and 100 trials on 1, 4 and 16 workers, with
pauses and promotions, and prints the median over seeds of the best loss, with its quartiles. Some minutes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from statistics import median, quantiles
from typing import Final

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
from rich.console import Console
from rich.table import Table

from search.declaration import built_in
from search.options import Curves, Gp, Qmc, Random, Sampler, Tpe
from tests.benchmarks.search.ours import Ours
from tests.benchmarks.search.simulate import Task, simulate
from tests.benchmarks.search.surrogate import Surrogate


class CmaEs(Ours):
    """CMA-ES for the numbers that all trials have, TPE for choices and for what belongs to one scheduler."""

    def _sampler(self, number: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            rest = TPESampler(seed=number, multivariate=True, group=True, constant_liar=True)
        # Of pruned trials it would count too, but falls over those with another scheduler's parameters.
        return CmaEsSampler(seed=number, independent_sampler=rest, warn_independent_sampling=False)


SAMPLERS: Final[Mapping[str, Sampler | type[Ours]]] = {
    "curves": Curves(),
    "tpe": Tpe(),  # multivariate, grouped, constant liar
    "auto": Tpe(group=False),  # to which OptunaHub's AutoSampler comes where there are choices or branches
    "tpe, alone": Tpe(multivariate=False, group=False, constant_liar=False),  # each parameter by itself, as Optuna's
    "cma-es": CmaEs,
    "gp": Gp(),
    "qmc": Qmc(),
    "random": Random(),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated study."""

    sampler: str
    trials: int
    workers: int
    seed: int

    def best(self) -> float:
        """Run it: the lowest loss that any trial reported."""
        surrogate = _surrogate()
        chosen, study = SAMPLERS[self.sampler], built_in("default")
        kind, study = (chosen, study) if isinstance(chosen, type) else (Ours, replace(study, sampler=chosen))
        task = Task(self.seed, self.workers, surrogate.epochs)
        run = simulate(self.sampler, kind(task, study=study, trials=self.trials), task, surrogate, horizon=float("inf"))
        return run.best[-1][1]


@cache
def _surrogate() -> Surrogate:
    return Surrogate()  # a second: once for all cases of a process


def cases(samplers: Sequence[str], trials: Sequence[int], workers: Sequence[int], seeds: int) -> Iterator[Case]:
    """List what is compared."""
    for sampler in samplers:
        for budget in trials:
            for width in workers:
                yield from (Case(sampler, budget, width, seed) for seed in range(seeds))


def main() -> None:
    """Print a line a sampler."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    asked.add_argument("--trials", type=int, nargs="+", default=[25, 50, 100])
    asked.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    asked.add_argument("--seeds", type=int, default=10)
    asked.add_argument("--processes", type=int, default=2)
    chosen = asked.parse_args()
    wanted = list(cases(chosen.samplers, chosen.trials, chosen.workers, chosen.seeds))
    with ProcessPoolExecutor(chosen.processes) as pool:
        found = dict(zip(wanted, pool.map(Case.best, wanted), strict=True))
    for width in chosen.workers:
        table = Table("sampler", *(f"{budget} trials" for budget in chosen.trials), title=f"{width} workers")
        for sampler in chosen.samplers:
            table.add_row(sampler, *(_told(found, sampler, budget, width) for budget in chosen.trials))
        Console().print(table)


def _told(found: Mapping[Case, float], sampler: str, trials: int, workers: int) -> str:
    losses = [
        loss for case, loss in found.items() if (case.sampler, case.trials, case.workers) == (sampler, trials, workers)
    ]
    if len(losses) < 2:
        return f"{losses[0]:.4f}"
    low, _, high = quantiles(losses, n=4, method="inclusive")
    return f"{median(losses):.4f} ({low:.4f} to {high:.4f})"


if __name__ == "__main__":
    main()
