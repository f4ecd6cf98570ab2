"""The default study's space, read from its declaration, for tools that have no mlc-search. Standard library only."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DECLARATION: Final = Path(__file__).parents[4] / "studies" / "default.toml"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """A number from low to high, both included; whole numbers where both are."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Domain = Choice | Range


@dataclass(frozen=True, slots=True)
class Space:
    """What the search chooses."""

    common: Mapping[str, Domain]  # the choice of a scheduler among them
    branches: Mapping[str, Mapping[str, Domain]]  # by scheduler: what it alone needs

    @property
    def flat(self) -> dict[str, Domain]:
        """Every parameter always: for tools that know no conditions."""
        branches = (branch.items() for branch in self.branches.values())
        return {**self.common, **{key: domain for branch in branches for key, domain in branch}}


def read() -> Space:
    """Read the declaration's space."""
    declared = tomllib.loads(DECLARATION.read_text(encoding="utf-8"))["space"]
    branches = {
        name: {key: _domain(told) for key, told in branch.items()} for name, branch in declared.pop("scheduler").items()
    }
    common = {key: _domain(told) for key, told in declared.items()}
    return Space({**common, "scheduler": Choice(tuple(branches))}, branches)


def _domain(told: Any) -> Domain:
    return Choice(tuple(told)) if isinstance(told, list) else Range(**told)
