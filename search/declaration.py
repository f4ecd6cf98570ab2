"""A study as a person writes it: TOML in, a checked Declaration out, and what differs between two.

Not here: how a trial draws from the space (space.py), how Optuna's sampler and pruner are made (strategy.py).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast, get_args

from mlc_core import (
    DEFAULTS,
    EPOCHS,
    KEYS,
    OBJECTIVES,
    SCHEDULER_OF,
    SCHEDULERS,
    BadParams,
    Measure,
    Objective,
    Params,
    SchedulerName,
    Value,
    did_you_mean,
)
from mlc_core import without_effect as of_other_losses
from search.errors import BadDeclaration
from search.options import PRUNERS, SAMPLERS, NoPruner, Promote, Pruner, Sampler, Tpe

BUILT_IN: Final = ("default",)  # studies that travel with the package
Table = Mapping[str, Any]  # one TOML table


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included; whole ones where the parameter is whole."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


Domain = Choice | Range


_WHOLE: Final = {  # key at the top: default, smallest, largest
    "epochs": (EPOCHS, 1, 100_000),
    "seed": (0, 0, 2**63 - 1),
    "retries": (2, 0, 100),
    "keep": (5, 1, 10_000),
    "keep_mb": (2_000, 1, 100_000_000),
}
_THREADS: Final = (1, 1, 1024)  # as above, or "auto"
_NAME: Final = r"\w[\w .-]{0,199}"
_TABLES: Final = ("sampler", "pruner", "space", "fixed", "limits")
MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
_LIMIT: Final = (0.001, 1_000_000)  # of a limit, milliseconds or megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A checked study declaration."""

    name: str
    epochs: int  # full length of a trial
    objective: Objective  # what the search is about, measured on the validation split
    seed: int
    threads: int | None  # CPU threads of one trial; None: "auto", as the first run measures
    retries: int  # of a trial that failed or was lost
    keep: int  # how many of the best trials keep their weights
    keep_mb: int  # at most, of all of them together, megabytes; the very best is kept in any case
    sampler: Sampler
    pruner: Pruner
    space: Mapping[str, Domain]  # what every trial draws, "scheduler" included unless fixed
    branches: Mapping[SchedulerName, Mapping[str, Domain]]  # what a scheduler draws besides
    fixed: Mapping[str, Value]
    against: Measure | None = None  # a second objective, the lower the better
    limits: Mapping[Measure, float] = field(default_factory=dict)  # milliseconds an image, megabytes of weights

    @property
    def weighs(self) -> bool:
        """Whether its trials are measured before they train."""
        return self.against is not None or bool(self.limits)

    def to_table(self) -> dict[str, Any]:
        """Spell it as TOML would, every default written out; `from_table` takes it back."""
        space: dict[str, Any] = {key: _domain_table(domain) for key, domain in self.space.items()}
        if self.branches:
            space["scheduler"] = {
                name: {key: _domain_table(domain) for key, domain in branch.items()}
                for name, branch in self.branches.items()
            }
        return {
            "name": self.name,
            "objective": self.objective,
            **{key: getattr(self, key) for key in _WHOLE},
            "threads": "auto" if self.threads is None else self.threads,
            "sampler": {"name": _name_of(self.sampler, SAMPLERS), **asdict(self.sampler)},
            "pruner": {"name": _name_of(self.pruner, PRUNERS), **asdict(self.pruner)},
            "space": space,
            "fixed": dict(self.fixed),
            **({} if self.against is None else {"against": self.against}),  # as TOML has no null
            **({"limits": dict(self.limits)} if self.limits else {}),
        }


def read(path: Path, *, overrides: Mapping[str, int] | None = None) -> Declaration:
    """Read a user's own TOML file.

    Parameters
    ----------
    path : Path
    overrides : mapping, optional
        Values from the command line that win over the file's, such as ``{"epochs": 3}``.

    Raises
    ------
    BadDeclaration
        The file cannot be read or a key of it is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadDeclaration(str(path), "file", f"it cannot be read: {error.strerror}.") from None
    return _parse(content, where=str(path), name=path.stem, overrides=overrides or {})


def built_in(name: str, *, overrides: Mapping[str, int] | None = None) -> Declaration:
    """Read a declaration that travels with the package, one of BUILT_IN."""
    content = (files("studies") / f"{name}.toml").read_bytes()
    return _parse(content, where=f"{name}.toml", name=name, overrides=overrides or {})


def from_table(table: Table, *, where: str, name: str = "") -> Declaration:
    """Check every key of a parsed TOML document.

    Parameters
    ----------
    where : str
        What an error names as the place.
    name : str
        The study's name if the document does not say one.

    Raises
    ------
    BadDeclaration
        Naming the key, the value and what is allowed.
    """
    _known(table, ("name", "objective", "against", *_WHOLE, "threads", *_TABLES), where=where, prefix="")
    for key in _TABLES:
        if not isinstance(table.get(key, {}), Mapping):
            raise BadDeclaration(where, key, f"{table[key]!r} is not a table: write [{key}].")
    called = table.get("name", name)
    if not isinstance(called, str) or not re.fullmatch(_NAME, called) or called.endswith(".toml"):
        problem = (
            f"{called!r} is not a name of 1 to 200 letters, digits, spaces, '.', '_' and '-', .toml not at the end."
        )
        raise BadDeclaration(where, "name", problem)
    objective = table.get("objective", "bce")
    if objective not in tuple(OBJECTIVES):  # a list from the file could not be looked up
        problem = f"{objective!r} is not one of {', '.join(OBJECTIVES)}.{did_you_mean(objective, OBJECTIVES)}"
        raise BadDeclaration(where, "objective", problem)
    numbers = {
        key: cast("int", _number(table.get(key, default), whole=True, low=low, high=high, where=where, key=key))
        for key, (default, low, high) in _WHOLE.items()
    }
    sampler = cast("Sampler", _named(table.get("sampler", {}), SAMPLERS, "curves", where=where, key="sampler"))
    if isinstance(sampler, Tpe) and sampler.group and not sampler.multivariate:
        raise BadDeclaration(where, "sampler.group", "true needs multivariate = true; set both to false.")
    pruner = cast("Pruner", _named(table.get("pruner", {}), PRUNERS, "promote", where=where, key="pruner"))
    first = getattr(pruner, "min_resource", 1)
    if first > numbers["epochs"]:
        problem = f"{first} is more than the {numbers['epochs']} epochs of a trial."
        raise BadDeclaration(where, "pruner.min_resource", problem)
    against = _against(table, pruner, where=where)
    space, branches = _space(table.get("space", {}), where=where)
    fixed = _fixed(table.get("fixed", {}), space, branches, where=where)
    return Declaration(
        name=called,
        objective=objective,
        threads=_threads(table, where=where),
        sampler=sampler,
        pruner=pruner,
        space=space,
        branches=branches,
        fixed=fixed,
        against=against,
        limits=_limits(table.get("limits", {}), where=where),
        **numbers,
    )


def without_effect(declared: Declaration) -> list[str]:
    """Say which of its parameters change nothing, because no trial trains with the loss that they belong to."""
    losses = declared.space.get("loss")
    drawn = losses.values if isinstance(losses, Choice) else (declared.fixed.get("loss", DEFAULTS["loss"]),)
    return of_other_losses((*declared.space, *declared.fixed), drawn)


def differences(before: Declaration, now: Declaration) -> list[str]:
    """One line for each key that differs, as ``space.lr.high: 0.01, now 0.1``; the name does not count."""
    old, new = _flatten(before.to_table()), _flatten(now.to_table())
    keys = [*old, *(key for key in new if key not in old)]
    absent = "absent"
    tables = {key[:end] for key in keys for end, sign in enumerate(key) if sign == "."}
    said = {key for key in keys if key in tables and {} in (old.get(key), new.get(key))}  # by what they hold elsewhere
    return [
        f"{key}: {old.get(key, absent)}, now {new.get(key, absent)}"
        for key in keys
        if key not in ("name", *said) and old.get(key, absent) != new.get(key, absent)
    ]


def _parse(content: bytes, *, where: str, name: str, overrides: Mapping[str, int]) -> Declaration:
    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        raise BadDeclaration(where, "file", f"it is not valid TOML: {error}.") from None
    return from_table({**table, **overrides}, where=where, name=name)


def _space(table: Table, *, where: str) -> tuple[dict[str, Domain], dict[SchedulerName, dict[str, Domain]]]:
    space: dict[str, Domain] = {}
    branches: dict[SchedulerName, dict[str, Domain]] = {}
    shared = tuple(key for key in Params().to_flat() if key not in _owners())
    _known(table, shared, where=where, prefix="space.")
    for key, written in table.items():
        if key != "scheduler":
            space[key] = _domain(key, written, where=where, at=f"space.{key}")
    schedulers = table.get("scheduler", {})
    if not isinstance(schedulers, Mapping):
        problem = f"{schedulers!r} is not a table: write [space.scheduler.step] and so on, one a scheduler."
        raise BadDeclaration(where, "space.scheduler", problem)
    _known(schedulers, SCHEDULERS, where=where, prefix="space.scheduler.")
    for name, branch in schedulers.items():
        own = [field.name for field in fields(SCHEDULER_OF[cast("SchedulerName", name)])]
        at = f"space.scheduler.{name}"
        if not isinstance(branch, Mapping):
            raise BadDeclaration(where, at, f"{branch!r} is not a table: write [{at}].")
        _known(branch, own, where=where, prefix=f"{at}.")
        branches[name] = {key: _domain(key, branch[key], where=where, at=f"{at}.{key}") for key in branch}
    if branches:
        space["scheduler"] = Choice(tuple(branches))
    return space, branches


def _fixed(
    table: Table, space: Mapping[str, Domain], branches: Mapping[SchedulerName, Mapping[str, Domain]], *, where: str
) -> dict[str, Value]:
    _known(table, KEYS, where=where, prefix="fixed.")
    for key, value in table.items():
        if key in space or any(key in branch for branch in branches.values()):
            raise BadDeclaration(where, f"fixed.{key}", "it is in [space] too; leave it in one of the two.")
        if key in _owners() and table.get("scheduler") != _owners()[key]:
            problem = f"it belongs to the {_owners()[key]} scheduler, which [fixed] does not name."
            raise BadDeclaration(where, f"fixed.{key}", problem)
        _allowed(key, value, where=where, at=f"fixed.{key}")
    return dict(table)


def _domain(key: str, written: object, *, where: str, at: str) -> Domain:
    match written:
        case [*values] if values:
            for position, value in enumerate(values):
                _allowed(key, value, where=where, at=f"{at}[{position}]")
            if len(set(values)) < len(values):
                raise BadDeclaration(where, at, f"{values!r} names a choice twice.")
            return Choice(tuple(cast("list[Value]", values)))
        case {"low": _, "high": _} if not isinstance(DEFAULTS[key], str):
            return _range(key, cast("Table", written), where=where, at=at)
        case _:
            wanted = "a list of choices"
            if not isinstance(DEFAULTS[key], str):
                wanted += " or a range such as { low = 1, high = 2 }"
            raise BadDeclaration(where, at, f"{written!r} is not {wanted}. A constant belongs to [fixed].")


def _range(key: str, table: Table, *, where: str, at: str) -> Range:
    _known(table, [field.name for field in fields(Range)], where=where, prefix=f"{at}.")
    whole = isinstance(DEFAULTS[key], int)
    for end in ("low", "high"):
        _allowed(key, table[end], where=where, at=f"{at}.{end}")
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    if low > high:
        raise BadDeclaration(where, f"{at}.low", f"{low!r} is above high, {high!r}.")
    if not isinstance(log, bool):
        raise BadDeclaration(where, f"{at}.log", f"{log!r} is not true or false.")
    if log and low <= 0:
        raise BadDeclaration(where, f"{at}.low", f"{low!r} is not above 0, as log = true needs.")
    if step is None:
        return Range(low, high, log)
    if log:
        raise BadDeclaration(where, f"{at}.step", "a range has a step or log = true, not both.")
    _number(step, whole=whole, low=1 if whole else 1e-12, high=1e9, where=where, key=f"{at}.step")
    # In decimals, as Optuna reckons: it would lower high, and warn of that in every trial.
    if (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)) != 0:
        raise BadDeclaration(where, f"{at}.step", f"steps of {step!r} from {low!r} do not end at {high!r}.")
    return Range(low, high, log, step)


def _domain_table(domain: Domain) -> object:
    match domain:
        case Choice(values=values):
            return list(values)
        case Range(step=None):
            return {"low": domain.low, "high": domain.high, "log": domain.log}
        case Range():
            return asdict(domain)


def _against(table: Table, pruner: Pruner, *, where: str) -> Measure | None:
    against = table.get("against")
    if against is None:
        return None
    if against not in MEASURES:
        problem = f"{against!r} is not one of {', '.join(MEASURES)}.{did_you_mean(against, MEASURES)}"
        raise BadDeclaration(where, "against", problem)
    if not isinstance(pruner, Promote | NoPruner):
        named = _name_of(pruner, PRUNERS)
        problem = f"{named} judges trials by one objective, and against = {against!r} makes them two: promote or none."
        raise BadDeclaration(where, "pruner.name", problem)
    return cast("Measure", against)


def _limits(table: Table, *, where: str) -> dict[Measure, float]:
    _known(table, MEASURES, where=where, prefix="limits.")
    low, high = _LIMIT
    return {
        measure: _number(table[measure], whole=False, low=low, high=high, where=where, key=f"limits.{measure}")
        for measure in MEASURES
        if measure in table
    }


def _threads(table: Table, *, where: str) -> int | None:
    default, low, high = _THREADS
    written = table.get("threads", default)
    if isinstance(written, str):
        if written != "auto":
            raise BadDeclaration(where, "threads", f"{written!r} is not auto or a whole number from {low} to {high}.")
        return None
    return cast("int", _number(written, whole=True, low=low, high=high, where=where, key="threads"))


def _named(table: Table, kinds: Mapping[str, type[Any]], default: str, *, where: str, key: str) -> object:
    name = table.get("name", default)
    if not isinstance(name, str) or name not in kinds:
        problem = f"{name!r} is not one of {', '.join(kinds)}.{did_you_mean(name, kinds)}"
        raise BadDeclaration(where, f"{key}.name", problem)
    options = {field.name: field for field in fields(kinds[name])}
    _known(table, ("name", *options), where=where, prefix=f"{key}.")
    for option, value in table.items():
        if option == "name":
            continue
        whole, flag = options[option].type == "int", options[option].type == "bool"
        if flag:
            if not isinstance(value, bool):
                raise BadDeclaration(where, f"{key}.{option}", f"{value!r} is not true or false.")
            continue
        bounds = options[option].metadata
        _number(value, whole=whole, low=bounds["low"], high=bounds["high"], where=where, key=f"{key}.{option}")
    return kinds[name](**{option: value for option, value in table.items() if option != "name"})


def _number(got: object, *, whole: bool, low: float, high: float, where: str, key: str) -> int | float:
    kinds = int if whole else int | float
    if not isinstance(got, kinds) or isinstance(got, bool) or not low <= got <= high:
        kind = "whole number" if whole else "number"
        raise BadDeclaration(where, key, f"{got!r} is not a {kind} from {low} to {high}.")
    return got


def _allowed(key: str, value: object, *, where: str, at: str) -> None:
    """Ask Params whether the value may be, by the one sentence that it has for it."""
    owner = {"scheduler": _owners()[key]} if key in _owners() else {}
    try:
        Params.from_flat({**owner, key: cast("Value", value)})
    except BadParams as error:
        raise BadDeclaration(where, at, f"{error.got!r} is not {error.allowed}.{error.hint}") from None


def _known(table: Table, known: Iterable[str], *, where: str, prefix: str) -> None:
    known = tuple(known)
    for key in table:
        if key not in known:
            there = f"one of {', '.join(known)}" if known else "known; it takes none"
            raise BadDeclaration(where, f"{prefix}{key}", f"the key is not {there}.{did_you_mean(key, known)}")


def _owners() -> dict[str, SchedulerName]:
    return {field.name: name for name, kind in SCHEDULER_OF.items() for field in fields(kind)}


def _name_of(option: object, kinds: Mapping[str, type[Any]]) -> str:
    return next(name for name, kind in kinds.items() if isinstance(option, kind))


def _flatten(table: Table, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        at = f"{prefix}{key}"
        flat |= _flatten(value, f"{at}.") if isinstance(value, Mapping) and value else {at: value}
    return flat
