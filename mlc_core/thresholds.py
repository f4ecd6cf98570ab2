"""From which probability on a class is predicted: one threshold for all, one a class, and ours, which is guarded.

Not here: what comes of it (evaluation.py); what makes probabilities mean what they say (calibration.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mlc_core.calibration import calibrate
from mlc_core.errors import BadParams
from mlc_core.predictions import Floats, Predictions, logit, sigmoid
from mlc_core.seeds import Stream, stream_seed

Kind = Literal["f1", "fbeta", "precision", "recall", "cost"]
Counts = NDArray[Any]  # of images, whole or in shares

GOALS: Final = (
    "f1, fbeta:B (B above 0), precision:P or recall:R (a share above 0, at most 1), or cost:FP,FN (what a false "
    "positive and a false negative cost, above 0)"
)

# Compared on halvings, as tests/benchmarks/after_search.py makes them.
PRIOR: Final = 100  # positives that labels need to be trusted as much as the calibrated probabilities
FEW: Final = 3  # a class with fewer positives, or fewer negatives, keeps the threshold of all
BAGS: Final = 20  # bootstraps of the images
FOLDS: Final = 5  # of the images, to ask whether tuning is worth it
DRAWS: Final = 100  # bootstraps for the error of the answer
PLENTY: Final = 10_000  # images among which nobody needs to ask
DOUBT: Final = 0.1  # share of the bootstraps in which a floor may be missed

FARTHEST: Final = 15.0  # logits beyond it are not told apart: a threshold has to differ from 0 and 1 as a float32
SLACK: Final = 1e-12  # rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What thresholds are chosen for.

    Attributes
    ----------
    kind : str
        "f1" or "fbeta": the highest F. "precision": the highest recall with at least that precision; "recall": the
        highest precision with at least that recall. "cost": the lowest cost.
    beta : float
        Of "fbeta": recall weighs beta times as much as precision (van Rijsbergen 1979).
    floor : float
        Of "precision" and "recall".
    cost : (float, float)
        Of "cost": a false positive, a false negative. Only their ratio acts.

    Raises
    ------
    BadParams
        From the constructor and from `parse`.
    """

    kind: Kind
    beta: float = 1.0
    floor: float = 0.0
    cost: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        floored = self.kind in ("precision", "recall")
        fine = (
            0 < self.beta < inf
            and (0 < self.floor <= 1 if floored else self.floor == 0)
            and all(0 < each < inf for each in self.cost)
        )
        if not fine:
            raise BadParams("goal", str(self), f"one of {GOALS}")

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read what `str` writes, as "f1", "fbeta:2", "precision:0.9", "recall:0.9" or "cost:1,5"."""
        kind, colon, rest = text.partition(":")
        try:
            numbers = [float(number) for number in rest.split(",")] if colon else []
        except ValueError:
            raise BadParams("goal", text, f"one of {GOALS}") from None
        match kind, numbers:
            case "f1", []:
                return cls(kind="f1")
            case "fbeta", [beta]:
                return cls(kind="fbeta", beta=beta)
            case ("precision" | "recall") as kind, [floor]:
                return cls(kind=kind, floor=floor)
            case "cost", [positive, negative]:
                return cls(kind="cost", cost=(positive, negative))
            case _:
                raise BadParams("goal", text, f"one of {GOALS}")

    def __str__(self) -> str:
        numbers = {"f1": (), "fbeta": (self.beta,), "cost": self.cost}.get(self.kind, (self.floor,))
        return ":".join([self.kind, *([",".join(repr(n).removesuffix(".0") for n in numbers)] if numbers else [])])

    def judge(self, hits: Counts, chosen: Counts, positives: Counts | float, images: int) -> tuple[Floats, Floats]:
        """Say how good counts are: what is to be as high as possible, and what has to reach the floor.

        Parameters
        ----------
        hits, chosen : array
            True positives, and all that are predicted.
        positives : array or number
            Broadcasting with them.
        images : int
        """
        precision, recall = _ratio(hits, chosen), _ratio(hits, positives)
        match self.kind:
            case "precision":
                return recall, precision
            case "recall":
                return precision, recall
            case "cost":
                paid = self.cost[0] * (chosen - hits) + self.cost[1] * (positives - hits)
                return -paid / (images * sum(self.cost)), np.zeros_like(recall)
            case "f1" | "fbeta":
                square = self.beta**2
                return _ratio((1 + square) * hits, square * positives + chosen), np.zeros_like(recall)

    def best(self, aim: Floats, held: Floats) -> NDArray[np.intp]:
        """Index along the first axis of the best of those that hold the floor, or of the nearest to it where none does.

        Of equals it is the first one, which predicts least.
        """
        worth = np.where(held >= self.floor - SLACK, 2 + aim, held)
        chosen: NDArray[np.intp] = np.argmax(np.round(worth, 12), axis=0)
        return chosen


F1: Final = Goal(kind="f1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """A class is predicted where its probability is at least its threshold.

    Attributes
    ----------
    values : tuple of float, each in (0, 1)
        A class each.
    overall : float, in (0, 1)
        The best single one for all classes.
    goal : Goal
    """

    values: tuple[float, ...]
    overall: float
    goal: Goal


def tune(predictions: Predictions, goal: Goal = F1, *, seed: int = 0) -> Thresholds:
    """Choose a threshold a class that holds on other images, too.

    Parameters
    ----------
    predictions : Predictions
        Of images that trained nothing: the validation split. Calibrated or not: the thresholds are for them as given.
    goal : Goal
    seed : int

    Notes
    -----
    The best threshold on validation follows the luck of a few images where a class is rare (Lin & Lin, CIKM 2023).
    Calibrated probabilities say without luck what is to be expected, and the optimum under them is known: F*/2 for F1
    (Lipton, Elkan & Naryanaswamy 2014), FP / (FP + FN) for a cost (Elkan 2001); but they are only as right as the
    model. So each image counts as a share of a positive between the two, its label with weight
    known / (known + PRIOR) and its calibrated probability with the rest, where known is the number of positives of the
    class, or of negatives if there are less. The optimum is averaged, as a logit, over BAGS bootstraps of the images.

    A floor is a promise for other images: it is to hold in all but DOUBT of the bootstraps, and on the given images;
    where no threshold does both, the second is kept, and where none does that, the nearest to the floor is taken.

    A class with fewer than FEW positives or negatives keeps the threshold of all.
    """
    overall = one_for_all(predictions, goal)
    believed = calibrate(predictions)(predictions).probabilities
    images = len(predictions)
    rng = np.random.default_rng(stream_seed(seed, Stream.BOOTSTRAP))
    counts = rng.multinomial(images, np.full(images, 1 / images), size=BAGS).T
    values = []
    for logits, targets, belief in zip(predictions.logits.T, predictions.targets.T, believed.T, strict=True):
        positives = int(targets.sum())
        known = min(positives, images - positives)
        trust = known / (known + PRIOR)
        shares = trust * targets + (1 - trust) * belief
        values.append(_guarded(logits, targets, shares, counts, goal) if known >= FEW else overall)
    return Thresholds(values=tuple(values), overall=overall, goal=goal)


def tune_with_evidence(
    predictions: Predictions, usual: Sequence[float], goal: Goal = F1, *, seed: int = 0
) -> Thresholds:
    """Tune, but keep the usual thresholds where the images do not show that tuned ones are better.

    Parameters
    ----------
    predictions, goal, seed
        As of `tune`.
    usual : sequence of float, each in (0, 1)
        A class each: what is predicted from without tuning.

    Notes
    -----
    Tuned on FOLDS - 1 parts of the images and measured on the other one, they must gain more, in the mean over classes,
    than the standard error of the gain over bootstraps (the one-standard-error rule of Breiman et al. 1984). A floor is
    a promise, for which thresholds are always tuned.
    """
    tuned = tune(predictions, goal, seed=seed)
    images = len(predictions)
    if goal.floor or images > PLENTY or images < FOLDS:
        return tuned
    rng = np.random.default_rng(stream_seed(seed, Stream.BOOTSTRAP, 1))
    order, predicted = rng.permutation(images), np.empty(predictions.targets.shape, dtype=bool)
    for part in np.array_split(order, FOLDS):
        chosen = tune(predictions.take(np.setdiff1d(order, part)), goal, seed=seed)
        predicted[part] = predictions.probabilities[part] >= np.array(chosen.values)
    kept, positive = predictions.probabilities >= np.array(usual), predictions.targets == 1
    counts = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS)
    gains = np.zeros(DRAWS)
    for ours, theirs, real in zip(predicted.T, kept.T, positive.T, strict=True):
        aims = [goal.judge(counts @ (one & real), counts @ one, counts @ real, images)[0] for one in (ours, theirs)]
        gains += aims[0] - aims[1]
    return tuned if gains.mean() > gains.std() else replace(tuned, values=tuple(map(float, usual)))


def one_for_all(predictions: Predictions, goal: Goal = F1) -> float:
    """Choose the one threshold that is best on the given images, by the mean over classes.

    Of several that are equally good it is the highest; it lies in the middle, as a logit, between the two probabilities
    that it parts.
    """
    cuts = _Cuts(predictions.logits.ravel())
    aims, holds = np.zeros(len(cuts.values)), np.zeros(len(cuts.values))
    for logits, targets in zip(predictions.logits.T, predictions.targets.T, strict=True):
        own = _Cuts(logits)
        chosen = own.chosen_by(cuts.values)
        aim, held = goal.judge(_until(targets[own.order])[chosen], chosen, targets.sum(), len(targets))
        aims, holds = aims + aim, holds + held
    classes = predictions.logits.shape[1]
    return float(cuts.values[goal.best(aims / classes, holds / classes)])


def per_class(predictions: Predictions, goal: Goal = F1) -> tuple[float, ...]:
    """Choose for each class the threshold that is best on the given images.

    It over-fits rare classes (SCut, Yang 2001), and is here to be compared with; `tune` is ours.
    """
    return tuple(
        _plain(_Cuts(logits), targets, goal)
        for logits, targets in zip(predictions.logits.T, predictions.targets.T, strict=True)
    )


class _Cuts:
    """Every way to part the images by a threshold, from predicting least to predicting most.

    Attributes
    ----------
    order : (n,), int
        Images by falling probability.
    chosen : (cuts,), int
        How many of them a cut predicts.
    values : (cuts,), float64
        Thresholds.
    """

    def __init__(self, logits: Floats) -> None:
        within = np.clip(logits, -FARTHEST, FARTHEST)
        self.order = np.argsort(-within, kind="stable")
        sorted_logits = within[self.order]
        self.sorted = sigmoid(sorted_logits)
        n = len(logits)
        self.chosen = np.concatenate([[0], np.flatnonzero(np.diff(self.sorted)) + 1, [n]])
        # Logits that were clipped may be any farther: no threshold is above, or below, them.
        if sorted_logits[0] == FARTHEST:
            self.chosen = self.chosen[1:]
        if sorted_logits[-1] == -FARTHEST:
            self.chosen = self.chosen[:-1]
        beyond = np.concatenate([[sorted_logits[0] + 2], sorted_logits, [sorted_logits[-1] - 2]])
        middle = sigmoid((beyond[self.chosen] + beyond[self.chosen + 1]) / 2)
        above, below = sigmoid(beyond[self.chosen]), sigmoid(beyond[self.chosen + 1])
        self.values = np.where((middle > below) & (middle <= above), middle, above)  # rounding

    def chosen_by(self, thresholds: Floats) -> NDArray[np.intp]:
        """Count the images that each threshold predicts."""
        return np.searchsorted(-self.sorted, -thresholds, side="right")


def _plain(cuts: _Cuts, targets: NDArray[Any], goal: Goal) -> float:
    hits = _until(targets[cuts.order])[cuts.chosen]
    return float(cuts.values[goal.best(*goal.judge(hits, cuts.chosen, targets.sum(), len(targets)))])


def _guarded(logits: Floats, targets: NDArray[Any], shares: Floats, counts: NDArray[np.int64], goal: Goal) -> float:
    """Threshold of one class by shares of positives, (n,), and how often each image is in bootstraps, (n, bags)."""
    cuts = _Cuts(logits)
    weights = counts[cuts.order]
    hits, chosen = _until(weights * shares[cuts.order, None]), _until(weights)
    aim, held = goal.judge(hits[cuts.chosen], chosen[cuts.chosen], hits[-1], len(logits))
    if goal.floor == 0:
        return float(sigmoid(logit(cuts.values)[goal.best(aim, held)].mean()))
    real = _until(targets[cuts.order])
    _, seen = goal.judge(real[cuts.chosen], cuts.chosen, real[-1], len(logits))
    if seen.max() < goal.floor - SLACK:
        return _plain(cuts, targets, goal)
    promised = np.where(seen >= goal.floor - SLACK, np.quantile(held, DOUBT, axis=1), -1)
    return float(cuts.values[goal.best(aim.mean(axis=1), promised)])


def _until(values: Counts) -> Floats:
    """Sum the first 0, 1, 2, ... rows."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0, dtype=float)])


def _ratio(part: Counts, whole: Counts | float) -> Floats:
    """Divide, 0 / 0 being 0."""
    ratio: Floats = np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)
    return ratio
