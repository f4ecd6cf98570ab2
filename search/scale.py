"""The scale on which an objective's values are compared: of two losses or two scores the ratio counts."""

from __future__ import annotations

import math
from typing import Final

from mlc_core import Objective

_LEAST: Final = 1e-6


def logarithm(cost: float, objective: Objective) -> float:
    """Take the logarithm of a loss, or of what a score lacks of 1.

    Parameters
    ----------
    cost : float
        As `mlc_core.cost` has it, the lowest is the best.

    Returns
    -------
    float
        NaN and infinity stay what they are.
    """
    if not math.isfinite(cost):
        return cost
    return math.log(max(_LEAST, cost if objective == "bce" else 1.0 + cost))
