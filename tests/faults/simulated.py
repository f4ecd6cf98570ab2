"""A simulated training: the losses of a trial are a formula of its parameters and seed, an epoch takes milliseconds.

It goes on from its checkpoint and writes one an epoch, as `mlc_core.fit` does, whose place it takes in worker processes
(hands.py). Not here: anything of a study.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open

from mlc_core import EpochReport, OnEpoch, Params, Value, best_epoch
from mlc_core.cache import write_atomically
from mlc_core.checkpoint import write_best

STUMBLES, FAILS = 40, 400  # of so many trials one raises at its first attempt, and one at each
REASON: Final = "the simulated training raised"
_RESUME: Final = "simulated.json"


def losses(params: Mapping[str, Value], seed: int, epochs: int) -> list[EpochReport]:
    """Compute what the epochs of a simulated fit report; nobody trains anything."""
    digest = hashlib.sha256(json.dumps([dict(params), seed], sort_keys=True).encode()).digest()
    start, floor, speed, tail = (int.from_bytes(digest[8 * place :][:8]) / 2**64 for place in range(4))
    reports = []
    for epoch in range(1, epochs + 1):
        loss = 0.05 + 0.1 * floor + (0.3 + start) * (0.3 + 0.4 * speed) ** epoch + 0.002 * tail * (epoch % 3)
        report = EpochReport(
            epoch=epoch,
            epochs=epochs,
            train_loss=1.1 * loss,
            val_loss=loss,
            macro_f1=1 - loss / 2,
            mean_ap=1 - loss / 3,
            lr=0.001,
            seconds=0.25,
            micro_batch=64,
        )
        reports.append(report)
    return reports


def write_weights(folder: Path, seed: int, epoch: int) -> None:
    """Write what stands for the weights of an epoch."""
    write_best(folder, {"weights": torch.arange(100.0)}, {"epoch": str(epoch), "seed": str(seed)})


def weights_are_of(file: Path, seed: int, epoch: int) -> bool:
    """Tell whether a file holds what stands for the weights of that epoch."""
    with safe_open(file, framework="pt") as weights:
        return bool(weights.metadata() == {"epoch": str(epoch), "seed": str(seed)})


def raises(seed: int, *, always: bool) -> bool:
    """Tell whether a simulated trial raises: at every attempt, or at its first one."""
    return seed % FAILS == 7 if always else seed % STUMBLES == 3


class Fit:
    """Called as `mlc_core.fit` is.

    Parameters
    ----------
    pace : float, seconds
        Of an epoch.
    """

    def __init__(self, pace: float) -> None:
        self._pace = pace

    def __call__(
        self, params: Params, _data: object, *, seed: int, epochs: int, on_epoch: OnEpoch, checkpoint: Path, **_: object
    ) -> float:
        checkpoint.mkdir(parents=True, exist_ok=True)
        if raises(seed, always=True) or (raises(seed, always=False) and not (checkpoint / "stumbled").exists()):
            (checkpoint / "stumbled").touch()
            raise RuntimeError(REASON)
        file = checkpoint / _RESUME
        done = json.loads(file.read_bytes())["epoch"] if file.exists() else 0
        reports = losses(params.to_flat(), seed, epochs)
        for report in reports:
            if report.epoch > done:
                time.sleep(self._pace)
                if best_epoch(reports[: report.epoch], "bce") is report:
                    write_weights(checkpoint, seed, report.epoch)
                write_atomically(file, json.dumps({"epoch": report.epoch, "ballast": "." * 4000}).encode())
            if not on_epoch(report):
                return best_epoch(reports[: report.epoch], "bce").val_loss
        return best_epoch(reports, "bce").val_loss
