"""Configurations as points that a model can compare, and as what a sampler draws; the space with all of its branches.

Not here: the declaration's syntax (declaration.py); models (fidelity_gp.py).

References
----------
Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", NeurIPS 2022: what Adam does depends
on the learning rate over the square root of the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from mlc_core import DEFAULTS, SCHEDULER_OF, Scheduler, SchedulerName, Value, lr_factors
from search.declaration import Choice, Declaration, Domain, Range
from search.space import distribution

MIDDLE: Final = 0.5  # where a configuration lies that does not have a parameter
_FORETOLD: Final = frozenset({"step_size", "gamma", "t_max"})  # parameters that the learning rate tells of
_OF_SCHEDULE: Final = 3  # features that the learning rate has
_FADED: Final = 1e-4  # share of the learning rate below which nothing is learned any more
_DECADES: Final = math.log(1e3)  # of learning rates that are one apart
_SHORT, _LONG = 0.4, 1.0  # lengths, of a range that is 1 long
_WIDE: Final = 4.0  # ratio of a list's largest to its smallest number from which its logarithms are compared

Flat = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Column:
    """One parameter."""

    key: str
    domain: Domain
    branch: SchedulerName | None  # of the scheduler whose parameter it is; None: every configuration has it

    @property
    def is_category(self) -> bool:
        """Whether two values are the same or not, and never near."""
        return isinstance(self.domain, Choice) and not _are_numbers(self.domain.values)

    def place(self, value: Value) -> float:
        """Put a value between 0 and 1, and a category at its number; a value of an earlier, narrower space outside."""
        match self.domain:
            case Choice(values=values) if self.is_category:
                return float(values.index(value)) if value in values else -1.0
            case Choice(values=values):
                scale, low, high = _scale(values)
                return (scale(float(value)) - low) / ((high - low) or 1.0)
            case Range(low=low, high=high, log=True):
                return math.log(float(value) / low) / (math.log(high / low) or 1.0)
            case Range(low=low, high=high):
                return (float(value) - low) / ((high - low) or 1.0)

    def value(self, place: float) -> Value:
        """Find the value at a place between 0 and 1; of a list the nearest."""
        match self.domain:
            case Choice(values=values):
                return min(values, key=lambda one: abs(self.place(one) - place))
            case Range(low=low, high=high, log=log, step=step):
                exact = low * (high / low) ** place if log else low + place * (high - low)
                if isinstance(DEFAULTS[self.key], int):
                    step = step or 1
                if step is not None:
                    exact = low + step * round((exact - low) / step)
                exact = min(high, max(low, exact))
                return int(exact) if isinstance(DEFAULTS[self.key], int) else exact

    def draw(self, rng: np.random.Generator) -> Value:
        """Draw any value, each as likely as Optuna's random sampler has it."""
        if isinstance(self.domain, Choice):
            return self.domain.values[int(rng.integers(len(self.domain.values)))]
        if isinstance(DEFAULTS[self.key], int) and not self.domain.log:
            low, high, step = int(self.domain.low), int(self.domain.high), int(self.domain.step or 1)
            return low + step * int(rng.integers((high - low) // step + 1))
        return self.value(float(rng.random()))

    def nearest(self, value: Value) -> Value:
        """Find what the space has next to a value; of a list of categories that lacks it, the first."""
        match self.domain:
            case Choice(values=values) if self.is_category:
                return value if value in values else values[0]
            case Choice(values=values):
                return min(values, key=lambda one: abs(float(one) - float(value)))
            case Range(low=low, high=high):
                return self.value(self.place(min(high, max(low, float(value)))))

    def near(self, value: Value, scale: float, rng: np.random.Generator) -> Value:
        """Draw a value near another one: a step of about so much of the range, for a category now and then any."""
        if self.is_category:
            return self.draw(rng) if rng.random() < 2 * scale else value
        if isinstance(self.domain, Choice):
            order = sorted(self.domain.values, key=self.place)
            at = order.index(value) if value in order else 0
            return order[min(len(order) - 1, max(0, at + int(rng.integers(-1, 2))))]
        return self.value(min(1.0, max(0.0, self.place(value) + scale * float(rng.normal()))))


@dataclass(frozen=True, slots=True)
class Encoding:
    """A study's space, every branch included."""

    columns: tuple[Column, ...]
    fixed: Mapping[str, Value]  # what no trial draws

    @classmethod
    def of(cls, declaration: Declaration) -> Encoding:
        """List what a study's trials draw."""
        common = [Column(key, domain, None) for key, domain in declaration.space.items()]
        branches = [
            Column(key, domain, name) for name, branch in declaration.branches.items() for key, domain in branch.items()
        ]
        return cls((*common, *branches), {**DEFAULTS, **declaration.fixed})

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """All parameters as Optuna spells them."""
        return {column.key: distribution(column.key, column.domain) for column in self.columns}

    @property
    def categories(self) -> NDArray[np.bool_]:
        """Which features of `features` are the same or not, and never near."""
        own = [column.is_category for column in self._compared]
        return np.array([*own, *([False] * _OF_SCHEDULE)])

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Over which distance each feature is expected to matter: the learning rate over less than any other."""
        own = [_SHORT if column.key == "lr" else _LONG for column in self._compared]
        return np.array([*own, *([_SHORT] * _OF_SCHEDULE)])

    def features(self, configurations: Sequence[Mapping[str, Value]], epoch: int) -> NDArray[np.float64]:
        """Make what a model compares of configurations that have trained until an epoch.

        What the scheduler makes of the learning rate until then stands for the scheduler's own parameters, so that
        one model is told by all schedulers together; those of a plateau, which the losses decide about, stay.

        Parameters
        ----------
        configurations : sequence of mapping
            Flat, with what the study fixes.

        Returns
        -------
        array, (n, features)
            Where a configuration has no value, another scheduler's, it lies in the middle.
        """
        places = [
            [column.place(flat[column.key]) if column.key in flat else MIDDLE for column in self._compared]
            for flat in configurations
        ]
        made = [_of_schedule({**self.fixed, **flat}, epoch) for flat in configurations]
        return np.array([[*one, *more] for one, more in zip(places, made, strict=True)], dtype=np.float64)

    def draw(self, rng: np.random.Generator) -> Flat:
        """Draw a configuration anywhere in the space."""
        drawn: Flat = {column.key: column.draw(rng) for column in self.columns if column.branch is None}
        return drawn | {column.key: column.draw(rng) for column in self._branch_of(drawn)}

    def near_default(self) -> Flat:
        """Give the default configuration; where the space has no such value, the nearest, or a list's first."""
        drawn: Flat = {column.key: column.nearest(DEFAULTS[column.key]) for column in self.columns if not column.branch}
        return drawn | {column.key: column.nearest(DEFAULTS[column.key]) for column in self._branch_of(drawn)}

    def near(self, flat: Mapping[str, Value], scale: float, rng: np.random.Generator) -> Flat:
        """Draw a configuration near another one; of another scheduler, its own parameters are drawn anywhere."""
        drawn: Flat = {}
        for column in self.columns:
            if column.branch is None:
                known = flat.get(column.key)
                stay = known is not None and rng.random() < 0.4
                drawn[column.key] = (
                    column.draw(rng) if known is None else known if stay else column.near(known, scale, rng)
                )
        for column in self._branch_of(drawn):
            known = flat.get(column.key)
            drawn[column.key] = column.draw(rng) if known is None else column.near(known, scale, rng)
        return drawn

    @property
    def _compared(self) -> list[Column]:
        return [column for column in self.columns if column.key not in _FORETOLD]

    def _branch_of(self, drawn: Mapping[str, Value]) -> list[Column]:
        return [column for column in self.columns if column.branch is not None and column.branch == drawn["scheduler"]]


def _of_schedule(flat: Mapping[str, Value], epoch: int) -> list[float]:
    """Describe the learning rate until an epoch: its mean, what it came to, and what it is to a batch of this size."""
    kind: Any = SCHEDULER_OF[cast("SchedulerName", flat["scheduler"])]  # each takes its own, of other types
    mean, end = _faded(kind(**{key: flat[key] for key in kind.__dataclass_fields__}), epoch)
    lr = math.log(cast("float", flat["lr"]))
    per_batch = lr - 0.5 * math.log(cast("float", flat["batch_size"]))
    return [(lr + mean) / _DECADES, (lr + end) / _DECADES, per_batch / _DECADES]


@lru_cache(maxsize=10_000)
def _faded(scheduler: Scheduler, epoch: int) -> tuple[float, float]:
    """Tell the logarithm of what is left of the learning rate: in the mean until an epoch, and at its end."""
    factors = lr_factors(scheduler, epoch)
    late = factors[-max(1, epoch // 3) :]
    mean, end = (math.log(max(_FADED, sum(some) / len(some))) for some in (factors, late))
    return mean, end


@lru_cache(maxsize=100)
def _are_numbers(values: tuple[Value, ...]) -> bool:
    return len(values) > 2 and not any(isinstance(value, str) for value in values)


@lru_cache(maxsize=100)
def _scale(values: tuple[Value, ...]) -> tuple[Callable[[float], float], float, float]:
    """Choose the scale on which a list of numbers is compared, with the places of the smallest and the largest."""
    low, high = (bound(cast("Sequence[float]", values)) for bound in (min, max))
    scale = math.log if low > 0 and high / low >= _WIDE else float
    return scale, scale(low), scale(high)
