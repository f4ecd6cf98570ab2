"""Which ranges to widen or to narrow, and which choices to leave out.

Not here: how findings are put together (advice.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from mlc_core import Value
from search.bounds import EDGE, edge_share, narrower, place, spelled, wider, written
from search.declaration import Choice, Declaration, Domain, Range
from search.effects import Effect, confounders, effect
from search.evidence import GROUP, LEAST, Advice, Change, Figures, finding, standing
from search.views import TrialRow

SURE: Final = 0.05  # how often chance alone may give a reason to change anything, of all ends and choices together
TREND: Final = 0.05  # of each alone, at equal values of the other parameters
WORTH: Final = 0.15  # of a range; to leave out less is not worth a change
_GOOD: Final = 5  # one trial in so many is a good one
_SHUFFLES: Final = 2000
_SEED: Final = 0

Array = NDArray[np.float64]

_advice = partial(finding, "range")


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One searched parameter, and the trials that have it, the best first."""

    table: str  # of the study's file
    key: str
    domain: Domain
    rows: Sequence[TrialRow]
    good: int  # how many of them are good ones
    keys: Sequence[str]  # what every trial of the study draws
    sure: float  # SURE, shared out evenly

    @property
    def told(self) -> str:
        return f"{self.key} of {self.table.rpartition('.')[2]}" if self.table.count(".") > 1 else self.key


def range_advice(declaration: Declaration, rows: Sequence[TrialRow]) -> list[Advice]:
    """Look at each range and choice of the space.

    Trials are taken in one order, see `search.evidence.standing`; the best fifth, five at least, are the good ones.

    A range is too narrow where the good ones crowd within a tenth of it at an end (binomial test against an even
    spread) and trials become better towards that end. Part of a range, or a choice, is not worth its trials where none
    of five or more is good, and all together are worse than the rest (Mann-Whitney's statistic, against shuffles in
    which the part is looked for again).

    A sampler leaves a part alone when it has learned what else is good: what was tried early only was tried beside
    poor values of the rest. So each must hold at equal learning rate too, see `search.effects.confounders`. The level
    is shared out among all ends and choices (Bonferroni).
    """
    ranked = standing(rows)
    good = min(max(GROUP, math.ceil(len(ranked) / _GOOD)), len(ranked) // 2)
    if len(ranked) < 2 * LEAST:
        said = f"Ranges and choices: {len(ranked)} trials are too few, {2 * LEAST} are needed."
        return [_advice("space", "too few", said, "", ranked, {})]
    chosen = {row.number for row in ranked[:good]}
    asked = [len(domain.values) if isinstance(domain, Choice) else 2 for *_, domain in _domains(declaration)]
    sure = SURE / sum(asked) if asked else SURE
    found: list[Advice] = []
    for table, key, domain in _domains(declaration):
        own = [row for row in ranked if key in row.params]
        drawn = _Drawn(table, key, domain, own, sum(row.number in chosen for row in own), [*declaration.space], sure)
        found += _of_choice(drawn) if isinstance(domain, Choice) else _of_range(drawn, domain)
    return found or [
        _advice(
            "space",
            "open",
            "Ranges and choices: none that should clearly change.",
            f"no crowd of the {good} best of {len(ranked)} trials at an end, no part that is clearly worse",
            ranked,
            {"good": good},
        )
    ]


def _domains(declaration: Declaration) -> Iterator[tuple[str, str, Domain]]:
    for key, domain in declaration.space.items():
        yield "space", key, domain
    for name, branch in declaration.branches.items():
        for key, domain in branch.items():
            yield f"space.scheduler.{name}", key, domain


def _of_range(drawn: _Drawn, domain: Range) -> list[Advice]:
    if len(drawn.rows) < LEAST or drawn.good < 3 or domain.low == domain.high:
        return []
    places = np.array([place(domain, cast("float", row.params[drawn.key])) for row in drawn.rows])
    found, low, high = [], domain.low, domain.high
    for end in ("low", "high"):
        mirrored = places if end == "low" else 1 - places
        advice, bound = _crowd(drawn, domain, mirrored, end) or _barren(drawn, domain, mirrored, end) or (None, None)
        if advice is not None and bound is not None:
            found.append(advice)
            low, high = (bound, high) if end == "low" else (low, bound)
    if not found or not low < high:
        return []
    change = Change(table=drawn.table, key=drawn.key, text=written(replace(domain, low=low, high=high), drawn.key))
    return [replace(advice, change=change) for advice in found]


def _crowd(drawn: _Drawn, domain: Range, places: Array, end: str) -> tuple[Advice, float] | None:
    """Tell whether good trials crowd at the end at 0."""
    from scipy.stats import binom  # costs a second, and only this needs it

    edge = places <= EDGE + 1e-9
    crowd = int(edge[: drawn.good].sum())
    even = edge_share(domain, drawn.key, end)
    p = float(binom.sf(crowd - 1, drawn.good, even))
    bound = wider(domain, drawn.key, end)
    if crowd < 3 or p >= drawn.sure or bound is None:
        return None
    slope = _at_equal(drawn, places, places <= 0.5)
    if slope is None or slope.p >= TREND or slope.size < 0:
        return None
    direction = "lower" if end == "low" else "higher"
    said = f"{drawn.told}: the good trials crowd at its {end} end; allow {direction} values."
    evidence = (
        f"{crowd} of the {drawn.good} good trials lie within a tenth of the range at {getattr(domain, end):g}, "
        f"{even * drawn.good:.1f} would by an even spread (p = {p:.2g}); {len(places)} trials have it"
    )
    figures: Figures = {"end": end, "crowd": crowd, "good": drawn.good, "p": p, "bound": bound}
    return _advice(drawn.key, "change", said, evidence, drawn.rows, figures), bound


def _barren(drawn: _Drawn, domain: Range, places: Array, end: str) -> tuple[Advice, float] | None:
    """Tell whether the part from the end at 0 to the first good trial is worse than the rest."""
    order = np.argsort(places, kind="stable")
    first = float(places[: drawn.good].min())
    if first < WORTH:
        return None
    count, statistic = _run(order[None, :], drawn.good)
    if count[0] < GROUP:
        return None
    random = np.random.default_rng(_SEED)
    shuffled = random.permuted(np.tile(order, (_SHUFFLES, 1)), axis=1)
    p = (1 + int(np.sum(_run(shuffled, drawn.good)[1] >= statistic[0]))) / (_SHUFFLES + 1)
    bound = narrower(domain, drawn.key, max(first - EDGE, first / 2), end)
    if p >= drawn.sure or bound is None:
        return None
    worse = _at_equal(drawn, places < first)
    if worse is None or worse.p >= TREND or worse.size < 0:
        return None
    part = [drawn.rows[at] for at in order[: count[0]]]
    direction = "below" if end == "low" else "above"
    best = drawn.rows[int(order[: count[0]].min())].number
    values = [cast("float", row.params[drawn.key]) for row in part]
    edge = max(values) if end == "low" else min(values)
    said = f"{drawn.told}: nothing good came of values {direction} {bound:.2g}; leave them out."
    evidence = (
        f"none of {len(part)} trials {'up to' if end == 'low' else 'from'} {edge:.2g} is among the {drawn.good} good "
        f"ones of {len(places)}, and they are worse than the rest (p = {p:.2g}); best of them: trial {best}"
    )
    figures: Figures = {"end": end, "part": len(part), "good": drawn.good, "p": p, "bound": bound}
    return _advice(drawn.key, "change", said, evidence, drawn.rows, figures), bound


def _of_choice(drawn: _Drawn) -> list[Advice]:
    domain = cast("Choice", drawn.domain)
    worse: dict[Value, tuple[int, float]] = {}
    for value in domain.values:
        inside = np.array([row.params[drawn.key] == value for row in drawn.rows])
        if inside.sum() < GROUP or inside[: drawn.good].any() or inside.all():
            continue
        p, worse_too = _worse(inside), _at_equal(drawn, inside)
        if p < drawn.sure and worse_too is not None and worse_too.p < TREND and worse_too.size > 0:
            worse[value] = int(inside.sum()), p
    left = [value for value in domain.values if value not in worse]
    found = []
    for value, (count, p) in worse.items():
        said = f"{drawn.key}: nothing good came of {value}; leave it out."
        evidence = (
            f"none of its {count} trials is among the {drawn.good} good ones of {len(drawn.rows)}, and they are worse "
            f"than the rest (p = {p:.2g})"
        )
        if drawn.key == "scheduler":
            change = Change(table="", key=f"[space.scheduler.{value}]", text="")
        else:
            change = Change(table=drawn.table, key=drawn.key, text=f"[{', '.join(map(spelled, left))}]")
        figures: Figures = {"value": value, "part": count, "good": drawn.good, "p": p}
        found.append(_advice(drawn.key, "change", said, evidence, drawn.rows, figures, change=change))
    return found


def _at_equal(drawn: _Drawn, asked: Array | NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> Effect | None:
    """Tell how the place in the order changes with what is asked, at equal values of the other parameters."""
    at = np.flatnonzero(among) if among is not None else np.arange(len(drawn.rows))
    rows = [drawn.rows[int(one)] for one in at]
    return effect(at.tolist(), np.asarray(asked, float)[at].tolist(), confounders(rows, drawn.key, drawn.keys))


def _worse(inside: NDArray[np.bool_]) -> float:
    """One-sided p of Mann and Whitney's test that ranks inside are higher than the others, exact for few trials."""
    from scipy.stats import mannwhitneyu  # costs a second, and only this needs it

    ranks = np.arange(len(inside))
    return float(mannwhitneyu(ranks[inside], ranks[~inside], alternative="greater").pvalue)


def _run(orders: NDArray[np.int64], good: int) -> tuple[NDArray[np.int64], Array]:
    """Count the trials before the first good one of each order, and how much worse than the rest they are, as a z."""
    total = orders.shape[1]
    counts = np.argmax(orders < good, axis=1)
    ahead = np.arange(total) < counts[:, None]
    mean = np.where(ahead, orders, 0).sum(axis=1) / np.maximum(counts, 1)
    spread = np.sqrt((total + 1) * (total - counts) / 12 / np.maximum(counts, 1))
    z = (mean - (total - 1) / 2) / np.maximum(spread, 1e-12)
    return counts, np.where(counts >= GROUP, z, -np.inf)
