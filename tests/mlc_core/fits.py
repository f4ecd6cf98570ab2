"""Fits of a moment on the tiny data, and what they told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from mlc_core import Dataset, EpochReport, Params, Value, fit
from mlc_core.checkpoint import RESUME, read_state
from mlc_core.records import BEST
from tests.mlc_core.tiny import SIZE, tiny

SMALL: dict[str, Value] = {"image_size": SIZE, "batch_size": 32, "dropout": 0.3}
FEW = tiny(train=48)
RISING = SMALL | {"lr": 0.01, "batch_size": 24}  # too much for so few images: the first epoch is the best one


class Run(NamedTuple):
    """What a fit gave, without the seconds, which differ each time."""

    value: float
    reports: list[EpochReport]


def run(
    params: Params | dict[str, Value],
    data: Dataset,
    *,
    seed: int = 0,
    epochs: int = 3,
    precision: str = "fp32",
    checkpoint: Path | None = None,
    device: str = "cpu",
    last: int | None = None,
    each: Callable[[EpochReport], object] = lambda _: None,
) -> Run:
    """Fit on one thread and stop after the epoch `last`."""
    reports = []

    def on_epoch(report: EpochReport) -> bool:
        reports.append(replace(report, seconds=0.0))
        each(report)
        return report.epoch != last

    value = fit(
        params,
        data,
        seed=seed,
        epochs=epochs,
        device=device,
        precision=precision,
        threads=1,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
    )
    return Run(value, reports)


def losses(reports: list[EpochReport]) -> list[float]:
    return [report.val_loss for report in reports]


def same_weights(*folders: Path) -> bool:
    """Whether the files of the best weights hold the same bits; their header has no fixed order."""
    first, second = (load_file(folder / BEST) for folder in folders)
    assert len(first) > 50
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def state(folder: Path) -> dict[str, Any]:
    """The newest state in a checkpoint folder to the bit, but for the time that epochs took."""
    saved = read_state(folder / RESUME, {}, device=torch.device("cpu"))
    assert saved is not None
    for report in saved["reports"]:
        del report["seconds"]
    return dict(leaves(saved))


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Whatever a nested state holds, tensors as their type and bytes."""
    match tree:
        case dict():
            for key, value in tree.items():
                yield from leaves(value, f"{path}/{key}")
        case list() | tuple():
            for index, value in enumerate(tree):
                yield from leaves(value, f"{path}/{index}")
        case torch.Tensor():
            yield path, (tree.dtype, tree.shape, tree.numpy().tobytes())
        case _:
            yield path, tree
