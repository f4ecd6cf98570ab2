"""What crosses the border between a fit and whoever asked for it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

BEST: Final = "best.safetensors"  # in a fit's checkpoint folder: the weights of its best epoch


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What one epoch of training measured."""

    epoch: int  # counted from 1
    epochs: int  # how many the fit was asked for
    train_loss: float  # mean BCE over image-label pairs, nats; under dropout and augmentation
    val_loss: float  # mean BCE over image-label pairs of the validation split, nats
    lr: float  # used during this epoch
    seconds: float  # training and evaluation of this epoch


class OnEpoch(Protocol):
    """Called once the epoch's checkpoint is on disk; False stops the fit after this epoch."""

    def __call__(self, report: EpochReport, /) -> bool:  # noqa: D102 - the class says it
        ...
