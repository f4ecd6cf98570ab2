"""How good predictions are: the scores of a split, of each class, and what another sample of images could have told.

Not here: the scores that training reports (metrics.py); where probabilities turn into labels (thresholds.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.bootstrap import Bools, Interval, Resampled, interval, places, rates, resample
from mlc_core.data.dataset import Uint8
from mlc_core.errors import BadData, BadModel, BadParams
from mlc_core.params import whole
from mlc_core.predictions import Floats, Predictions

__all__ = [
    "BINS",
    "Average",
    "ClassScores",
    "Interval",
    "Reliability",
    "Scores",
    "multilabel_confusion",
    "reliability",
    "score",
]

BINS: Final = 15  # of calibration, of equal width; Guo et al. 2017, section 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """Precision, recall and F1, averaged in one way; what is 0/0 counts 0, as in scikit-learn."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Image-label pairs by their probability, in bins of equal width; a bin without its lower end, with its upper.

    Attributes
    ----------
    pairs : (BINS,), int64
    told : (BINS,), float64
        Mean probability; 0 in an empty bin.
    seen : (BINS,), float64
        Share of the pairs that are positive; 0 in an empty bin.
    """

    pairs: NDArray[np.int64]
    told: Floats
    seen: Floats

    @property
    def error(self) -> float:
        """Expected calibration error, Guo et al. 2017, eq. 5."""
        return float((self.pairs * np.abs(self.told - self.seen)).sum() / self.pairs.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """How good the predictions of one class are."""

    name: str
    support: int  # images that carry it
    threshold: float
    precision: float
    recall: float
    f1: float
    average_precision: float | None  # None: no image carries it
    roc_auc: float | None  # None: all or no image carries it
    calibration_error: float
    confusion: tuple[int, int, int, int]  # true negatives, false positives, false negatives, true positives
    precision_interval: Interval
    recall_interval: Interval
    f1_interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How good predictions are."""

    images: int
    accuracy: float  # share of the image-label pairs that are right
    subset_accuracy: float  # share of the images with no wrong label
    macro: Average  # means over classes
    micro: Average  # of all pairs alike
    weighted: Average  # means over classes, by their support
    samples: Average  # means over images
    mean_ap: float | None  # over the classes that have one
    roc_auc: float | None  # mean over the classes that have one
    coverage_error: float  # how far down an image's ranked classes all of its own are; Tsoumakas et al. 2010
    ranking_loss: float  # share of an image's pairs (own class, other class) in the wrong order, or level
    calibration_error: float  # over image-label pairs
    loss: float  # mean BCE over image-label pairs, nats
    intervals: Mapping[str, Interval]  # mean_ap is absent where no class has an average precision
    classes: tuple[ClassScores, ...]

    def to_table(self) -> dict[str, Any]:
        """One JSON object; what is undefined is null."""
        return asdict(self)


def score(predictions: Predictions, thresholds: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> Scores:
    """Compare what was predicted with what images carry.

    Parameters
    ----------
    predictions : Predictions
    thresholds : sequence of float, one a class
        A class is predicted from this probability upwards.
    resamples : int
        Of the images, with replacement, for the intervals.
    seed : int
        Of the resamples.

    Raises
    ------
    BadParams
        Not one threshold a class; resamples outside 1 to 1,000,000.
    BadData, BadModel
        There is no image; a logit is not finite.
    """
    whole("resamples", resamples, "a whole number from 1 to 1000000", low=1, high=1_000_000)
    classes = len(predictions.classes)
    if len(thresholds) != classes:
        raise BadParams("thresholds", list(thresholds), f"one number for each of the {classes} classes")
    if not len(predictions):
        raise BadData("There is no image to evaluate. Give at least one.")
    if bad := int((~np.isfinite(predictions.logits)).any(axis=1).sum()):
        raise BadModel(f"The model's logits for {bad} of {len(predictions)} images are not finite. Train it again.")
    logits, probabilities = predictions.logits, predictions.probabilities
    predicted, positive = probabilities >= np.asarray(thresholds, np.float64), predictions.targets == 1
    ranks = [places(column) for column in logits.T]
    resampled = resample(predicted, positive, ranks, resamples=resamples, seed=seed)
    own = tuple(_class_scores(predictions, thresholds, ranks, resampled, at) for at in range(classes))
    each_rate = np.array([(each.precision, each.recall, each.f1) for each in own])
    support = positive.sum(axis=0)
    hit = predicted & positive
    by_image = rates(hit.sum(axis=1), predicted.sum(axis=1), positive.sum(axis=1))
    return Scores(
        images=len(predictions),
        accuracy=float((predicted == positive).mean()),
        subset_accuracy=float((predicted == positive).all(axis=1).mean()),
        macro=_average(each_rate.mean(axis=0)),
        micro=_average(rates(hit.sum(), predicted.sum(), support.sum())),
        weighted=_average((support[:, None] * each_rate).sum(axis=0) / max(support.sum(), 1)),
        samples=_average([values.mean() for values in by_image]),
        mean_ap=_mean(each.average_precision for each in own),
        roc_auc=_mean(each.roc_auc for each in own),
        coverage_error=_coverage_error(logits, positive),
        ranking_loss=_ranking_loss(logits, positive),
        calibration_error=reliability(probabilities, positive).error,
        loss=float((np.logaddexp(0, logits) - logits * positive).mean()),
        intervals=resampled.intervals(),
        classes=own,
    )


def multilabel_confusion(predicted: Bools, targets: Uint8) -> NDArray[np.int64]:
    """Count which class was predicted where another one should have been.

    What an image's labels and predictions share is on the diagonal. Of the rest, a missed label is counted in the
    columns of all wrong predictions of the image; without a wrong prediction in the last column. Without a missed
    label, a wrong prediction is counted in the rows of all labels of the image; without a label in the last row.

    Parameters
    ----------
    predicted : (n, classes), bool
    targets : (n, classes), 0 or 1

    Returns
    -------
    (classes + 1, classes + 1), int64
        Rows are true classes, columns predicted ones; the last row is "no true label", the last column "no predicted
        label". A row need not add up to the class's images.

    Notes
    -----
    MLCM, by the three categories of Heydarian, Doyle & Samavi 2022, IEEE Access 10. The package of the
    authors differs where an image has missed labels and several wrong predictions: there their order has a say.
    """
    true = targets == 1
    classes = true.shape[1]
    missed, wrong = true & ~predicted, predicted & ~true
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    inner = matrix[:classes, :classes]
    inner += np.diag((true & predicted).sum(axis=0))
    inner += _products(missed, wrong)
    matrix[:classes, classes] = missed[~wrong.any(axis=1)].sum(axis=0)
    none_missed = ~missed.any(axis=1)
    inner += _products(true[none_missed], wrong[none_missed])
    matrix[classes, :classes] = wrong[~true.any(axis=1)].sum(axis=0)
    matrix[classes, classes] = (~(true | predicted).any(axis=1)).sum()
    return matrix


def reliability(probabilities: Floats, targets: NDArray[Any]) -> Reliability:
    """Sort image-label pairs into bins by probability.

    Parameters
    ----------
    probabilities, targets : of equal shape
        Targets are 0 or 1.
    """
    told, seen = probabilities.ravel(), targets.ravel()
    bins = np.searchsorted(np.arange(1, BINS) / BINS, told, side="left")
    pairs = np.bincount(bins, minlength=BINS)
    of = np.maximum(pairs, 1)
    return Reliability(
        pairs=pairs,
        told=np.bincount(bins, told, minlength=BINS) / of,
        seen=np.bincount(bins, seen, minlength=BINS) / of,
    )


def _class_scores(
    predictions: Predictions,
    thresholds: Sequence[float],
    ranks: Sequence[NDArray[np.int64]],
    resampled: Resampled,
    at: int,
) -> ClassScores:
    probabilities, positive = predictions.probabilities[:, at], predictions.targets[:, at] == 1
    predicted = probabilities >= thresholds[at]
    hits, marked, support = int((predicted & positive).sum()), int(predicted.sum()), int(positive.sum())
    average = _average(rates(hits, marked, support))
    average_precision, roc_auc = _ranked(ranks[at], positive)
    return ClassScores(
        name=predictions.classes[at],
        support=support,
        threshold=float(thresholds[at]),
        precision=average.precision,
        recall=average.recall,
        f1=average.f1,
        average_precision=average_precision,
        roc_auc=roc_auc,
        calibration_error=reliability(probabilities, positive).error,
        confusion=(len(positive) - marked - support + hits, marked - hits, support - hits, hits),
        precision_interval=interval(resampled.precision[:, at]),
        recall_interval=interval(resampled.recall[:, at]),
        f1_interval=interval(resampled.f1[:, at]),
    )


def _average(rates: Iterable[Any]) -> Average:
    precision, recall, f1 = map(float, rates)
    return Average(precision=precision, recall=recall, f1=f1)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _ranked(ranks: NDArray[np.int64], positive: Bools) -> tuple[float | None, float | None]:
    """Average precision (Zhang & Zhang 2009) and area under the ROC curve (Mann & Whitney 1947), ties as ties."""
    hits, seen = np.bincount(ranks, positive), np.bincount(ranks)
    misses = seen - hits
    positives, negatives = hits.sum(), misses.sum()
    if not positives:
        return None, None
    average_precision = float((hits * hits.cumsum() / seen.cumsum()).sum() / positives)
    if not negatives:
        return average_precision, None
    below = negatives - misses.cumsum() + misses / 2  # of those at the same place a half
    return average_precision, float((hits * below).sum() / (positives * negatives))


def _coverage_error(logits: Floats, positive: Bools) -> float:
    """Mean over images of how many classes rank no lower than the lowest of its own; 0 for an image without."""
    lowest = np.where(positive, logits, np.inf).min(axis=1, keepdims=True)
    return float((logits >= lowest).sum(axis=1).mean())


def _ranking_loss(logits: Floats, positive: Bools) -> float:
    """Mean over images; 0 for an image that carries no class or all of them."""
    wrong = np.zeros(len(logits), np.int64)
    for own, column in zip(positive.T, logits.T, strict=True):  # class by class, so that memory is bounded
        wrong[own] += ((logits[own] >= column[own, None]) & ~positive[own]).sum(axis=1)
    pairs = positive.sum(axis=1) * (~positive).sum(axis=1)
    return float((wrong / np.maximum(pairs, 1)).mean())


def _products(rows: Bools, columns: Bools) -> NDArray[np.int64]:
    """(n, a), (n, b) -> (a, b): in how many images both are."""
    # In floating point for its speed; whole numbers below 2^53 are exact in any order of adding.
    return (rows.T.astype(np.float64) @ columns.astype(np.float64)).astype(np.int64)
