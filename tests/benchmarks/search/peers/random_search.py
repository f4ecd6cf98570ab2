"""Random search: full trials, drawn from the space without looking back. No package is needed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.benchmarks.search.peers.space import Choice, Domain, read
from tests.benchmarks.search.simulate import GO, Job, Task, Verdict, main


class RandomSearch:
    """Draws; never stops a trial."""

    def __init__(self, task: Task) -> None:
        self._space = read()
        self._rng = np.random.default_rng(task.seed)
        self._trials = 0

    def decide(self, _now: float, /) -> Job:
        params = {key: self._draw(domain) for key, domain in self._space.common.items()}
        params |= {key: self._draw(domain) for key, domain in self._space.branches[params["scheduler"]].items()}
        self._trials += 1
        return Job(self._trials - 1, params)

    def report(self, _trial: int, _epoch: int, _loss: float, _now: float, /) -> Verdict:
        return GO

    def _draw(self, domain: Domain) -> Any:
        if isinstance(domain, Choice):
            return domain.values[self._rng.integers(len(domain.values))]
        if domain.whole:
            return int(self._rng.integers(int(domain.low), int(domain.high) + 1))
        if domain.log:
            return math.exp(self._rng.uniform(math.log(domain.low), math.log(domain.high)))
        return float(self._rng.uniform(domain.low, domain.high))


if __name__ == "__main__":
    main({"random": RandomSearch})
