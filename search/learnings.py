"""What the documented project learned, asked again of this study: schedulers, optimizers, weight decay, batch size.

Not here: how a question is answered (questions.py); which trials are compared (evidence.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from mlc_core import Objective
from search.evidence import Advice, Sample, best_cost, diverged, scaled, val_losses
from search.questions import Question, answers
from search.stability_advice import jumps
from search.views import TrialRow

SMOOTHER: Final = "The plateau scheduler smoothed early training."
LATER: Final = "Cosine annealing converged better later."
NOT_BETTER: Final = "AdamW was not much better than Adam."
STEADIER: Final = "AdamW was a little more stable than Adam."
REGULAR: Final = "Weight decay and batch size matter for regularization."
MUCH: Final = 0.1  # better: of the loss, or of a score
RISES: Final = "rises of the loss, summed up"
_NAMES: Final[dict[Objective, str]] = {"bce": "loss", "macro_f1": "macro F1", "map": "mAP"}


def learnings(sample: Sample, rows: Sequence[TrialRow], keys: Sequence[str]) -> list[Advice]:
    """Ask each of the document's learnings of the trials.

    Groups are compared at equal learning rate, and at equal values of the other parameters as far as the number of
    trials allows: see `search.effects.confounders`. A scheduler's own parameters are as they were drawn. The p-values
    are adjusted for the number of questions; what is then below 0.05 is found, anything else is open.

    Parameters
    ----------
    rows : sequence of TrialRow
        All of the study.
    keys : sequence of str
        What every trial draws.
    """
    questions = [
        *_schedulers(sample, rows),
        *_optimizers(sample),
        *_along(sample, "weight_decay", "ten times the weight decay", math.log(10)),
        *_along(sample, "batch_size", "twice the batch size", math.log(2)),
    ]
    return answers(questions, keys)


def rises(losses: Sequence[float]) -> float:
    """Sum up by how much a curve went up where it did, as the logarithm of a factor; 0 of one that only falls."""
    return sum(max(0.0, math.log(max(after, 1e-12) / max(before, 1e-12))) for before, after in pairwise(losses))


def _schedulers(sample: Sample, rows: Sequence[TrialRow]) -> list[Question]:
    own = [row for row in rows if row.paper is None and row.state != "failed"]
    half = max(1, math.ceil(sample.epochs / 2))
    early = max(2, min(half, sample.epoch))
    young = [row for row in own if len(val_losses(row)) >= early]
    grown = [row for row in own if row.state == "complete" and {half, sample.epochs} <= row.reports.keys()]
    at_half = scaled(sample, [best_cost(row, half) for row in grown])
    at_end = scaled(sample, [best_cost(row, sample.epochs) for row in grown])
    first = Question(
        about="plateau against cosine, early",
        key="scheduler",
        pair=("plateau", "cosine"),
        unit=1.0,
        more="plateau",
        rows=young,
        values=[rises(val_losses(row)[:early]) for row in young],
        measure=RISES,
        told=_percent,
        better="Plateau is smoother than cosine in the first epochs.",
        worse="Cosine is smoother than plateau in the first epochs.",
        claim=SMOOTHER,
        holds=_lower,
        where=f"in the epochs 1 to {early}",
    )
    late = replace(
        first,
        about="cosine against plateau, late",
        pair=("cosine", "plateau"),
        more="cosine",
        rows=grown,
        values=[end - half_way for end, half_way in zip(at_end, at_half, strict=True)],
        measure=f"{_NAMES[sample.objective]} gained",
        told=_telling(sample),
        better="Cosine gains more than plateau in the second half.",
        worse="Plateau gains more than cosine in the second half.",
        claim=LATER,
        where=f"from epoch {half} to the end",
    )
    final = replace(
        late,
        about="cosine against plateau, at the end",
        values=at_end,
        measure=_NAMES[sample.objective],
        better="Cosine ends better than plateau.",
        worse="Plateau ends better than cosine.",
        where=f"after all {sample.epochs} epochs",
    )
    return [first, late, final]


def _optimizers(sample: Sample) -> list[Question]:
    level = Question(
        about="AdamW against Adam, how good",
        key="optimizer",
        pair=("adamw", "adam"),
        unit=1.0,
        more="AdamW",
        rows=sample.rows,
        values=scaled(sample, sample.costs),
        measure=_NAMES[sample.objective],
        told=_telling(sample),
        better="AdamW is better than Adam.",
        worse="Adam is better than AdamW.",
        claim=NOT_BETTER,
        holds=lambda size: size > -MUCH,
        where=_at(sample),
    )
    curves = [(row, val_losses(row)[: sample.epoch]) for row in sample.rows if diverged(row) or val_losses(row)]
    worst = max((rises(curve) for _, curve in curves), default=0.0)
    unsteady = [row for row, curve in curves if diverged(row) or jumps(curve)]
    counts = [sum(row.params.get("optimizer") == name for row in unsteady) for name in ("adamw", "adam")]
    steady = replace(
        level,
        about="AdamW against Adam, how steady",
        rows=[row for row, _ in curves],
        values=[worst if diverged(row) else rises(curve) for row, curve in curves],
        measure=RISES,
        told=_percent,
        better="AdamW is steadier than Adam.",
        worse="Adam is steadier than AdamW.",
        claim=STEADIER,
        holds=_lower,
        where=f"in the epochs 1 to {sample.epoch}; diverged or jumped: {counts[0]} with AdamW, {counts[1]} with Adam",
    )
    return [level, steady]


def _along(sample: Sample, key: str, more: str, unit: float) -> list[Question]:
    name = key.replace("_", " ")
    level = Question(
        about=f"{name}, how good",
        key=key,
        pair=None,
        unit=unit,
        more=more,
        rows=sample.rows,
        values=scaled(sample, sample.costs),
        measure=_NAMES[sample.objective],
        told=_telling(sample),
        better=f"More {name} is better.",
        worse=f"More {name} is worse.",
        claim=REGULAR,
        holds=bool,  # that there is a difference
        where=_at(sample),
    )
    gaps = [(row, gap) for row in sample.rows if (gap := _gap(row, sample.epoch)) is not None]
    regular = replace(
        level,
        about=f"{name}, how regular",
        rows=[row for row, _ in gaps],
        values=[gap for _, gap in gaps],
        measure="validation over training loss",
        told=_factor,
        better=f"More {name} overfits less.",
        worse=f"More {name} overfits more.",
    )
    return [level, regular]


def _gap(row: TrialRow, epoch: int) -> float | None:
    """Compare validation and training loss of an epoch: the logarithm of their ratio."""
    train, val = row.metrics.get("train_loss", []), row.metrics.get("val_loss", [])
    if len(train) < epoch or len(val) < epoch or not (train[epoch - 1] > 0 and val[epoch - 1] > 0):
        return None
    return math.log(val[epoch - 1] / train[epoch - 1])


def _lower(size: float) -> bool:
    return size < 0


def _telling(sample: Sample) -> Callable[[float], str]:
    return _factor if sample.objective == "bce" else lambda size: f"{-size:+.3f}"  # of scores, costs are the negative


def _factor(size: float) -> str:
    return f"{math.expm1(size):+.1%}"


def _percent(size: float) -> str:
    return f"{size:+.1%}"


def _at(sample: Sample) -> str:
    return f"after all {sample.epochs} epochs" if sample.epoch == sample.epochs else f"at epoch {sample.epoch}"
