"""What a data set is once it is read: uint8 images and multi-hot labels in three splits, checked.

Not here: how images come to be (digits.py); what training does to them (augment.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import BadData

Uint8 = NDArray[np.uint8]

_ALL: Final = np.empty(0, np.int64)  # in place of rows that were left out

STATS_IMAGES: Final = 5000  # a mean over so many does not move any more, and a worker starts without a pause


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes
    ----------
    images : (stored, 3, height, width), uint8, RGB
        Those of this split alone, or a store that several splits share, mapped from a file.
    labels : (n, classes), uint8, 0 or 1
    rows : (n,), int64
        Where the split's images are in `images`; by default all of them, in order.
    """

    images: Uint8
    labels: Uint8
    rows: NDArray[np.int64] = field(default_factory=lambda: _ALL)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != np.uint8:
            raise BadData(
                f"images: {self.images.dtype} of shape {self.images.shape} is not uint8 of shape (n, 3, height, width)."
            )
        if self.labels.ndim != 2 or self.labels.dtype != np.uint8:
            raise BadData(
                f"labels: {self.labels.dtype} of shape {self.labels.shape} is not uint8 of shape (n, classes)."
            )
        if 0 in self.images.shape[2:] or self.labels.shape[1] == 0:
            raise BadData(
                f"Images of shape {self.images.shape} with labels of shape {self.labels.shape} hold no pixel or no "
                "class."
            )
        if self.rows is _ALL:
            object.__setattr__(self, "rows", np.arange(len(self.images)))
        if len(self.rows) != len(self.labels):
            raise BadData(f"{len(self.rows)} images have {len(self.labels)} rows of labels; give one row an image.")
        if len(self.rows) == 0:
            raise BadData("A split holds no image; training, validation and test each need at least one.")
        if self.rows.min() < 0 or self.rows.max() >= len(self.images):
            raise BadData(f"rows: an image outside the {len(self.images)} stored ones is asked for.")
        if self.labels.max() > 1:
            raise BadData(f"labels hold the value {self.labels.max()}; a label is 0 or 1.")

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits over the same classes.

    Attributes
    ----------
    name : str
    classes : tuple of str
        Names, in the order of the label columns.
    fingerprint : str
        Equal for equal images, labels and splits; a checkpoint or a worker with another one is refused.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    fingerprint: str

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            columns = getattr(self, name).labels.shape[1]
            if columns != len(self.classes):
                raise BadData(f"{self.name}: {name} has {columns} label columns for {len(self.classes)} classes.")
        if len(self.train) == 1:
            raise BadData(f"{self.name}: one training image has no variance to normalize by; give at least two.")

    @cached_property
    def channel_stats(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation a channel over training images, (3,) each, in units of [0, 255].

        Over all of them where they are at most STATS_IMAGES.
        """
        step = -(-len(self.train) // STATS_IMAGES)  # every one, or evenly spaced ones of a large set
        # Counts are exact integers, so the result does not depend on how a reduction is split over threads.
        counts = np.zeros((3, 256), np.int64)
        for rows in np.array_split(self.train.rows[::step], -(-len(self.train) // (16 * step))):
            images = self.train.images[rows]
            counts += [np.bincount(images[:, c].ravel(), minlength=256) for c in range(3)]
        levels = np.arange(256)
        pixels = counts.sum(axis=1)
        mean = (counts @ levels) / pixels
        variance = (counts @ levels**2) / pixels - mean**2
        return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1.0)).astype(np.float32)
