"""Which trials were unstable: those that diverged, whose loss jumped or rose at the end, or that hang on their seed.

Not here: how findings are put together (advice.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from statistics import mean, median
from typing import Final

from search.confirm import Verdict as Confirmation
from search.declaration import Declaration
from search.evidence import GROUP, Advice, Change, Figures, diverged, finding, numbers, val_losses
from search.views import TrialRow, leaderboard

JUMP: Final = 1.25  # times the loss of the epoch before; less is what epochs do
OVERFIT: Final = 1.05  # times the best epoch's loss, at the end
EARLY: Final = 2 / 3  # of the epochs; a best epoch before is far from the end
RISING: Final = 0.05  # by how much the loss should fall in the last quarter for more epochs to be worth it
SURE: Final = 0.05  # of one trial's spread over seeds against the others'

_advice = partial(finding, "stability")


def stability_advice(
    declaration: Declaration, rows: Sequence[TrialRow], confirmed: Sequence[Confirmation]
) -> list[Advice]:
    """Look at what trials reported, epoch by epoch, and at their repetitions.

    A trial's loss jumped where one epoch's validation loss is a quarter above the epoch's before. It overfits where the
    best epoch lies in the first two thirds and the last one's loss is 5 % above it. Replays of documented trials train
    without what the study fixes, and are left out.
    """
    own = [row for row in rows if row.paper is None and row.state != "failed"]
    return [
        *_diverged([row for row in own if row.reports or diverged(row)]),
        *_jumped([row for row in own if len(val_losses(row)) > 1]),
        *_ending(declaration, [row for row in own if row.state == "complete" and val_losses(row)]),
        *_seeds(confirmed, rows),
    ]


def jumps(losses: Sequence[float]) -> list[int]:
    """List the epochs, counted from 1, whose loss jumped."""
    return [at for at, (before, loss) in enumerate(pairwise(losses), 2) if loss > JUMP * before]


def _diverged(rows: Sequence[TrialRow]) -> Iterator[Advice]:
    lost = [row for row in rows if diverged(row)]
    if not lost:
        if len(rows) >= GROUP:
            yield _advice("divergence", "found", f"None of {len(rows)} trials diverged.", "", rows, {"diverged": []})
        return
    said = f"{len(lost)} of {len(rows)} trials diverged: {numbers(lost)}."
    p, evidence = _lr_of(lost, [row for row in rows if row not in lost])
    if p is not None and p < SURE:
        said += " Their learning rates are higher than the others'."
    yield _advice(
        "divergence", "found", said, evidence or lost[0].note, rows, {"diverged": [row.number for row in lost], "p": p}
    )


def _jumped(rows: Sequence[TrialRow]) -> Iterator[Advice]:
    spiked = [row for row in rows if jumps(val_losses(row))]
    if len(rows) < GROUP:
        return
    if not spiked:
        said = f"No validation loss jumped by a quarter from one epoch to the next in {len(rows)} trials."
        yield _advice("loss jumps", "found", said, "", rows, {"jumped": []})
        return
    said = f"The validation loss jumped in {len(spiked)} of {len(rows)} trials: {numbers(spiked)}."
    p, evidence = _lr_of(spiked, [row for row in rows if row not in spiked])
    worst = max(spiked, key=lambda row: max(b / a for a, b in pairwise(val_losses(row))))
    at = max(jumps(val_losses(worst)), key=lambda one: val_losses(worst)[one - 1] / val_losses(worst)[one - 2])
    losses = val_losses(worst)
    evidence = f"most in trial {worst.number}: {losses[at - 2]:.3g} to {losses[at - 1]:.3g} in epoch {at}; {evidence}"
    figures = {"jumped": [row.number for row in spiked], "p": p}
    yield _advice("loss jumps", "found", said, evidence.rstrip("; "), rows, figures)


def _ending(declaration: Declaration, rows: Sequence[TrialRow]) -> Iterator[Advice]:
    """Tell overfitting from stopping too early."""
    if declaration.epochs < 3:
        return
    if len(rows) < GROUP:
        said = f"Length of a trial: {len(rows)} complete trials are too few, {GROUP} are needed."
        yield _advice("epochs", "too few", said, "", rows, {})
        return
    over = [row for row in rows if _overfits(val_losses(row))]
    figures: Figures = {"overfit": [row.number for row in over]}
    if over:
        rise = median(val_losses(row)[-1] / min(val_losses(row)) - 1 for row in over)
        at = median(val_losses(row).index(min(val_losses(row))) + 1 for row in over)
        said = f"{len(over)} of {len(rows)} complete trials overfit: {numbers(over)}."
        evidence = f"best epoch {at:g} of {declaration.epochs}, the last one's loss {rise:.0%} above it (medians)"
        yield _advice("overfitting", "found", said, evidence, rows, {**figures, "rise": rise, "best_epoch": at})
    else:
        said = f"None of {len(rows)} complete trials overfits: the best epoch is near the end."
        yield _advice("overfitting", "found", said, "", rows, figures)
    best = [row for row in leaderboard(rows)[: max(GROUP, len(rows) // 4)] if row not in over]
    quarter = math.ceil(declaration.epochs * 3 / 4)
    falls = [1 - min(val_losses(row)) / min(val_losses(row)[:quarter]) for row in best]
    if len(best) >= GROUP and median(falls) > RISING:
        more = math.ceil(declaration.epochs * 1.5)
        said = f"The best trials still learn at their end; try {more} epochs."
        evidence = (
            f"the loss of the best {len(best)} of {len(rows)} complete trials falls by {median(falls):.0%} after epoch "
            f"{quarter} of {declaration.epochs} (median)"
        )
        change = Change(table="", key="epochs", text=str(more))
        figures = {"fall": median(falls), "from": quarter, "epochs": more}
        yield _advice("epochs", "change", said, evidence, best, figures, change=change)


def _seeds(confirmed: Sequence[Confirmation], rows: Sequence[TrialRow]) -> Iterator[Advice]:
    """Tell how much a seed is worth, and whose spread over seeds is more than the others'."""
    several = [one.row for one in confirmed if len(one.row.values) > 1]
    if not several:
        said = "How much hangs on the seed is not known: no trial was repeated. mlc-search confirm does it."
        yield _advice("seeds", "too few", said, "", [], {})
        return
    freedom = {one.trial.number: len(one.values) - 1 for one in several}
    squares = {one.trial.number: freedom[one.trial.number] * (one.spread or 0.0) ** 2 for one in several}
    pooled = math.sqrt(sum(squares.values()) / sum(freedom.values()))
    level = mean(abs(one.mean or 0.0) for one in several)
    best = leaderboard(row for row in rows if row.paper is None)
    near = [row for row in best[1:] if abs((row.value or 0.0) - (best[0].value or 0.0)) < 2 * pooled]
    said = f"Another seed moves the value by {pooled:.2g} (standard deviation, {pooled / level:.0%} of the mean)."
    if near:
        said += f" {len(near)} trials of the search are within two of that of the best: {numbers(near)}."
    evidence = f"{len(several)} trials over {sum(freedom.values()) + len(freedom)} seeds in all"
    figures: Figures = {"spread": pooled, "relative": pooled / level, "near": [row.number for row in near]}
    yield _advice("seeds", "found", said, evidence, [one.trial for one in several], figures)
    for one in several:
        rest = [number for number in freedom if number != one.trial.number]
        others = sum(squares[number] for number in rest)
        if not others or not one.spread:
            continue
        from scipy.stats import f  # costs a second, and only this needs it

        own, free = freedom[one.trial.number], sum(freedom[number] for number in rest)
        ratio = one.spread**2 / (others / free)
        p = min(1.0, float(f.sf(ratio, own, free)) * len(several))
        if p < SURE:
            said = f"Trial {one.trial.number} hangs on its seed more than the other confirmed ones."
            evidence = (
                f"standard deviation {one.spread:.2g} over {own + 1} seeds, the others' {math.sqrt(others / free):.2g} "
                f"(F test, for {len(several)} trials: p = {p:.2g})"
            )
            figures = {"trial": one.trial.number, "spread": one.spread, "p": p}
            yield _advice("seeds", "found", said, evidence, [one.trial], figures)


def _overfits(losses: Sequence[float]) -> bool:
    best = min(losses)
    return losses.index(best) + 1 <= EARLY * len(losses) and losses[-1] > OVERFIT * best


def _lr_of(some: Sequence[TrialRow], others: Sequence[TrialRow]) -> tuple[float | None, str]:
    """Compare learning rates by Mann and Whitney's test, one-sided: p, and in words."""
    theirs, rest = ([float(row.params["lr"]) for row in rows if "lr" in row.params] for rows in (some, others))
    if len(theirs) < 3 or len(rest) < 3:
        return None, ""
    from scipy.stats import mannwhitneyu  # costs a second, and only this needs it

    p = float(mannwhitneyu(theirs, rest, alternative="greater").pvalue)
    return p, f"median learning rate {median(theirs):.2g}, of the others {median(rest):.2g} (higher: p = {p:.2g})"
