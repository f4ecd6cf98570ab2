"""Runs as they were written, and what follows from them: time to the target, ratios, each with an interval over seeds.

Not here: how a run comes to be (simulate.py), tables and pictures (table.py, picture.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.search.simulate import Run
from tests.benchmarks.search.tools import PLAIN

FULL: Final = 50  # full trials of plain Optuna, of which the best is the target
DRAWS: Final = 10_000  # of the bootstrap
LEVEL: Final = 0.95

Runs = Mapping[str, Sequence[Run]]  # by tool: one a seed


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic of the seeds, and where it lies in `LEVEL` of resamples of them (percentile bootstrap)."""

    value: float
    low: float
    high: float


def read(folder: Path) -> list[Run]:
    """Read every run that the folder has; a line that was cut off by a kill is left out."""
    runs = []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                runs.append(Run(**json.loads(line)))
            except json.JSONDecodeError:
                continue
    return runs


def by_tool(runs: Iterable[Run], workers: int) -> dict[str, list[Run]]:
    """Group those with so many workers, in the order of seeds."""
    grouped: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.workers == workers:
            grouped.setdefault(run.tool, []).append(run)
    return grouped


def best_at(run: Run, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Best loss of any report up to each of these simulated seconds; infinite before the first."""
    seconds, losses = np.array(run.best).T
    at = np.searchsorted(seconds, times, side="right") - 1
    return np.where(at >= 0, losses[np.maximum(at, 0)], np.inf)


def target(runs: Runs) -> float:
    """Loss that plain Optuna has after its first 50 full trials, median over seeds.

    Raises
    ------
    ValueError
        A run of plain Optuna ended before its fiftieth.
    """
    short = [run.seed for run in runs[PLAIN] if len(run.full) < FULL]
    if short:
        raise ValueError(f"{PLAIN} ended before {FULL} full trials with seeds {short}. Run with a longer --horizon.")
    return float(np.median([best_at(run, np.array([run.full[FULL - 1]]))[0] for run in runs[PLAIN]]))


def time_to(run: Run, loss: float) -> float:
    """Simulated second at which a report was as low as this; infinite if none was."""
    return next((seconds for seconds, best in run.best if best <= loss), math.inf)


def times_to(runs: Sequence[Run], loss: float) -> NDArray[np.float64]:
    return np.array([time_to(run, loss) for run in runs])


def median(values: NDArray[np.float64]) -> Interval:
    """Median over seeds; infinite where less than half of them came there."""
    drawn = _medians(values, np.random.default_rng(0))
    return Interval(float(_middle(values)), *_between(drawn))


def speedup(slower: Sequence[Run], faster: Sequence[Run], loss: float) -> Interval:
    """How many times as long `slower` takes to this loss as `faster`: ratio of medians over seeds.

    A run that never came there counts against `faster` both times: as if it had come at the end of its time among
    `slower`, and as if it never would among `faster`.
    """
    rng = np.random.default_rng(0)
    above = np.minimum(times_to(slower, loss), [run.horizon for run in slower])
    below = times_to(faster, loss)
    ratios = _medians(above, rng) / _medians(below, rng)
    return Interval(float(_middle(above) / _middle(below)), *_between(ratios))


def _medians(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    drawn = rng.integers(len(values), size=(DRAWS, len(values)))
    return np.array(_middle(values[drawn]))


def _middle(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median along the last axis; numpy's own makes NaN of two infinities in the middle."""
    ordered = np.sort(values, axis=-1)
    below, above = ordered[..., (values.shape[-1] - 1) // 2], ordered[..., values.shape[-1] // 2]
    return np.where(np.isinf(above), above, (below + above) / 2)


def _between(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(low), float(high)
