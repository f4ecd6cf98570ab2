"""What all rivals are given: the task on their command line, the images on disk, the same network.

Not here: how each of them trains. Nothing of mlc-search is imported: the rivals' environment has none of it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils import data
from torchvision import transforms
from torchvision.models.resnet import BasicBlock, ResNet

CLASSES: Final = 10
LAYERS: Final = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2]}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LR, WEIGHT_DECAY = 1e-3, 1e-4
WORKERS: Final = 2


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be trained, as the command line says it."""

    folder: Path  # with labels.csv and the images
    backbone: str  # a key of LAYERS
    size: int  # pixels, both sides
    batch: int  # images
    epochs: int
    precision: Literal["fp32", "bf16"]


class Scenes(data.Dataset[tuple[Tensor, Tensor]]):
    """Image files of one split, opened, transformed and labelled one by one."""

    def __init__(self, folder: Path, split: str, transform: Callable[[Image.Image], Tensor]) -> None:
        with (folder / "labels.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        self.paths = [folder / row["path"] for row in rows]
        self.labels = torch.tensor([[float(row[str(digit)]) for digit in range(CLASSES)] for row in rows])
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def task() -> Task:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbone", choices=LAYERS)
    for number in ("size", "batch", "epochs"):
        parser.add_argument(number, type=int)
    parser.add_argument("precision", choices=("fp32", "bf16"))
    return Task(**vars(parser.parse_args()))


def network(backbone: str) -> nn.Module:
    """Build the network that mlc-search trains; no dropout, which costs nothing to speak of."""
    model: nn.Module = ResNet(BasicBlock, LAYERS[backbone], num_classes=CLASSES)
    return model


def loaders(
    given: Task,
) -> tuple[data.DataLoader[tuple[Tensor, Tensor]], data.DataLoader[tuple[Tensor, Tensor]]]:
    """Make the loaders of training and validation as torchvision's documentation does.

    The transforms vary an image as the policy "light" of mlc-search does: a shift and the contrast.
    """
    finish = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    varied = [transforms.RandomCrop(given.size, padding=given.size // 12), transforms.ColorJitter(contrast=0.2)]
    resize = transforms.Resize((given.size, given.size))
    train = Scenes(given.folder, "train", transforms.Compose([resize, *varied, *finish]))
    val = Scenes(given.folder, "val", transforms.Compose([resize, *finish]))
    return (
        data.DataLoader(train, given.batch, shuffle=True, num_workers=WORKERS, persistent_workers=True),
        data.DataLoader(val, given.batch, num_workers=WORKERS, persistent_workers=True),
    )
