"""Which architectures a study's space has, what they take to be used as far as it is known, and which is too much.

Both measures depend on the architecture alone, so they are known before a trial trains. Not here: the measurement
(mlc_core/footprint.py), and who makes it (weighing.py); trials that are compared by two objectives (pareto.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final, cast

from optuna.trial import FrozenTrial

from mlc_core import DEFAULTS, Footprint, Measure, Value
from search.declaration import Choice, Declaration

LATENCY: Final = "latency_ms"  # trial attribute: milliseconds an image
SIZE: Final = "size_mb"  # trial attribute: megabytes of weights
OVER: Final = "over_limit"  # trial attribute: why it was not trained
CONSTRAINTS: Final = "constraints"  # trial's system attribute, Optuna's: above 0 what is over; its dashboard reads it
UNITS: Final[Mapping[Measure, str]] = {"latency": "ms", "size": "MB"}
_PREFIX: Final = "mlc:footprint:"  # study attribute, one an architecture: what it was measured to take


@dataclass(frozen=True, slots=True, order=True)
class Architecture:
    """What decides about a footprint, in a study whose classes, precision and threads are settled."""

    backbone: str
    stem: str
    image_size: int  # pixels, both sides

    @classmethod
    def of(cls, flat: Mapping[str, Value], declaration: Declaration) -> Architecture:
        """Take it from a trial's parameters, those left out that the study holds constant."""
        full = {**DEFAULTS, **declaration.fixed, **flat}
        return cls(str(full["backbone"]), str(full["stem"]), int(full["image_size"]))

    @property
    def key(self) -> str:
        """Name the study's attribute that remembers it."""
        return f"{_PREFIX}{self.backbone}/{self.stem}/{self.image_size}"

    def __str__(self) -> str:
        return f"{self.backbone} with the {self.stem} stem at {self.image_size} pixels"


@dataclass(frozen=True, slots=True)
class Footprints:
    """What a study remembers of its architectures."""

    known: Mapping[Architecture, Footprint]
    declaration: Declaration

    @classmethod
    def of(cls, attributes: Mapping[str, Any], declaration: Declaration) -> Footprints:
        """Read them from the study's attributes."""
        found = {}
        for key, text in attributes.items():
            if key.startswith(_PREFIX):
                backbone, stem, image_size = key.removeprefix(_PREFIX).split("/")
                found[Architecture(backbone, stem, int(image_size))] = parse(text)
        return cls(found, declaration)

    def allows(self, flat: Mapping[str, Value]) -> bool:
        """Tell whether a configuration is within the limits, as far as is known."""
        footprint = self.known.get(Architecture.of(flat, self.declaration))
        return footprint is None or not over(footprint, self.declaration.limits)

    def second(self, flat: Mapping[str, Value]) -> float:
        """Give a configuration's second objective.

        One that nobody has measured counts as the nearest of its kind, and without one as the least of all: it is worth
        a try.
        """
        against, own = cast("Measure", self.declaration.against), Architecture.of(flat, self.declaration)
        kin = [one for one in self.known if (one.backbone, one.stem) == (own.backbone, own.stem)]
        if kin:
            nearest = min(kin, key=lambda one: (abs(one.image_size - own.image_size), one.image_size))
            return self.known[nearest].of(against)
        return min((one.of(against) for one in self.known.values()), default=1.0)

    def worst(self) -> float:
        """Give the largest second objective of all that are within the limits; 1 where none is known."""
        within = [one for one in self.known.values() if not over(one, self.declaration.limits)]
        return max((one.of(cast("Measure", self.declaration.against)) for one in within), default=1.0)


def architectures(declaration: Declaration) -> list[Architecture]:
    """List all that the study's trials may draw; the backbones as declared, small images first."""
    backbones, stems, sizes = (_values(declaration, key) for key in ("backbone", "stem", "image_size"))
    return [
        Architecture(str(backbone), str(stem), int(size))
        for backbone, stem, size in product(backbones, stems, sorted(map(int, sizes)))
    ]


def over(footprint: Footprint, limits: Mapping[Measure, float]) -> str:
    """Say which limits a footprint is over, as ``latency 7.2 ms is over the limit of 5 ms``; empty if none."""
    return ", ".join(
        f"{measure} {footprint.of(measure):.3g} {UNITS[measure]} is over the limit of {limit:g} {UNITS[measure]}"
        for measure, limit in limits.items()
        if footprint.of(measure) > limit
    )


def constraints(footprint: Footprint, limits: Mapping[Measure, float]) -> list[float]:
    """Spell by how much it is over each limit, as Optuna has it: no trial with one above 0 is a best one."""
    return [footprint.of(measure) - limit for measure, limit in limits.items()]


def footprint_of(trial: FrozenTrial) -> Footprint | None:
    """Read what a trial's network takes; None where that was not measured."""
    attributes = trial.user_attrs
    return read(attributes.get(LATENCY), attributes.get(SIZE))


def read(latency: float | None, size: float | None) -> Footprint | None:
    """Put together what was stored of a trial."""
    return None if latency is None or size is None else Footprint(latency=latency, size=size)


def spelled(footprint: Footprint) -> str:
    """Spell it for a study's attribute; `parse` takes it back."""
    return json.dumps(asdict(footprint))


def parse(text: str) -> Footprint:
    """Read what `spelled` has written."""
    return Footprint(**json.loads(text))


def _values(declaration: Declaration, key: str) -> Iterable[Value]:
    domain = declaration.space.get(key)
    if domain is None:
        return (declaration.fixed.get(key, DEFAULTS[key]),)
    if isinstance(domain, Choice):
        return domain.values
    return range(int(domain.low), int(domain.high) + 1, int(domain.step or 1))  # only image_size is a number
