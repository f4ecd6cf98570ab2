"""Does pretraining without labels help where labels are few, and is it worth its time?

``python -m tests.benchmarks.few_labels`` learns features from all 4,000 training scenes without their labels, then
trains on the labels of 400 of them: from scratch and from the features for as many epochs; and from scratch for as long
as the pretraining and the training after it take together. Time is processor time of one thread, which is wall time on
an idle core. The settings were chosen on the validation loss of other seeds. About a quarter of an hour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from mlc_core import Dataset, Split, Value, digits, fit
from mlc_core.data.unlabelled import gather
from mlc_core.pretrain import Pretraining, PretrainReport, learn
from mlc_core.probe import judge

LABELLED: Final = 400  # a tenth
EPOCHS: Final = 30  # of a training on them
PRETRAINING: Final = Pretraining(epochs=12)
PARAMS: Final[dict[str, Value]] = {"lr": 1e-3, "weight_decay": 1e-2, "dropout": 0.3, "batch_size": 32}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=3)
    seeds = range(asked.parse_args().seeds)
    console = Console()
    data = digits()
    few = _few(data)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "features.safetensors"
        before = time.process_time()
        learn(
            PRETRAINING, gather(None), weights, device="cpu", threads=1, on_epoch=lambda report: _show(console, report)
        )
        pretraining = time.process_time() - before
        verdict = judge(weights, PRETRAINING, few, device="cpu", threads=1)
        console.print(f"linear probe, mAP: {verdict.learnt:.4f} learnt, {verdict.start:.4f} at random")
        scratch, scratch_seconds = _losses(few, "none", EPOCHS, seeds)
        learnt, learnt_seconds = _losses(few, str(weights), EPOCHS, seeds)
    longer = round(EPOCHS * (pretraining + learnt_seconds) / scratch_seconds)
    long, long_seconds = _losses(few, "none", longer, seeds)

    table = Table(title=f"Validation loss with {LABELLED} labels; the pretraining took {pretraining:.0f} s")
    for heading in ("training", "epochs", "seconds", *(f"seed {seed}" for seed in seeds), "mean", "ratio"):
        table.add_column(heading, justify="left" if heading == "training" else "right")
    rows = [
        ("from scratch", EPOCHS, scratch_seconds, scratch),
        ("from features", EPOCHS, pretraining + learnt_seconds, learnt),
        ("from scratch, as long", longer, long_seconds, long),
    ]
    for name, epochs, seconds, losses in rows:
        ratio = np.mean(learnt) / np.mean(losses)
        table.add_row(
            name, str(epochs), f"{seconds:.0f}", *(f"{x:.4f}" for x in losses), f"{np.mean(losses):.4f}", f"{ratio:.2f}"
        )
    console.print(table)
    console.print(f"At as many epochs it {_verdict(learnt, scratch)}; at as much time it {_verdict(learnt, long)}.")


def _few(data: Dataset) -> Dataset:
    """Keep the first tenth of the training scenes, which are drawn independently."""
    rows = np.arange(LABELLED)
    train = Split(data.train.images, data.train.labels[rows], rows)
    return Dataset("few", data.classes, train, data.val, data.test, f"{data.fingerprint}:{LABELLED}")


def _losses(data: Dataset, weights: str, epochs: int, seeds: range) -> tuple[list[float], float]:
    """Train with each seed: the best validation losses, and the mean processor seconds."""
    before = time.process_time()
    params = PARAMS | {"weights": weights, "t_max": epochs}
    losses = [fit(params, data, seed=seed, epochs=epochs, device="cpu", threads=1) for seed in seeds]
    return losses, (time.process_time() - before) / len(seeds)


def _verdict(learnt: list[float], other: list[float]) -> str:
    """Helped: with every seed; anything less is no proof with so few of them."""
    better = [one < two for one, two in zip(learnt, other, strict=True)]
    return "helped" if all(better) else "did not help"


def _show(console: Console, report: PretrainReport) -> None:
    console.print(f"epoch {report.epoch}: loss {report.loss:.3f}, spread {report.spread:.3f}, rank {report.rank:.0f}")


if __name__ == "__main__":
    main()
