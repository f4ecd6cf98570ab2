"""What crosses the border between a fit and whoever asked for it. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, assert_never

BEST: Final = "best.safetensors"  # in a fit's checkpoint folder: the weights of its best epoch

Objective = Literal["bce", "macro_f1", "map"]
Direction = Literal["minimize", "maximize"]

Measure = Literal["latency", "size"]  # of a network's use, known before it is trained

OBJECTIVES: Final[dict[Objective, Direction]] = {"bce": "minimize", "macro_f1": "maximize", "map": "maximize"}


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What one epoch of training measured."""

    epoch: int  # counted from 1
    epochs: int  # how many the fit was asked for
    train_loss: float  # mean of the loss that trains (Params.loss); under dropout, augmentation and sampling
    val_loss: float  # mean BCE over image-label pairs of the validation split, nats, whatever loss trains
    macro_f1: float  # of the validation split, classes predicted from probability 1/2 upwards
    mean_ap: float  # mean average precision over the classes that the validation split has
    lr: float  # used during this epoch
    seconds: float  # training and evaluation of this epoch
    micro_batch: int  # images of one forward and backward pass, the same in all epochs of a fit

    def value(self, objective: Objective) -> float:
        """Return what a fit with this objective is judged by."""
        match objective:
            case "bce":
                return self.val_loss
            case "macro_f1":
                return self.macro_f1
            case "map":
                return self.mean_ap
            case other:
                assert_never(other)


def cost(value: float, objective: Objective) -> float:
    """Turn an objective's value into one of which the lowest is the best."""
    return value if OBJECTIVES[objective] == "minimize" else -value


def best_epoch(reports: Iterable[EpochReport], objective: Objective) -> EpochReport:
    """Return the best of at least one report; of equal ones the first."""
    return min(reports, key=lambda report: cost(report.value(objective), objective))


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What it takes to use a network, however well it is trained."""

    latency: float  # milliseconds an image, in batches of one
    size: float  # megabytes of weights, 10**6 bytes each

    def of(self, measure: Measure) -> float:
        """Return one of the two."""
        return self.latency if measure == "latency" else self.size


class OnEpoch(Protocol):
    """Called once the epoch's checkpoint is on disk; False stops the fit after this epoch.

    Where memory ran out, the fit has started again: epoch 1 follows, with a smaller `micro_batch` in its report.
    """

    def __call__(self, report: EpochReport, /) -> bool:  # noqa: D102 - the class says it
        ...
