"""What scores could have been on another sample of images: percentile bootstrap over images, vectorized.

Not here: the scores themselves (evaluation.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.predictions import Floats
from mlc_core.seeds import Stream, stream_seed

INSIDE: Final = 0.95  # of the resampled values lie in an interval

_ELEMENTS: Final = 2**20  # weights of images that are in memory at once
_LEAST: Final = 64  # resamples at a time, however many images there are; fewer would be slow

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a score lies in 95 % of the resamples of the images (percentile bootstrap, Efron 1979)."""

    low: float
    high: float


def rates(hits: Any, marked: Any, support: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401 - numbers or arrays of them
    """Precision, recall and F1 of how many were right, were predicted, and should have been; 0/0 is 0."""
    return hits / np.maximum(marked, 1), hits / np.maximum(support, 1), 2 * hits / np.maximum(marked + support, 1)


def places(logits: Floats) -> NDArray[np.int64]:
    """(n,) -> (n,): the place of each image from the highest logit down; equal ones share a place."""
    return np.unique(-logits, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """Scores of resamples of the images, one row each."""

    accuracy: Floats  # (resamples,)
    subset_accuracy: Floats  # (resamples,)
    micro_f1: Floats  # (resamples,)
    mean_ap: Floats  # (resamples,); NaN where no class is there
    precision: Floats  # (resamples, classes), as the two below
    recall: Floats
    f1: Floats

    def intervals(self) -> dict[str, Interval]:
        """One for each score of the whole split; none for mean_ap where no resample has one."""
        told = {
            "accuracy": self.accuracy,
            "subset_accuracy": self.subset_accuracy,
            "macro_precision": self.precision.mean(axis=1),
            "macro_recall": self.recall.mean(axis=1),
            "macro_f1": self.f1.mean(axis=1),
            "micro_f1": self.micro_f1,
            "mean_ap": self.mean_ap[np.isfinite(self.mean_ap)],
        }
        return {name: interval(values) for name, values in told.items() if len(values)}


def interval(values: Floats) -> Interval:
    """Leave out as many of the lowest values as of the highest."""
    low, high = np.quantile(values, ((1 - INSIDE) / 2, (1 + INSIDE) / 2))
    return Interval(float(low), float(high))


def resample(
    predicted: Bools, positive: Bools, ranks: Sequence[NDArray[np.int64]], *, resamples: int, seed: int
) -> Resampled:
    """Score resamples of the images; an image's weight in one is how often it was drawn.

    Parameters
    ----------
    predicted, positive : (n, classes), bool
    ranks : sequence of (n,), one a class
        From `places`.
    resamples : int
    seed : int
        Of the draws, which depend on nothing else but the number of images.
    """
    images, classes = positive.shape
    marks = np.column_stack([predicted & positive, predicted, positive, (predicted == positive).all(axis=1)])
    marks = marks.astype(_exact(images))
    precise = [_Precise(own_ranks, own) for own_ranks, own in zip(ranks, positive.T, strict=True) if own.any()]
    parts = [
        np.column_stack([weights.T @ marks, *(each.average(weights) for each in precise)])
        for weights in _weights(images, resamples, seed)
    ]
    told = np.concatenate(parts).astype(np.float64)
    hits, marked, support, others = np.split(told, [classes, 2 * classes, 3 * classes], axis=1)
    precision, recall, f1 = rates(hits, marked, support)
    wrong = (marked + support - 2 * hits).sum(axis=1)
    there = np.isfinite(others[:, 1:])
    aps = np.where(there, others[:, 1:], 0).sum(axis=1)
    known = there.sum(axis=1)
    return Resampled(
        accuracy=1 - wrong / (images * classes),
        subset_accuracy=others[:, 0] / images,
        micro_f1=rates(hits.sum(axis=1), marked.sum(axis=1), support.sum(axis=1))[2],
        mean_ap=np.where(known > 0, aps / np.maximum(known, 1), np.nan),
        precision=precision,
        recall=recall,
        f1=f1,
    )


def _weights(images: int, resamples: int, seed: int) -> Iterator[NDArray[Any]]:
    """Yield (images, k): how often each image is in each of k resamples."""
    random = np.random.default_rng(stream_seed(seed, Stream.BOOTSTRAP))
    step = max(_LEAST, _ELEMENTS // images)
    for start in range(0, resamples, step):
        drawn = [
            np.bincount(random.integers(0, images, images), minlength=images)
            for _ in range(min(step, resamples - start))
        ]
        yield np.stack(drawn, axis=1).astype(_exact(images))


def _exact(images: int) -> type[np.floating[Any]]:
    """Return the fastest type whose sums of weights are exact, and so the same in any order of adding."""
    return np.float32 if images < 2**24 else np.float64


class _Precise:
    """The average precision of one class in resamples.

    Only places with a positive matter; what lies between two of them is summed up into the lower one.
    """

    def __init__(self, ranks: NDArray[np.int64], positive: Bools) -> None:
        from scipy.sparse import csr_array  # costs a quarter of a second

        stops = np.unique(ranks[positive])
        stop = np.searchsorted(stops, ranks)  # the first place with a positive at or after an image's
        images = np.flatnonzero(stop < len(stops))
        ones, shape = np.ones(len(images), _exact(len(ranks))), (len(stops), len(ranks))
        self._seen = csr_array((ones, (stop[images], images)), shape)
        own = np.flatnonzero(positive)
        self._hits = csr_array((ones[: len(own)], (stop[own], own)), shape)

    def average(self, weights: NDArray[Any]) -> Floats:
        """(images, k) -> (k,); NaN in a resample without a positive."""
        seen, hits = (self._seen @ weights).cumsum(axis=0), self._hits @ weights
        precision = hits.cumsum(axis=0) / np.maximum(seen, 1)
        positives = hits.sum(axis=0, dtype=np.float64)
        value = (hits * precision).sum(axis=0, dtype=np.float64) / np.maximum(positives, 1)
        return np.where(positives > 0, value, np.nan)
