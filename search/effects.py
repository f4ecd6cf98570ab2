"""How large an effect is, how sure of it these trials make us: least squares, bootstrap, permutations.

Not here: which effects are asked for (learnings.py, range_advice.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core import SCHEDULER_KEYS, Value
from search.views import TrialRow

CONFIDENCE: Final = 0.95  # of intervals
ROOM: Final = 10  # trials a term of a model
_DRAWS: Final = 2000  # permutations, and resamples
_SEED: Final = 0  # the same trials give the same figures

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A coefficient of a linear model."""

    size: float  # on the scale of what is explained
    low: float  # of its interval at CONFIDENCE
    high: float
    p: float  # how often chance alone makes one as large
    adjusted: tuple[str, ...]  # parameters at equal values of which it is meant


def effect(values: Sequence[float], asked: Sequence[float], others: Mapping[str, Array]) -> Effect | None:
    """Tell by how much values change with what is asked for, the others being equal.

    Parameters
    ----------
    values, asked : sequence of float, (n,)
    others : mapping from a parameter to array, (n, its terms)
        As `confounders` gives them.

    Returns
    -------
    Effect or None
        None where what is asked for does not vary, or only together with the others.

    Notes
    -----
    Ordinary least squares. The interval is the bootstrap's over trials (percentiles; Efron & Tibshirani 1993, ch. 13),
    p by permuted residuals of the model without what is asked for (Freedman & Lane 1983), two-sided.
    """
    y, x = np.asarray(values, float), np.asarray(asked, float)
    rest = np.column_stack([np.ones(len(y)), *others.values()])
    hat = rest @ np.linalg.pinv(rest)
    own, left = x - hat @ x, y - hat @ y
    if not np.linalg.norm(own) > 1e-6 * max(1.0, float(np.linalg.norm(x))):
        return None
    size = float(own @ left / (own @ own))
    random = np.random.default_rng(_SEED)
    shuffled = random.permuted(np.tile(left, (_DRAWS, 1)), axis=1)
    norms = np.linalg.norm(shuffled - shuffled @ hat, axis=1)
    by_chance = np.abs(shuffled @ own) / np.maximum(norms, 1e-12)
    seen = abs(own @ left) / max(float(np.linalg.norm(left)), 1e-12)
    p = (1 + int(np.sum(by_chance >= seen * (1 - 1e-9)))) / (_DRAWS + 1)
    design = np.column_stack([x, rest])
    sizes = [_slope(design, y, random.integers(len(y), size=len(y))) for _ in range(_DRAWS // 2)]
    low, high = np.quantile(sizes, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Effect(size=size, low=float(low), high=float(high), p=p, adjusted=tuple(others))


def confounders(rows: Sequence[TrialRow], about: str, keys: Sequence[str]) -> dict[str, Array]:
    """Make the terms of a small model: the learning rate and its square, then others while there is room for them.

    A sampler draws parameters together, and the learning rate decides most: what goes with a good one looks good.

    Parameters
    ----------
    about : str
        The parameter that is asked for, and not among them.
    keys : sequence of str
        What every trial of the study draws, in the order in which they are taken.
    """
    terms: dict[str, Array] = {}
    used = 2  # the constant, and what is asked for
    for key in sorted((key for key in keys if key not in (about, *SCHEDULER_KEYS)), key=lambda key: key != "lr"):
        values = [row.params[key] for row in rows if key in row.params]
        if len(values) < len(rows):
            continue
        columns = _columns(values, square=key == "lr")
        if columns.shape[1] and (key == "lr" or (used + columns.shape[1]) * ROOM <= len(rows)):
            terms[key] = columns
            used += columns.shape[1]
    return terms


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, so that of all together one in twenty is chance (Holm 1979)."""
    answer, worst = [0.0] * len(p_values), 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[at]))
        answer[at] = worst
    return answer


def _columns(values: Sequence[Value], *, square: bool) -> Array:
    """Numbers above 0 on a logarithmic scale, others as they are, words as one column a word but the first."""
    if any(isinstance(value, str) for value in values):
        words = sorted(set(map(str, values)))[1:]
        return np.array([[float(value == word) for word in words] for value in values]).reshape(len(values), -1)
    line = np.array([float(value) for value in values])
    line = np.log(line) if line.min() > 0 else line
    if np.ptp(line) < 1e-12:
        return np.empty((len(values), 0))
    line = (line - line.mean()) / line.std()
    return np.column_stack([line, line**2]) if square else line[:, None]


def _slope(design: Array, y: Array, chosen: NDArray[np.int64]) -> float:
    return float(np.linalg.lstsq(design[chosen], y[chosen], rcond=None)[0][0])
