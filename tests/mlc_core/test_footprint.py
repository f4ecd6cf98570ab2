"""What a network takes to be used: the size of the file that its weights are exported to, and the time of a pass."""

from __future__ import annotations

import time

import pytest
from safetensors.torch import save
from torchvision.models import resnet18, resnet50

from mlc_core import Compute, Params, measure, seconds_of
from mlc_core.model import build

ALONE = Compute(device="cpu", precision="fp32", threads=1)


def test_the_size_is_that_of_the_file_that_the_weights_are_exported_to() -> None:
    told = measure(Params(backbone="resnet18", image_size=16), classes=7, compute=ALONE)
    network = build(backbone="resnet18", stem="standard", dropout=0.0, classes=7, seed=3)
    assert told.size == pytest.approx(len(save(network.state_dict())) / 1e6, rel=1e-3)


@pytest.mark.parametrize(("name", "reference"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_the_size_is_torchvisions_network_with_four_bytes_a_parameter(name: str, reference: object) -> None:
    assert callable(reference)
    theirs = reference(num_classes=10)
    weights = sum(one.numel() for one in theirs.parameters()) + sum(
        one.numel() for one in theirs.buffers() if one.is_floating_point()
    )
    told = measure(Params.from_flat({"backbone": name, "image_size": 8}), classes=10, compute=ALONE)
    assert told.size == pytest.approx(4 * weights / 1e6, rel=1e-4)


def test_a_deeper_network_and_a_larger_image_take_longer() -> None:
    small, deep, wide = (
        measure(Params.from_flat({"backbone": name, "image_size": size}), classes=10, compute=ALONE).latency
        for name, size in (("resnet10", 32), ("resnet50", 32), ("resnet10", 256))
    )
    assert 0 < small < deep
    assert 2 * small < wide


def test_turns_are_counted_and_timed_until_the_time_is_up() -> None:
    done: list[float] = []

    def work() -> None:
        done.append(time.perf_counter())
        time.sleep(0.01)

    assert len(seconds_of(work, fewest=3, most=3)) == len(done) == 3
    assert min(seconds_of(work, fewest=2, most=1000, until=0.05)) >= 0.01
    assert 2 <= len(done) - 3 <= 6
    assert seconds_of(work, fewest=4, most=9, until=0.0) == pytest.approx([0.01] * 4, abs=0.5)
