"""Which of many trained models to average, and how much each counts, chosen on validation.

Not here: the network that averages (predict.py); what the average is worth (evaluation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlc_core.errors import BadData
from mlc_core.predictions import BLENDS, SURE, Blend, Floats, Predictions, logit, sigmoid
from mlc_core.seeds import Stream, stream_seed

FARTHEST: Final = 50.0  # a logit beyond it counts as this far
SLIGHT: Final = 0.02  # a smaller weight is not worth another model's time


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """A weighted average of candidates.

    Attributes
    ----------
    weights : tuple of float, at least 0, adding up to 1
        One a candidate; 0 is left out.
    average : "probabilities" or "logits"
        What is averaged.
    value : float
        Mean BCE over image-label pairs on the images that it was chosen by, nats.
    """

    weights: tuple[float, ...]
    average: Blend
    value: float


def select(
    candidates: Sequence[Predictions],
    *,
    average: Blend | None = None,
    rounds: int = 30,
    bags: int = 20,
    seed: int = 0,
) -> Ensemble:
    """Choose the average of candidates with the lowest BCE.

    Parameters
    ----------
    candidates : sequence of Predictions
        What each model says of the same images, which trained none of them: the validation split. At least one.
    average : "probabilities" or "logits", optional
        By default whichever has the lower BCE.
    rounds : int
        How many times a candidate is added, in each bag.
    bags : int
        Bootstraps of the images over which weights are averaged; with 0 one selection on the images as they are.
    seed : int

    Raises
    ------
    BadData
        Candidates are of different images or classes.

    Notes
    -----
    Greedy forward selection with replacement, started with as many of the best candidates as are best together:
    Caruana et al., ICML 2004, "Ensemble selection from libraries of models". They bag the candidates; with 5 and 14
    models of the digit scenes, bags of images gave a higher macro F1 on other images, and BCE one as high as mean
    average precision, in a third of the time. No ensemble comes out that is worse on the given images than the best
    candidate.
    """
    _same_images(candidates)
    images = len(candidates[0])
    random = np.random.default_rng(stream_seed(seed, Stream.BOOTSTRAP))
    drawn = [random.integers(images, size=images) for _ in range(bags)]
    counts = [np.bincount(rows, minlength=images).astype(np.float64) for rows in drawn]
    found = [
        _select(candidates, each, rounds, counts or [np.ones(images)])
        for each in (BLENDS if average is None else (average,))
    ]
    return min(found, key=lambda ensemble: ensemble.value)


def blend(candidates: Sequence[Predictions], weights: Sequence[float], average: Blend) -> Predictions:
    """Average what models say of the same images.

    Parameters
    ----------
    candidates : sequence of Predictions
    weights : sequence of float, at least 0, adding up to 1
        One a candidate. Where only one counts it is returned as it is.
    average : "probabilities" or "logits"

    Raises
    ------
    BadData
        Candidates are of different images or classes.
    """
    _same_images(candidates)
    pairs = [(weight, one) for weight, one in zip(weights, candidates, strict=True) if weight > 0]
    first = pairs[0][1]
    if len(pairs) == 1:
        return first
    if average == "logits":
        blended = sum((weight * one.logits for weight, one in pairs), np.zeros_like(first.logits))
    else:
        blended = logit(sum((weight * one.probabilities for weight, one in pairs), np.zeros_like(first.logits)))
    return Predictions(first.classes, blended, first.targets)


def _select(candidates: Sequence[Predictions], average: Blend, rounds: int, bags: Sequence[Floats]) -> Ensemble:
    signs = np.where(candidates[0].targets == 1, 1.0, -1.0)
    margins = np.stack([np.clip(one.logits, -FARTHEST, FARTHEST) * signs for one in candidates])
    told = margins if average == "logits" else sigmoid(margins)  # of each label as it is, so that more is better
    weights = np.mean([_greedy(told, average, rounds, counts) for counts in bags], axis=0)
    weights = np.where(weights < min(SLIGHT, weights.max()), 0, weights)
    weights /= weights.sum()
    # A product of matrices would depend on the number of threads.
    together = float(_losses(np.sum(weights[:, None, None] * told, axis=0, keepdims=True), average).mean())
    alone = _losses(told, average).mean(axis=1)
    best = int(alone.argmin())
    if alone[best] <= together:
        weights, together = np.eye(len(told))[best], float(alone[best])
    return Ensemble(weights=tuple(float(weight) for weight in weights), average=average, value=together)


def _greedy(told: Floats, average: Blend, rounds: int, counts: Floats) -> Floats:
    """Weights of one selection, (candidates,), where each image counts as many times as told."""

    def values(blends: Floats) -> Floats:
        means: Floats = np.average(_losses(blends, average), axis=-1, weights=counts)
        return means

    ranking = np.argsort(values(told), kind="stable")
    size = np.arange(1, len(told) + 1)
    started = values(np.cumsum(told[ranking], axis=0) / size[:, None, None])
    best = float(started.min())
    taken = np.isin(size - 1, ranking[: int(started.argmin()) + 1]).astype(float)
    kept, total = taken.copy(), told[taken > 0].sum(axis=0)
    for _ in range(rounds):
        tried = values((total + told) / (taken.sum() + 1))
        chosen = int(tried.argmin())
        taken[chosen] += 1
        total = total + told[chosen]
        if tried[chosen] < best:
            best, kept = float(tried[chosen]), taken.copy()
    share: Floats = kept / kept.sum()
    return share


def _losses(told: Floats, average: Blend) -> Floats:
    """Mean BCE of each image, (candidates, images), of margins or of probabilities of what is so."""
    each = np.log1p(np.exp(-told)) if average == "logits" else -np.log(np.clip(told, SURE, 1 - SURE))
    losses: Floats = each.mean(axis=-1)
    return losses


def _same_images(candidates: Sequence[Predictions]) -> None:
    first = candidates[0]
    for place, other in enumerate(candidates[1:], start=2):
        if other.classes != first.classes or not np.array_equal(other.targets, first.targets):
            raise BadData(
                f"Candidate {place} of {len(candidates)} is of other images or classes than the first; an ensemble "
                "takes models of one data set, asked about the same split."
            )
