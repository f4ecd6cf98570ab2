"""Probabilities that mean what they say: one line a class from a logit to a calibrated one, fitted on validation.

Not here: how far a model is from that (evaluation.py); what is decided with the probabilities (thresholds.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from mlc_core.predictions import Floats, Predictions, sigmoid

RIDGE: Final = 3.0  # on halvings as of tests/benchmarks/after_search.py 1, 3 and 10 hardly differ
FLATTEST: Final = 0.01  # a scale stays above 0, so that no image changes its rank
FARTHEST: Final = 50.0  # a logit beyond it counts as this far when the line is fitted
STEPS: Final = 100  # about eight are needed
ENOUGH: Final = 1e-12  # nats, and relative, that are not worth another step


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibrated logit is scale * logit + shift.

    Attributes
    ----------
    scale : tuple of float, above 0
        A class each.
    shift : tuple of float
        A class each.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @property
    def half(self) -> tuple[float, ...]:
        """What the probability 1/2 becomes, a class each."""
        return tuple(sigmoid(np.array(self.shift)).tolist())

    def __call__(self, predictions: Predictions) -> Predictions:
        """Return the same images with calibrated logits."""
        logits = predictions.logits * np.array(self.scale) + np.array(self.shift)
        return Predictions(predictions.classes, logits, predictions.targets)


def calibrate(predictions: Predictions, *, ridge: float = RIDGE) -> Calibration:
    """Fit scale and shift of each class, shrunk to those of all classes together.

    Parameters
    ----------
    predictions : Predictions
        Of images that trained nothing: the validation split.
    ridge : float, above 0
        Half of it times the squared distance is added to the summed BCE (nats): from a class to all classes together,
        and from these to leaving logits alone. It matters for a class with few images or without positives only;
        near 0 it is plain logistic regression.

    Notes
    -----
    Source: Platt 1999, "Probabilistic outputs for support vector machines", a class each; the ridge takes the place of
    his smoothed targets.
    """
    logits, targets = np.clip(predictions.logits, -FARTHEST, FARTHEST), predictions.targets.astype(float)
    together = _line(logits.ravel(), targets.ravel(), np.array([1.0, 0.0]), ridge)
    lines = [_line(logits[:, c], targets[:, c], together, ridge) for c in range(logits.shape[1])]
    return Calibration(tuple(float(scale) for scale, _ in lines), tuple(float(shift) for _, shift in lines))


def _line(logits: Floats, targets: Floats, towards: Floats, ridge: float) -> Floats:
    """Scale and shift, (2,), of the lowest loss; the loss is convex, so one that wants no scale gets the flattest."""
    line = _newton(logits, targets, towards, towards, ridge)
    if line[0] >= FLATTEST:
        return line
    return _newton(logits, targets, np.array([FLATTEST, line[1]]), towards, ridge, held=True)


def _newton(
    logits: Floats, targets: Floats, start: Floats, towards: Floats, ridge: float, *, held: bool = False
) -> Floats:
    """Newton's method with halved steps; a held scale stays. No product of matrices: its bits depend on threads."""

    def loss(line: Floats) -> float:
        calibrated = line[0] * logits + line[1]
        bce = np.sum(np.logaddexp(0, calibrated) - targets * calibrated)
        return float(bce + ridge / 2 * np.sum((line - towards) ** 2))

    line, now = start, loss(start)
    for _ in range(STEPS):
        probabilities = sigmoid(line[0] * logits + line[1])
        rest, bend = probabilities - targets, probabilities * (1 - probabilities)
        slope = np.array([np.sum(rest * logits), np.sum(rest)]) + ridge * (line - towards)
        aa, ab, bb = np.sum(bend * logits**2) + ridge, np.sum(bend * logits), np.sum(bend) + ridge
        if held:
            slope[0], ab = 0, np.float64(0)
        step = np.array([bb * slope[0] - ab * slope[1], aa * slope[1] - ab * slope[0]]) / (aa * bb - ab**2)
        gain = float(np.sum(slope * step))  # twice what is left to gain, near the optimum
        if gain <= ENOUGH * (1 + now):
            return line - step
        while loss(line - step) > now - gain / 4 and gain > ENOUGH:
            step, gain = step / 2, gain / 2
        line = line - step
        now = loss(line)
    return line
