"""A fit in a process of its own that says each epoch on stdout; started to be killed.

Arguments: the checkpoint folder, and the epoch after which the kernel may kill it in the middle of a write.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from mlc_core import EpochReport, Value, fit
from tests.mlc_core.tiny import SIZE, tiny

EPOCHS: Final = 5
PARAMS: Final[dict[str, Value]] = {
    "image_size": SIZE,
    "batch_size": 16,
    "dropout": 0.3,
    "augment": "medium",
    "flip": 0.5,
    "rare_below": 0.9,
    "rare_repeat": 2,
    "rare_augment": "strong",
    "scheduler": "step",
    "step_size": 2,
}
HALF_WRITTEN: Final = 6_000_000  # bytes, about half of a state; best weights come once an epoch is worse than them


def die_writing() -> None:
    """Have the kernel end the process at the first file that grows beyond HALF_WRITTEN."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it otherwise
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF_WRITTEN, HALF_WRITTEN))


def main(folder: Path, deadly: int | None) -> None:
    def on_epoch(report: EpochReport) -> bool:
        print(json.dumps(asdict(report)), flush=True)  # noqa: T201 - stdout is where the test listens
        if report.epoch == deadly:
            die_writing()
        return True

    fit(PARAMS, tiny(), seed=5, epochs=EPOCHS, precision="fp32", threads=1, on_epoch=on_epoch, checkpoint=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None)
