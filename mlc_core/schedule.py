"""How a scheduler moves the learning rate, as far as its parameters alone tell. Standard library only."""

from __future__ import annotations

import math
from typing import assert_never

from mlc_core.params import Cosine, Plateau, Scheduler, Step


def lr_factors(scheduler: Scheduler, epochs: int) -> list[float]:
    """Give what the learning rate is multiplied by in each epoch.

    Parameters
    ----------
    scheduler : Step, Plateau or Cosine
        What a plateau scheduler does depends on the losses: here it never finds a plateau.
    epochs : int

    Returns
    -------
    list of float, (epochs,), in [0, 1]
    """
    match scheduler:
        case Step(step_size=step_size, gamma=gamma):
            return [gamma ** (epoch // step_size) for epoch in range(epochs)]
        case Cosine(t_max=t_max):
            return [(1 + math.cos(math.pi * epoch / t_max)) / 2 for epoch in range(epochs)]
        case Plateau():
            return [1.0] * epochs
        case other:
            assert_never(other)
