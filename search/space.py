"""From a declaration's space to what one trial draws.

Not here: the declaration's syntax (declaration.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never, cast

from optuna.trial import Trial

from mlc_core import DEFAULTS, SchedulerName, Value
from search.declaration import Choice, Declaration, Domain, Range


def suggest(trial: Trial, declaration: Declaration) -> dict[str, Value]:
    """Draw a value for every parameter of the space, then for those of the scheduler that was drawn.

    Returns
    -------
    dict
        Flat parameters, the fixed ones included, as `mlc_core.Params.from_flat` takes them.
    """
    drawn = {key: _draw(trial, key, domain) for key, domain in declaration.space.items()}
    branch = declaration.branches.get(cast("SchedulerName", drawn.get("scheduler")), {})
    drawn |= {key: _draw(trial, key, domain) for key, domain in branch.items()}
    return {**declaration.fixed, **drawn}


def outside(declaration: Declaration, flat: Mapping[str, Value]) -> str | None:
    """Name the first of these parameters that the space would never draw, with its value; None if all could be.

    A parameter that the study does not search is never outside: a trial that brings its own keeps it.
    """
    scheduler = cast("SchedulerName", flat.get("scheduler"))
    domains = {**declaration.space, **declaration.branches.get(scheduler, {})}
    for key, value in flat.items():
        if key in domains and not _holds(domains[key], value):
            return f"{key} = {value!r}"
    return None


def _draw(trial: Trial, key: str, domain: Domain) -> Value:
    match domain:
        case Choice(values=values):
            return cast("Value", trial.suggest_categorical(key, values))
        case Range(low=low, high=high, log=log, step=step) if isinstance(DEFAULTS[key], int):
            return trial.suggest_int(key, int(low), int(high), log=log, step=int(step or 1))
        case Range(low=low, high=high, log=log, step=step):
            return trial.suggest_float(key, low, high, log=log, step=step)
        case other:
            assert_never(other)


def _holds(domain: Domain, value: Value) -> bool:
    match domain:
        case Choice(values=values):
            return value in values
        case Range(low=low, high=high, step=step):
            if isinstance(value, str) or not low <= value <= high:
                return False
            steps = 0.0 if step is None else (value - low) / step
            return abs(steps - round(steps)) < 1e-8  # as Optuna reckons
        case other:
            assert_never(other)
