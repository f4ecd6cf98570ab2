"""How well two rankings agree."""

from __future__ import annotations

from collections.abc import Sequence


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlate the ranks of two equally long sequences (Spearman 1904).

    Returns
    -------
    float or None
        In [-1, 1]; None for fewer than three pairs, or where one side is all equal.
    """
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    from scipy.stats import spearmanr  # costs a second, and only this needs it

    return float(spearmanr(first, second).statistic)
