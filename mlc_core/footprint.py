"""What it takes to use a network: the time that an image takes, and the weights' size; measured before any training.

Not here: how fast a training step is (device.py); how much memory training takes (memory.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

from mlc_core.device import Compute, autocast, computing
from mlc_core.model import build
from mlc_core.params import Params
from mlc_core.records import Footprint

WARM_UP: Final = 5  # passes that are not counted: they choose kernels and fill caches
FEWEST, MOST = 15, 300  # passes that are counted, and
SECONDS: Final = 1.0  # for which, between the two, they go on


def measure(params: Params, *, classes: int, compute: Compute) -> Footprint:
    """Measure what a network of these parameters takes, with weights as they are before training.

    The latency is the quickest of many passes, of one image each through the network in evaluation mode, already
    resized and normalized, with the record's device, precision and threads. Whatever else the machine does only adds to
    a pass. In three goes on two overloaded processors medians of one ResNet-10 were 7.5 to 13.8 ms, the quickest passes
    3.1 to 3.3; of a ResNet-50, of whose long passes none goes undisturbed, also these were 32 to 62 ms.

    Parameters
    ----------
    params : Params
        Of them backbone, stem and image_size count.
    classes : int
    compute : Compute
    """
    network = build(backbone=params.backbone, stem=params.stem, dropout=0.0, classes=classes, seed=0).eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    device = torch.device(compute.device)
    shape = (1, 3, params.image_size, params.image_size)
    image = torch.linspace(-1, 1, 3 * params.image_size**2).view(shape)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = image.to(device, memory_format=torch.channels_last)

    def look() -> None:
        network(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with computing(compute), torch.inference_mode(), autocast(compute):
        for _ in range(WARM_UP):
            look()
        passes = seconds_of(look, fewest=FEWEST, most=MOST, until=SECONDS)
    return Footprint(latency=1000 * min(passes), size=size / 1e6)


def seconds_of(work: Callable[[], object], *, fewest: int, most: int, until: float = 0.0) -> list[float]:
    """Do some work again and again, and take the seconds of each turn.

    Parameters
    ----------
    fewest, most : int
        Turns.
    until : float, seconds
        After which, between the two, no further turn begins.
    """
    turns: list[float] = []
    began = time.perf_counter()
    while len(turns) < fewest or (len(turns) < most and time.perf_counter() - began < until):
        start = time.perf_counter()
        work()
        turns.append(time.perf_counter() - start)
    return turns
