"""Tiny real images, and what a listing says, spelled by names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlc_core.data.listing import Listing


def picture(path: Path, shade: int = 0) -> Path:
    """Write an image; another shade, another content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (shade, 40, 80)).save(path)
    return path


def pictures(root: Path, *names: str) -> Path:
    """Write images, each of its own shade."""
    for shade, name in enumerate(names):
        picture(root / name, 20 * shade)  # so far apart that also JPEG keeps them so
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def labels(listing: Listing) -> dict[str, set[str]]:
    return {entry.path: {listing.classes[label] for label in entry.labels} for entry in listing.entries}


def splits(listing: Listing) -> dict[str, str | None]:
    return {entry.path: entry.split for entry in listing.entries}


def multi_hot(listing: Listing) -> NDArray[np.int64]:
    hot = np.zeros((len(listing.entries), len(listing.classes)), np.int64)
    for row, entry in enumerate(listing.entries):
        hot[row, list(entry.labels)] = 1
    return hot
