"""What a model says of one split's images beside what they carry; numpy alone.

Not here: how good that is (evaluation.py); where it comes from (predict.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mlc_core.data.dataset import Uint8

Floats = NDArray[np.float64]

Blend = Literal["probabilities", "logits"]  # what is averaged over the models of an ensemble
SURE: Final = 1e-7  # a probability nearer to 0 or 1 counts as this near: float32's sigmoid tells no farther ones
BLENDS: Final[tuple[Blend, ...]] = get_args(Blend)


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row an image.

    Attributes
    ----------
    classes : tuple of str
    logits : (n, classes), float64
    targets : (n, classes), uint8, 0 or 1
    """

    classes: tuple[str, ...]
    logits: Floats
    targets: Uint8

    @cached_property
    def probabilities(self) -> Floats:
        """(n, classes), in [0, 1]."""
        return sigmoid(self.logits)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[Any]) -> Predictions:
        """Return some of the images, by index or mask."""
        return Predictions(self.classes, self.logits[rows], self.targets[rows])


def sigmoid(logits: Floats) -> Floats:
    """Turn logits into probabilities, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def logit(probabilities: Floats) -> Floats:
    """Turn probabilities into logits; 0 and 1 become the farthest ones that a float32's sigmoid tells from them."""
    inside = np.clip(probabilities, SURE, 1 - SURE)
    return np.log(inside) - np.log1p(-inside)
