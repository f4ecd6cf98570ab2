"""A folder of small real pictures with a manifest; each class lights up a half of its own channel."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("left", "right", "top")


def manifest(folder: Path, *, images: int = 60, size: int = 24, seed: int = 0, split: bool = False) -> Path:
    """Write pictures and labels.csv; the same bytes for the same arguments."""
    rng = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True)
    file = folder / "labels.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", *CLASSES, *(["split"] if split else [])])
        for number in range(images):
            labels = rng.integers(0, 2, len(CLASSES))
            picture(folder / f"pictures/{number:03}.png", labels.tolist(), size=size, rng=rng)
            name = ("train", "train", "val", "test")[number % 4]
            writer.writerow([f"pictures/{number:03}.png", *labels, *([name] if split else [])])
    return file


def picture(file: Path, labels: list[int], *, size: int, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 100, (size, size, 3), dtype=np.uint8)
    half = size // 2
    for channel, (on, region) in enumerate(
        zip(labels, (np.s_[:, :half], np.s_[:, half:], np.s_[:half, :]), strict=True)
    ):
        if on:
            pixels[(*region, channel)] += 120
    Image.fromarray(pixels).save(file)
