"""A process that trains on made-up images at a common signal, beside others: what layouts of them reach.

``python -P -m mlc_core.pace BACKBONE STEM IMAGE_SIZE BATCH_SIZE`` answers each line of JSON on its standard input with
one on its output, in this order, for one layout after the other: `{"threads": 2, "precision": null}` with the precision
that it measured, alone; `{"threads": 2, "precision": "bf16"}` with `{}` once it could start; `{"seconds": 1.0}` with
what it reached and how much memory that took. Not here: which layouts there are, and who asks (search/layout.py).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import mean
from typing import Any, Final

import torch

from mlc_core.device import Compute, Shape, Steps, choose
from mlc_core.params import Params, Value

CONTEXT: Final = 600 * 2**20  # bytes of a GPU that a process takes besides what torch knows of


def main() -> None:
    """Answer until standard input closes."""
    backbone, stem, image_size, batch_size = sys.argv[1:]
    params: dict[str, Value] = {
        "backbone": backbone,
        "stem": stem,
        "image_size": int(image_size),
        "batch_size": int(batch_size),
    }
    shape = Shape.of(Params.from_flat(params))
    compute = choose(precision="fp32")
    steps: Steps | None = None
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        answer: Mapping[str, object]
        if "seconds" in asked:
            assert steps is not None  # noqa: S101 - whoever asks says first with how many threads
            answer = _reach(steps, compute, shape, asked["seconds"])
        elif asked["precision"] is None:
            answer = {"precision": choose(threads=asked["threads"], shape=shape).precision}
        else:
            compute = choose(precision=asked["precision"], threads=asked["threads"])
            steps = steps or Steps(shape, torch.device(compute.device))
            steps.seconds(compute)  # the first one chooses kernels
            answer = {}
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer


def _reach(steps: Steps, compute: Compute, shape: Shape, seconds: float) -> dict[str, float]:
    """Train for so long, at least one step."""
    end, taken = time.perf_counter() + seconds, [steps.seconds(compute)]
    while time.perf_counter() < end:
        taken.append(steps.seconds(compute))
    told = {"images_a_second": shape.batch_size / mean(taken), "memory": _peak()}
    if compute.device.startswith("cuda"):
        total = torch.cuda.get_device_properties(compute.device).total_memory
        told["gpu_share"] = (torch.cuda.max_memory_reserved(compute.device) + CONTEXT) / total
    return told


def _peak() -> int:
    """Most bytes of memory that this process held at once."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return getrusage(RUSAGE_SELF).ru_maxrss  # macOS counts bytes; Linux kilobytes, and those of whoever started us
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
