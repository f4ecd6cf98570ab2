"""Footprints are measured, each architecture's once for the whole study, and trials that are over a limit told apart.

Not here: the measurement itself (mlc_core/footprint.py); what is made of footprints (footprints.py, pareto.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from optuna.trial import Trial

from mlc_core import Flat, Footprint, Params, choose, measure
from search.errors import SearchError
from search.footprints import (
    CONSTRAINTS,
    LATENCY,
    OVER,
    SIZE,
    Architecture,
    Footprints,
    architectures,
    constraints,
    over,
    parse,
    spelled,
)
from search.study import Study
from search.trials import is_replay, together

FEW: Final = 12  # architectures that are all measured before the first trial: a second each


class NothingFits(SearchError):
    """Whatever the study may draw is over a limit."""

    def __init__(self, study: str, least: str) -> None:
        super().__init__(
            f"Study {study!r}: all that it may draw is over a limit, also {least}. Raise it in [limits], or let "
            "[space] hold smaller networks; --extend takes both."
        )


def weigh_space(study: Study, *, classes: int, precision: str) -> None:
    """Measure the study's architectures, before anything else keeps the machine busy; of many the smallest alone.

    Of many, each backbone and stem is tried at its smallest images, until one is within the limits; what is not
    measured here is when a trial draws it.

    Raises
    ------
    NothingFits
    """
    declaration = study.declaration
    if not declaration.weighs:
        return
    space = architectures(declaration)
    first = list({(one.backbone, one.stem): one for one in reversed(space)}.values())[::-1]
    few = len(space) <= FEW
    least: dict[Architecture, str] = {}
    for one in space if few else first:
        said = over(_recalled(study, one, classes=classes, precision=precision), declaration.limits)
        if not said and not few:
            return
        least[one] = said
    if all(least.values()):
        one, said = min(least.items(), key=lambda pair: _excess(study, pair[0]))
        raise NothingFits(study.name, f"{one}: {said}")


def weigh(
    study: Study, trial: Trial, flat: Mapping[str, Any], *, classes: int, precision: str
) -> tuple[Footprint | None, str]:
    """Give a trial the footprint of what it has drawn.

    Returns
    -------
    Footprint or None
        None in a study that asks for none.
    str
        Why it is not to be trained; empty where it is, as any replay.
    """
    declaration = study.declaration
    if not declaration.weighs:
        return None, ""
    footprint = _recalled(study, Architecture.of(flat, declaration), classes=classes, precision=precision)
    said = "" if is_replay(trial) else over(footprint, declaration.limits)
    with together(study.storage):
        trial.set_user_attr(LATENCY, footprint.latency)
        trial.set_user_attr(SIZE, footprint.size)
        if declaration.limits:
            left = constraints(footprint, declaration.limits)
            study.storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, left)
        if said:
            trial.set_user_attr(OVER, said)
    return footprint, said


def _recalled(study: Study, architecture: Architecture, *, classes: int, precision: str) -> Footprint:
    """Give what the study remembers, or measure it: whoever comes first decides for all."""
    known = _known(study).known.get(architecture)
    if known is not None:
        return known
    flat: Flat = {"backbone": architecture.backbone, "stem": architecture.stem, "image_size": architecture.image_size}
    compute = choose(precision=precision, threads=study.threads)
    found = measure(Params.from_flat(flat), classes=classes, compute=compute)
    return parse(study.ledger.remember(architecture.key, spelled(found)))


def _known(study: Study) -> Footprints:
    return Footprints.of(study.storage.get_study_user_attrs(study.optuna._study_id), study.declaration)


def _excess(study: Study, architecture: Architecture) -> float:
    """Tell how many times over a limit an architecture is, which was measured."""
    footprint = _known(study).known[architecture]
    return max(footprint.of(kind) / limit for kind, limit in study.declaration.limits.items())
