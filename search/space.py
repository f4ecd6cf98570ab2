"""From a declaration's space to what one trial draws.

Not here: the declaration's syntax (declaration.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import assert_never, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from mlc_core import DEFAULTS, SCHEDULER_OF, SchedulerName, Value
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


def domains(declaration: Declaration, scheduler: object) -> dict[str, Domain]:
    """Give what a trial with this scheduler draws from, by parameter; of an unknown scheduler what all have."""
    return {**declaration.space, **declaration.branches.get(cast("SchedulerName", scheduler), {})}


def constants(declaration: Declaration, scheduler: object) -> dict[str, Value]:
    """Give what a trial with this scheduler trains with besides: as the study fixes it, else as a fit's default is."""
    searched = domains(declaration, scheduler)
    owned = {field.name for name, kind in SCHEDULER_OF.items() if name != scheduler for field in fields(kind)}
    held = {**DEFAULTS, **declaration.fixed}
    return {key: value for key, value in held.items() if key not in searched and key not in owned}


def distribution(key: str, domain: Domain) -> BaseDistribution:
    """Spell a parameter's domain as Optuna stores it with each trial."""
    match domain:
        case Choice(values=values):
            return CategoricalDistribution(values)
        case Range(low=low, high=high, log=log, step=step) if isinstance(DEFAULTS[key], int):
            return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        case Range(low=low, high=high, log=log, step=step):
            return FloatDistribution(low, high, log=log, step=step)
        case other:
            assert_never(other)


def outside(declaration: Declaration, flat: Mapping[str, Value]) -> str | None:
    """Name the first of these parameters that the space would never draw, with its value; None if all could be.

    A parameter that the study does not search is never outside: a trial that brings its own keeps it.
    """
    searched = domains(declaration, flat.get("scheduler"))
    for key, value in flat.items():
        if key in searched and not _holds(searched[key], value):
            return f"{key} = {value!r}"
    return None


def _draw(trial: Trial, key: str, domain: Domain) -> Value:
    match distribution(key, domain):
        case CategoricalDistribution() as one:
            return cast("Value", trial.suggest_categorical(key, one.choices))
        case IntDistribution() as one:
            return trial.suggest_int(key, one.low, one.high, log=one.log, step=one.step)
        case FloatDistribution() as one:
            return trial.suggest_float(key, one.low, one.high, log=one.log, step=one.step)
        case other:
            raise TypeError(f"no parameter has a {type(other).__name__}")


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
