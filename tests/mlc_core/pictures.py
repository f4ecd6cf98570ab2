"""Digit scenes as files of the kinds that people have: each another picture, or a worse copy of one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlc_core import Listing, digits
from mlc_core.data.listing import Row, listing

SIDE = 256  # pixels


def scene(number: int, *, side: int = SIDE) -> Image.Image:
    """A scene enlarged to the size of a photograph; no two numbers show the same."""
    pixels = np.ascontiguousarray(_scenes()[number].transpose(1, 2, 0))
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


@cache
def _scenes() -> NDArray[np.uint8]:
    return digits().train.images


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def jpeg(image: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=quality)
    return content.getvalue()


def laid_out(
    folder: Path, files: Mapping[str, tuple[bytes, Sequence[str], str]], *, classes: Sequence[str] | None = None
) -> Listing:
    """Write files, each with its labels and split, and list them."""
    folder.mkdir(exist_ok=True)
    for name, (content, _, _) in files.items():
        (folder / name).write_bytes(content)
    rows = [
        Row(path=name, labels=tuple(labels), where=f"labels.csv, row {number}", split=split)
        for number, (name, (_, labels, split)) in enumerate(files.items(), start=2)
    ]
    return listing(folder, rows, format="csv", classes=classes)
