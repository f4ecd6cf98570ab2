"""A fit in a process of its own that has only so much memory; what it reports goes to stdout.

Arguments: megabytes beyond what the process has once everything is loaded, then the micro-batch to begin with, or
`none`, and a checkpoint folder; or `--` and the words of a command line.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from mlc_core import EpochReport, Value, digits, fit
from tests.mlc_core.tiny import tiny

PARAMS: Final[dict[str, Value]] = {"image_size": 96, "stem": "small", "batch_size": 32, "dropout": 0.3}


def run(micro_batch: int | None, checkpoint: Path | None = None) -> tuple[float, list[EpochReport]]:
    """Fit for two epochs; the reports are all that were told, without the seconds."""
    reports = []

    def on_epoch(report: EpochReport) -> bool:
        reports.append(replace(report, seconds=0.0))
        return True

    value = fit(
        PARAMS,
        tiny(train=36, val=8),
        epochs=2,
        precision="fp32",
        threads=1,
        on_epoch=on_epoch,
        micro_batch=micro_batch,
        checkpoint=checkpoint,
    )
    return value, reports


def leave(megabytes: int) -> None:
    """Have the kernel refuse what goes beyond; after a first fit, which also loads what only a fit needs."""
    fit({**PARAMS, "image_size": 16}, tiny(train=8, val=4), epochs=1, precision="fp32", threads=1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    room, first, *words = sys.argv[1:]
    if first == "--":
        digits()  # the command's data, made before memory is short
        leave(int(room))
        from search.cli import main

        sys.argv = ["mlc-search", *words]
        main()
    else:
        leave(int(room))
        loss, told = run(None if first == "none" else int(first), Path(words[0]) if words else None)
        print(json.dumps({"value": loss, "reports": [asdict(report) for report in told]}))  # noqa: T201
