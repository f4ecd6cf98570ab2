"""A torch dataset as one of ours: each of its items an image with its labels, taken into memory once.

Not here: data on disk (load.py), which stay there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from mlc_core.data.dataset import Dataset, Split, Uint8
from mlc_core.data.listing import SPLITS
from mlc_core.data.split import assign
from mlc_core.errors import BadData
from mlc_core.params import check_image_size


class Items(Protocol):
    """What torch calls a map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:  # noqa: ANN401 - an image and its labels
        ...


def from_torch(
    items: Items | Sequence[Items],
    classes: Sequence[str],
    *,
    image_size: int,
    seed: int = 0,
) -> Dataset:
    """Take a map-style torch dataset of (image, labels) into memory.

    Parameters
    ----------
    items : torch.utils.data.Dataset, or three of them
        One is split by multi-label stratification; three are training, validation and test. An image is a PIL image,
        or an array or tensor (3, height, width), uint8 or floats in [0, 1]. Labels are (classes,) of 0 and 1, or
        class indices.
    classes : sequence of str
        Names, in the order of the labels.
    image_size : int
        Pixels, both sides, to which every image is resized.
    seed : int
        Of the split.

    Raises
    ------
    BadData, BadParams
        Naming the item that cannot be used, or the image size.
    """
    check_image_size(image_size)
    parts = list(items) if isinstance(items, list | tuple) else [items]
    if len(parts) not in (1, 3):
        raise BadData(f"{len(parts)} datasets: give one, or three: training, validation and test.")
    read = [_read(part, classes, image_size) for part in parts]
    images, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    n = len(images)
    if len(parts) == len(SPLITS):
        splits = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [len(own) for _, own in read])
    else:
        splits = assign(labels, given=np.full(n, -1, np.int8), groups=np.arange(n), seed=seed)
    train, val, test = (
        Split(images, labels[rows], rows) for rows in (np.flatnonzero(splits == n) for n in range(len(SPLITS)))
    )
    digest = hashlib.sha256(repr((images.shape, tuple(classes))).encode())
    for array in (images, labels, splits):
        digest.update(array.tobytes())
    return Dataset("torch", tuple(classes), train, val, test, f"torch:{digest.hexdigest()[:16]}")


def _read(items: Items, classes: Sequence[str], size: int) -> tuple[Uint8, Uint8]:
    images = np.empty((len(items), 3, size, size), np.uint8)
    labels = np.zeros((len(items), len(classes)), np.uint8)
    for number in range(len(items)):
        try:
            image, own = items[number]
        except (TypeError, ValueError):
            raise BadData(f"Item {number} is not a pair of an image and its labels.") from None
        images[number] = _image(image, number, size)
        labels[number] = _labels(own, number, len(classes))
    return images, labels


def _image(image: Any, number: int, size: int) -> Uint8:  # noqa: ANN401 - whatever a dataset holds
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    tensor = torch.as_tensor(np.array(image) if not isinstance(image, torch.Tensor) else image)
    if tensor.dim() != 3 or tensor.shape[0] != 3 or 0 in tensor.shape:
        raise BadData(f"Item {number}: an image of shape {tuple(tensor.shape)} is not (3, height, width).")
    if tensor.is_floating_point():
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):
            raise BadData(f"Item {number}: floats of an image lie in [0, 1]; leave the normalization to the fit.")
        tensor = tensor * 255
    elif tensor.dtype != torch.uint8:
        raise BadData(f"Item {number}: an image of {tensor.dtype} is neither uint8 nor floats in [0, 1].")
    floats = tensor.to(torch.float32)[None]
    if floats.shape[-2:] != (size, size):
        floats = functional.interpolate(floats, size=(size, size), mode="bilinear", antialias=True)
    resized: Uint8 = floats[0].round().clamp(0, 255).to(torch.uint8).numpy()
    return resized


def _labels(own: Any, number: int, classes: int) -> Uint8:  # noqa: ANN401 - whatever a dataset holds
    try:
        values = np.asarray(own)
    except ValueError:  # lists of several lengths
        values = np.array(None)
    if values.shape == (classes,) and np.isin(values, (0, 1)).all():
        return values.astype(np.uint8)
    if values.ndim > 1 or (values.size and not (values.dtype.kind in "buif" and _indices(values.ravel(), classes))):
        raise BadData(
            f"Item {number}: labels are {classes} values of 0 and 1, or different indices from 0 to {classes - 1}."
        )
    hot = np.zeros(classes, np.uint8)
    hot[values.ravel().astype(np.int64)] = 1
    return hot


def _indices(values: Iterable[Any], classes: int) -> bool:
    """Whether these are distinct classes; a vector of 0 and 1 of another length is not."""
    numbers = [float(value) for value in values]
    return len(set(numbers)) == len(numbers) and all(n.is_integer() and 0 <= n < classes for n in numbers)
