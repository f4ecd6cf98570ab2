"""A data set so small that an epoch takes a moment, with something in it to learn; the same in every process."""

from __future__ import annotations

import hashlib

import numpy as np

from mlc_core import Dataset, Split

SIZE = 16  # pixels, both sides
CLASSES = ("left", "right", "top")


def tiny(*, train: int = 96, val: int = 32, test: int = 32) -> Dataset:
    """Noise in which each class lights up a half of its own channel."""
    splits = {
        name: _split(np.random.default_rng(seed), images)
        for seed, (name, images) in enumerate({"train": train, "val": val, "test": test}.items())
    }
    digest = hashlib.sha256(b"".join(split.images.tobytes() + split.labels.tobytes() for split in splits.values()))
    return Dataset("tiny", CLASSES, **splits, fingerprint=f"tiny:{digest.hexdigest()[:16]}")


def _split(rng: np.random.Generator, images: int) -> Split:
    labels = rng.integers(0, 2, (images, len(CLASSES)), dtype=np.uint8)
    pixels = rng.integers(0, 100, (images, 3, SIZE, SIZE), dtype=np.uint8)
    half = SIZE // 2
    pixels[labels[:, 0] == 1, 0, :, :half] += 120
    pixels[labels[:, 1] == 1, 1, :, half:] += 120
    pixels[labels[:, 2] == 1, 2, :half, :] += 120
    return Split(pixels, labels)
