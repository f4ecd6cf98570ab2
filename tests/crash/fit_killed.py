"""Fits in processes of their own that kill themselves at a given system call; started by test_killed_fit.py.

Each line of standard input is a job, `{"folder": ..., "deadly": 3}`: a child process fits into the folder and kills
itself (SIGKILL) before its third call that changes a file, or never where `deadly` is null. The answer is a line with
the child's exit code, the reports it made and how many such calls. Children are forked: torch takes seconds to import.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

from mlc_core import EpochReport, MlcError, Value, fit
from tests.mlc_core.tiny import SIZE, tiny

EPOCHS: Final = 4
PARAMS: Final[dict[str, Value]] = {"image_size": SIZE, "batch_size": 24, "lr": 0.005, "dropout": 0.3}
SEED: Final = 2  # the third epoch is the best one, the first is better than the second: the best weights move twice
CALLS: Final = ("fchmod", "fsync", "replace")  # each after what came before it, writing among that


def _deadly(name: str, numbers: Callable[[], int], deadly: int | None) -> None:
    """Have the call end the process when it is that call's turn."""
    true: Callable[..., Any] = getattr(os, name)

    def call(*args: Any, **options: Any) -> Any:
        if numbers() == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return true(*args, **options)

    setattr(os, name, call)


def main(folder: Path, deadly: int | None) -> None:
    """Fit, saying each epoch."""
    numbers = count(1)
    for name in CALLS:
        _deadly(name, numbers.__next__, deadly)

    def on_epoch(report: EpochReport) -> bool:
        print(json.dumps(asdict(replace(report, seconds=0.0))), flush=True)  # noqa: T201 - the test listens
        return True

    try:
        fit(
            PARAMS,
            tiny(train=48),
            seed=SEED,
            epochs=EPOCHS,
            precision="fp32",
            threads=1,
            on_epoch=on_epoch,
            checkpoint=folder,
        )
    except MlcError as error:
        print(json.dumps({"error": str(error)}), flush=True)  # noqa: T201
    print(json.dumps({"calls": next(numbers) - 1}), flush=True)  # noqa: T201


def serve() -> None:
    """Do each job in a child."""
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            main(Path(job["folder"]), job["deadly"])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"ended": os.waitstatus_to_exitcode(status)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
