"""The samplers and pruners that a study may name, each with its options, their defaults and bounds.

Not here: Optuna's own objects (strategy.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


def _option(default: object, low: float = 0, high: float = 1_000_000) -> Any:  # noqa: ANN401 - a dataclass field
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Tpe:
    """Tree-structured Parzen estimator (Bergstra et al. 2011)."""

    startup: int = _option(10, 0)  # trials drawn at random first
    multivariate: bool = _option(default=True)
    group: bool = _option(default=True)
    constant_liar: bool = _option(default=True)


@dataclass(frozen=True, slots=True)
class Curves:
    """Gaussian process over configurations and epochs, with expected improvement at full length."""

    startup: int = _option(8, 1)  # trials drawn at random first


@dataclass(frozen=True, slots=True)
class Gp:
    """Gaussian process with expected improvement."""

    startup: int = _option(10, 0)  # trials drawn at random first


@dataclass(frozen=True, slots=True)
class Qmc:
    """Quasi-Monte Carlo: a scrambled Sobol sequence."""


@dataclass(frozen=True, slots=True)
class Random:
    """Independent draws."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Successive halving by pauses (Li et al. 2020): only a rung's best go on, also later, from their checkpoint."""

    min_resource: int = _option(1, 1)  # epochs before the first pause
    reduction_factor: int = _option(7, 2)  # of this many trials that came as far one goes on
    extrapolate: bool = _option(default=True)  # stop what will not reach the best, as its curve tells
    paused_mb: int = _option(4_000, 0)  # checkpoints of paused trials, all together; one without begins again


@dataclass(frozen=True, slots=True)
class Hyperband:
    """Hyperband over epochs (Li et al. 2018); at a rung all that came as far are compared, of whatever bracket."""

    min_resource: int = _option(1, 1)  # epochs before the first decision
    reduction_factor: int = _option(4, 2)


@dataclass(frozen=True, slots=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020)."""

    min_resource: int = _option(1, 1)  # epochs before the first decision
    reduction_factor: int = _option(4, 2)
    min_early_stopping_rate: int = _option(0, 0)


@dataclass(frozen=True, slots=True)
class Median:
    """Stop what is worse than the median of the others at the same epoch."""

    startup: int = _option(5, 0)  # trials that must finish first
    warmup: int = _option(0, 0)  # epochs that are never pruned
    interval: int = _option(1, 1)  # epochs between decisions


@dataclass(frozen=True, slots=True)
class Patient:
    """Stop what did not improve by min_delta for patience epochs."""

    patience: int = _option(3, 1)
    min_delta: float = _option(0.0, 0)


@dataclass(frozen=True, slots=True)
class Wilcoxon:
    """Stop what a signed-rank test finds worse than the best trial, epoch by epoch."""

    p_threshold: float = _option(0.1, 0, 1)
    startup: int = _option(2, 0)  # epochs that are never pruned


@dataclass(frozen=True, slots=True)
class NoPruner:
    """Every trial trains to its full length."""


Sampler = Curves | Tpe | Gp | Qmc | Random
Pruner = Promote | Hyperband | Asha | Median | Patient | Wilcoxon | NoPruner
SAMPLERS: Final[dict[str, type[Sampler]]] = {"curves": Curves, "tpe": Tpe, "gp": Gp, "qmc": Qmc, "random": Random}
PRUNERS: Final[dict[str, type[Pruner]]] = {
    "promote": Promote,
    "hyperband": Hyperband,
    "asha": Asha,
    "median": Median,
    "patient": Patient,
    "wilcoxon": Wilcoxon,
    "none": NoPruner,
}
