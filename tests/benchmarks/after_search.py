"""What calibration, thresholds a class and an ensemble are worth on images that had no say in them.

``python -m tests.benchmarks.after_search FILE.npz [--halvings 50] [--images 300]``. The file holds the arrays ``val``
and ``test``, labels of (n, classes), and for each kept model ``val0``, ``test0``, ``val1`` ...: its logits. No model
was trained on either split, so both are put together and halved at random, many times: one half (or ``--images`` of
it) chooses, the other measures. One split alone has too much luck: its interval is wider than any of the gains.

A row shows the mean over halvings (and over models, in the first two tables), and for each rival the mean ratio to it
with the interval that holds 95 % of the halvings; above 1 is better, but for BCE. The exit code is 1 where one of the
bars is missed: macro F1 of our thresholds at least that with 0.5, with one threshold for all, and with the plain best
a class; macro F1 of the ensemble at least that of the best single model, with thresholds and without.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mlc_core.calibration import calibrate
from mlc_core.ensemble import blend, select
from mlc_core.metrics import mean_average_precision
from mlc_core.predictions import Predictions
from mlc_core.thresholds import one_for_all, per_class, tune

Measured = dict[str, list[float]]  # one number a halving

HALF, GLOBAL, PLAIN, OURS, CALIBRATED = "0.5", "one for all", "plain per class", "ours", "0.5, calibrated"
BEST, ENSEMBLE, BEST_TUNED, ENSEMBLE_TUNED = "best single", "ensemble", "best single, ours", "ensemble, ours"
BARS: Final = ((OURS, HALF), (OURS, GLOBAL), (OURS, PLAIN), (ENSEMBLE, BEST), (ENSEMBLE_TUNED, BEST_TUNED))


def main() -> None:
    """Print the tables; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    parser.add_argument("--halvings", type=int, default=50)
    parser.add_argument("--images", type=int, help="that choose, of one half; by default all of it")
    asked = parser.parse_args()
    models = read(asked.file)
    f1: Measured = defaultdict(list)
    bce: Measured = defaultdict(list)
    precision: Measured = defaultdict(list)
    for halving in range(asked.halvings):
        order = np.random.default_rng(halving).permutation(len(models[0]))
        chooses, measures = np.array_split(order, 2)
        chooses = chooses[: asked.images]
        known, unseen = ([model.take(rows) for model in models] for rows in (chooses, measures))
        thresholds(known, unseen, f1, bce)
        ensembles(known, unseen, f1, bce, precision)
    console = Console()
    console.print(f"{asked.file}: {len(models)} models, {asked.halvings} halvings, chosen on {len(chooses)} images")
    console.print(table("Thresholds: macro F1", f1, (HALF, CALIBRATED, GLOBAL, PLAIN, OURS), (HALF, GLOBAL, PLAIN)))
    console.print(table("Calibration: BCE", bce, ("as it is", "calibrated"), ("as it is",)))
    rows = (BEST, ENSEMBLE, BEST_TUNED, ENSEMBLE_TUNED)
    console.print(table("Ensemble: macro F1", f1, rows, (BEST, BEST_TUNED)))
    console.print(table("Ensemble: mean average precision", precision, (BEST, ENSEMBLE), (BEST,)))
    console.print(table("Ensemble: BCE", bce, (BEST, ENSEMBLE), (BEST,)))
    missed = [f"{ours} against {rival}" for ours, rival in BARS if np.mean(f1[ours]) < np.mean(f1[rival])]
    console.print(f"Missed: {', '.join(missed)}" if missed else "Every bar is held.")
    sys.exit(bool(missed))


def read(path: Path) -> list[Predictions]:
    """Validation and test images together, a model each."""
    with np.load(path) as file:
        labels = np.concatenate([file["val"], file["test"]])
        classes = tuple(str(number) for number in range(labels.shape[1]))
        count = sum(name.startswith("val") for name in file.files) - 1
        logits = [np.concatenate([file[f"val{model}"], file[f"test{model}"]]) for model in range(count)]
    return [Predictions(classes, each.astype(np.float64), labels) for each in logits]


def thresholds(known: list[Predictions], unseen: list[Predictions], f1: Measured, bce: Measured) -> None:
    """Every way to choose thresholds, for each model on its own; means over models."""
    rows: Measured = defaultdict(list)
    losses: Measured = defaultdict(list)
    for mine, theirs in zip(known, unseen, strict=True):
        calibrated = calibrate(mine)(theirs)
        rows[HALF].append(macro_f1(theirs, 0.5))
        rows[CALIBRATED].append(macro_f1(calibrated, 0.5))
        rows[GLOBAL].append(macro_f1(theirs, one_for_all(mine)))
        rows[PLAIN].append(macro_f1(theirs, per_class(mine)))
        rows[OURS].append(macro_f1(theirs, tune(mine).values))
        losses["as it is"].append(mean_bce(theirs))
        losses["calibrated"].append(mean_bce(calibrated))
    for collected, each in ((f1, rows), (bce, losses)):
        for name, numbers in each.items():
            collected[name].append(float(np.mean(numbers)))


def ensembles(
    known: list[Predictions], unseen: list[Predictions], f1: Measured, bce: Measured, precision: Measured
) -> None:
    """The ensemble, and the model that is best on the images that choose."""
    best = int(np.argmin([mean_bce(model) for model in known]))
    chosen = select(known)
    together = [blend(models, chosen.weights, chosen.average) for models in (known, unseen)]
    for name, (mine, theirs) in {BEST: (known[best], unseen[best]), ENSEMBLE: together}.items():
        f1[name].append(macro_f1(theirs, 0.5))
        f1[f"{name}, ours"].append(macro_f1(theirs, tune(mine).values))
        bce[name].append(mean_bce(theirs))
        precision[name].append(mean_average_precision(theirs.logits, theirs.targets))


def macro_f1(predictions: Predictions, threshold: float | tuple[float, ...]) -> float:
    predicted, positive = predictions.probabilities >= np.array(threshold), predictions.targets == 1
    hits = (predicted & positive).sum(axis=0)
    return float(np.mean(2 * hits / np.maximum(predicted.sum(axis=0) + positive.sum(axis=0), 1)))


def mean_bce(predictions: Predictions) -> float:
    away = np.where(predictions.targets == 1, -predictions.logits, predictions.logits)
    return float(np.logaddexp(0, away).mean())


def table(title: str, measured: Measured, rows: tuple[str, ...], rivals: tuple[str, ...]) -> Table:
    drawn = Table("", "mean", *(f"ratio to {rival}" for rival in rivals), title=title)
    for row in rows:
        mine = np.array(measured[row])
        drawn.add_row(row, f"{mine.mean():.4f}", *(ratio(mine, np.array(measured[rival])) for rival in rivals))
    return drawn


def ratio(mine: NDArray[np.float64], rival: NDArray[np.float64]) -> str:
    low, high = np.quantile(mine / rival, (0.025, 0.975))
    return f"{np.mean(mine / rival):.4f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
