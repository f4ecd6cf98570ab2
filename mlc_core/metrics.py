"""How good logits are beyond their loss, in numbers between 0 and 1, in numpy on the CPU.

Not here: the loss that trains (loss.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[Any]


def macro_f1(logits: Array, targets: Array) -> float:
    """Mean over classes of F1 where a class is predicted from probability 1/2, which is logit 0, upwards.

    Parameters
    ----------
    logits, targets : Tensor or array, (n, classes)
        Targets are 0 or 1.

    Notes
    -----
    A class with neither positives nor predictions counts 0, as in scikit-learn with ``zero_division=0``.
    """
    predicted, positive = _numpy(logits) >= 0, _numpy(targets) == 1
    hits = (predicted & positive).sum(axis=0)
    marked = predicted.sum(axis=0) + positive.sum(axis=0)  # hits and misses of both kinds, hits twice
    return float((2 * hits / np.maximum(marked, 1)).mean())


def mean_average_precision(logits: Array, targets: Array) -> float:
    """Mean over classes of average precision, which needs no threshold.

    Average precision is the precision at each positive, averaged; equal logits share the precision of the last of
    them, so that their order has no say. Source: Zhang & Zhang 2009, as scikit-learn computes it.

    Parameters
    ----------
    logits, targets : Tensor or array, (n, classes)
        Targets are 0 or 1.

    Notes
    -----
    A class without positives has no average precision and is left out; the mean over no class at all is 0.
    """
    scores, positive = _numpy(logits).T, _numpy(targets).T == 1
    present = positive.any(axis=1)
    if not present.any():
        return 0.0
    scores, positive = scores[present], positive[present]
    order = np.argsort(-scores, axis=1)
    scores, positive = (np.take_along_axis(array, order, axis=1) for array in (scores, positive))
    n = scores.shape[1]
    last = np.ones(scores.shape, bool)
    last[:, :-1] = scores[:, 1:] != scores[:, :-1]
    # From the right, the nearest place at or after each one that is the last of its equals.
    places = np.minimum.accumulate(np.where(last, np.arange(n), n)[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(positive.cumsum(axis=1), places, axis=1) / (places + 1)
    return float(np.average(precision, axis=1, weights=positive).mean())


def _numpy(values: Array) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
