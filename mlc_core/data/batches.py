"""Images of one split, taken in normalized batches on the compute device, whatever is trained on them.

Not here: how a batch is varied (augment.py).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlc_core.data.augment import normalize
from mlc_core.data.dataset import Split


class Images:
    """One split, ready to be taken in batches.

    Parameters
    ----------
    split : Split
    mean, std : (3,), float32
        A channel, in units of [0, 255].
    size : int
        Pixels, both sides, of what comes out.
    device : torch.device
    """

    def __init__(
        self, split: Split, mean: NDArray[np.float32], std: NDArray[np.float32], size: int, device: torch.device
    ) -> None:
        self.mean = torch.from_numpy(mean).to(device)[None, :, None, None]
        self.std = torch.from_numpy(std).to(device)[None, :, None, None]
        self.size, self.device = size, device
        self.images, self.rows = torch.from_numpy(split.images), torch.from_numpy(split.rows)
        self.labels = torch.from_numpy(split.labels).to(device, torch.float32)
        taken = len(self.rows) * self.images[0].nbytes
        if device.type == "cuda" and taken < torch.cuda.mem_get_info(device)[0] // 3:
            self.images = self.images[self.rows].to(device)  # once, instead of every batch over the bus
            self.rows = torch.arange(len(self.rows))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalized images (n, 3, size, size), float32, channels_last, and labels (n, classes), float32."""
        images = self.images.index_select(0, self.rows[index].to(self.images.device))  # [] copies byte by byte
        if images.device.type != self.device.type:  # "cuda" and "cuda:0" are one device, but not equal
            images = images.pin_memory().to(self.device, non_blocking=True)
        batch = normalize(images, mean=self.mean, std=self.std, size=self.size)
        return batch, self.labels[index.to(self.device)]
