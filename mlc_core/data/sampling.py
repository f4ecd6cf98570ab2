"""Which training images an epoch takes, and in which order: images with rare classes more often, the others less.

Not here: how an image is varied once it is taken (augment.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlc_core.data.dataset import Uint8
from mlc_core.params import Params


@dataclass(frozen=True, slots=True, eq=False)
class Sampling:
    """How an epoch draws from the training images.

    Attributes
    ----------
    rare : (n,), bool
        Which images carry a rare class.
    repeats : (n,), float64
        How often an image is drawn, in relation to others; 1 where it carries no rare class.
    """

    rare: NDArray[np.bool_]
    repeats: NDArray[np.float64]

    @classmethod
    def of(cls, labels: Uint8, params: Params) -> Sampling:
        """Find the rare classes of the training images' labels, (n, classes), by `rare_below` and `rare_repeat`.

        An image repeats by the largest of its classes' sqrt(rare_below / share), between 1 and `rare_repeat`.
        Source: repeat factor sampling, Gupta et al. 2019 (LVIS); the upper limit is ours.
        """
        share = labels.mean(axis=0)
        # A class that no image carries has no share to divide by, and nothing to repeat.
        factors = np.sqrt(params.rare_below / np.where(share > 0, share, 1)).clip(1, params.rare_repeat)
        rare = np.any(labels[:, share < params.rare_below], axis=1)
        return cls(rare, np.where(labels, factors, 1).max(axis=1))

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw an epoch's images: (n,), int64; as many as there are, so that every epoch costs the same.

        Where all repeat alike each comes once. Otherwise a regular comb goes over the images in random order, each
        as wide as it repeats (systematic resampling, Carpenter et al. 1999): an image comes as often as it should
        on average, rounded up or down.
        """
        n = len(self.repeats)
        order = torch.randperm(n, generator=generator)
        if self.repeats.min() == self.repeats.max():
            return order
        ends = self.repeats[order.numpy()].cumsum()
        teeth = (np.arange(n) + float(torch.rand((), generator=generator))) * (ends[-1] / n)
        taken = order[torch.from_numpy(np.searchsorted(ends, teeth, side="right").clip(max=n - 1))]
        # Shuffled once more, because an image that comes twice would come twice in the same batch.
        return taken[torch.randperm(n, generator=generator)]

    def shares(self, labels: Uint8) -> NDArray[np.float64]:
        """Return the share of an epoch's images that carry each class, on average: (classes,), from 0 to 1.

        Common classes gain as well, where they stand beside rare ones.
        """
        effective: NDArray[np.float64] = np.average(labels, axis=0, weights=self.repeats)
        return effective
