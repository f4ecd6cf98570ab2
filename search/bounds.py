"""Ends of ranges: where a value lies between them, how far they may move, how a person would write them.

Not here: whether they should move (range_advice.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Final

import numpy as np

from mlc_core import DEFAULTS, SCHEDULER_OF, BadParams, Params, SchedulerName, Value
from search.declaration import Range

EDGE: Final = 0.1  # of a range, at its end


def place(domain: Range, value: float) -> float:
    """Say where in the range a value lies, from 0 to 1."""
    low, high, at = domain.low, domain.high, value
    if domain.log:
        low, high, at = math.log(low), math.log(high), math.log(value)
    return (at - low) / (high - low)


def value_at(domain: Range, at: float) -> float:
    """Return the value at a place of the range, also beyond 0 and 1; the inverse of `place`."""
    if domain.log:
        return math.exp(math.log(domain.low) + at * (math.log(domain.high) - math.log(domain.low)))
    return domain.low + at * (domain.high - domain.low)


def edge_share(domain: Range, key: str, end: str) -> float:
    """Which share of an even spread lies within the edge; of whole numbers, and steps, the end itself does."""
    step = domain.step or (1 if _whole(key) else None)
    if step is None:
        return EDGE
    values = np.arange(domain.low, domain.high + step / 2, step)
    halves = np.log((values + step / 2) / (values - step / 2)) if domain.log else np.ones(len(values))
    places = np.array([place(domain, value) for value in values])
    inside = places <= EDGE + 1e-9 if end == "low" else places >= 1 - EDGE - 1e-9
    return float(halves[inside].sum() / halves.sum())


def wider(domain: Range, key: str, end: str) -> float | None:
    """Move the end outwards by half a decade or a quarter of the range, as far as the parameter may go."""
    step = 0.25
    if domain.log:
        step = max(0.25, 0.5 * math.log(10) / math.log(domain.high / domain.low))
    for share in (step, step / 2, step / 4):
        bound = _rounded(domain, key, value_at(domain, -share if end == "low" else 1 + share), outwards=end)
        further = bound < domain.low if end == "low" else bound > domain.high
        if further and _may(key, bound):
            return bound
    return None


def narrower(domain: Range, key: str, at: float, end: str) -> float | None:
    """Move the end inwards to a place of the range, counted from it; None if that moves nothing."""
    bound = _rounded(domain, key, value_at(domain, at if end == "low" else 1 - at), outwards=end)
    return bound if domain.low < bound < domain.high else None


def _rounded(domain: Range, key: str, value: float, *, outwards: str) -> float:
    """Round as a person would write it: to 1, 2 or 5 of a decade, to a whole number, to the range's own steps."""
    towards: Callable[[float], float] = math.floor if outwards == "low" else math.ceil
    if domain.step is not None:
        bound = domain.low + towards((value - domain.low) / domain.step - (1e-9 if outwards == "high" else -1e-9)) * (
            domain.step
        )
        return int(bound) if _whole(key) else round(bound, 12)
    if _whole(key):
        return int(towards(value))
    if domain.log:
        decade = 10.0 ** math.floor(math.log10(value))
        nice = [decade * digit for digit in (1, 2, 5, 10)]
        fit = [one for one in nice if (one <= value * 1.001 if outwards == "low" else one >= value / 1.001)]
        return float(f"{fit[-1] if outwards == 'low' else fit[0]:.0e}")
    unit = 10.0 ** (math.floor(math.log10(domain.high - domain.low)) - 1)
    return float(f"{towards(value / unit + (1e-9 if outwards == 'low' else -1e-9)) * unit:.6g}")


def _may(key: str, value: float) -> bool:
    owner: dict[str, Value] = {"scheduler": name} if (name := _owner(key)) else {}
    try:
        Params.from_flat({**owner, key: value})
    except BadParams:
        return False
    return True


def _owner(key: str) -> SchedulerName | None:
    return next((name for name, kind in SCHEDULER_OF.items() if key in {field.name for field in fields(kind)}), None)


def written(domain: Range, key: str) -> str:
    """Spell a range as a study's file does."""
    ends = [repr(int(end) if _whole(key) else float(end)) for end in (domain.low, domain.high)]
    rest = ", log = true" if domain.log else "" if domain.step is None else f", step = {domain.step!r}"
    return f"{{ low = {ends[0]}, high = {ends[1]}{rest} }}"


def _whole(key: str) -> bool:
    return isinstance(DEFAULTS[key], int)


def spelled(value: Value) -> str:
    """Spell one value as TOML does."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)
