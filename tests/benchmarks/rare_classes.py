"""Do sampling and augmentation for rare classes raise their recall, and what does that cost the others?

``python -m tests.benchmarks.rare_classes [--seeds 3]`` trains on the digit scenes and prints a table for the test
split; the settings were chosen on the validation split. About a minute and a half a fit, nine fits.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from mlc_core import BEST, Dataset, Params, Split, Value, digits, fit
from mlc_core.data.augment import normalize
from mlc_core.metrics import macro_f1, mean_average_precision
from mlc_core.model import build

EPOCHS: Final = 10
RAREST: Final = 3  # classes
BASE: Final[dict[str, Value]] = {
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 1e-2,
    "dropout": 0.1,
    "batch_size": 32,
    "t_max": EPOCHS,
}
SAMPLING: Final[dict[str, Value]] = {"rare_below": 0.3, "rare_repeat": 4.0}
SETTINGS: Final[dict[str, dict[str, Value]]] = {
    "plain": {},
    "sampling": SAMPLING,
    "sampling and augmentation": SAMPLING | {"rare_augment": "medium"},
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=3)
    seeds = asked.parse_args().seeds
    data = digits()
    rarest = np.argsort(data.train.labels.mean(axis=0))[:RAREST]
    console = Console()
    table = Table(title=f"Test split, mean of {seeds} seeds; recall of classes {', '.join(map(str, rarest))}")
    for heading in ("setting", "recall", "macro F1", "mAP", "recall against plain"):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    plain = 0.0
    for name, setting in SETTINGS.items():
        rows = []
        for seed in range(seeds):
            logits = _trained(data, BASE | setting, seed=seed)
            recall = ((logits >= 0) & (data.test.labels == 1)).sum(axis=0) / data.test.labels.sum(axis=0)
            scores = macro_f1(logits, data.test.labels), mean_average_precision(logits, data.test.labels)
            rows.append((float(recall[rarest].mean()), *scores))
            console.print(f"{name}, seed {seed}: recall {rows[-1][0]:.4f}, macro F1 {rows[-1][1]:.4f}")
        mean = np.mean(rows, axis=0)
        plain = plain or float(mean[0])
        table.add_row(name, *(f"{value:.4f}" for value in mean), f"{mean[0] / plain:.2f}")
    console.print(table)


def _trained(data: Dataset, params: dict[str, Value], *, seed: int) -> NDArray[np.float32]:
    """Logits of the test split, (n, classes), by the epoch with the lowest validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        fit(params, data, seed=seed, epochs=EPOCHS, device="cpu", threads=1, checkpoint=Path(folder))
        with safe_open(Path(folder) / BEST, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            card = file.metadata()
    chosen = Params.from_flat(params)
    model = build(backbone=chosen.backbone, stem=chosen.stem, dropout=0, classes=len(data.classes), seed=0)
    model.load_state_dict(weights)
    mean, std = (torch.tensor(json.loads(card[key]))[None, :, None, None] for key in ("mean", "std"))
    return _logits(model.eval(), data.test, mean, std, chosen.image_size)


@torch.inference_mode()
def _logits(
    model: torch.nn.Module, split: Split, mean: torch.Tensor, std: torch.Tensor, size: int
) -> NDArray[np.float32]:
    batches = np.array_split(split.rows, -(-len(split) // 500))
    told = [model(normalize(torch.from_numpy(split.images[b]), mean=mean, std=std, size=size)) for b in batches]
    logits: NDArray[np.float32] = torch.cat(told).numpy()
    return logits


if __name__ == "__main__":
    main()
