"""A batch in parts: the same slopes and one step; and a fit that starts again with smaller ones as memory runs out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mlc_core import BadCheckpoint, BadParams, Dataset, EpochReport, OutOfMemory, Params, fit
from mlc_core.loss import training_loss
from mlc_core.micro_batches import SMALLEST_MICRO_BATCH, differentiate, parts, ran_out, smaller
from mlc_core.model import build
from mlc_core.optimize import Weights
from mlc_core.params import LOSSES, LossName
from tests.mlc_core import fit_in_little
from tests.mlc_core.fits import FEW, RISING, SMALL, run, same_weights
from tests.mlc_core.tiny import SIZE, tiny

CPU = torch.device("cpu")


def in_little(megabytes: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.mlc_core.fit_in_little", str(megabytes), *map(str, words)]
    # Freed memory goes back at once: what fits then depends on sizes alone.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@given(images=st.integers(2, 300), micro_batch=st.integers(2, 300))
def test_a_batch_is_cut_evenly_into_few_parts_and_never_into_single_images(images: int, micro_batch: int) -> None:
    cut = [range(images)[part] for part in parts(images, micro_batch)]
    sizes = {len(part) for part in cut}
    assert [image for part in cut for image in part] == [*range(images)]
    assert min(sizes) >= 2
    assert max(sizes) <= micro_batch or (micro_batch, max(sizes)) == (2, 3)
    assert max(sizes) - min(sizes) <= 1
    if micro_batch > 2:
        assert len(cut) == -(-images // micro_batch)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("micro_batch", [4, 9, 10])
def test_the_slopes_of_the_parts_add_up_to_those_of_the_batchs_mean_loss(loss: LossName, micro_batch: int) -> None:
    """With batch normalization's statistics held, whose are otherwise those of a part."""
    torch.manual_seed(0)
    images, labels = torch.randn(23, 3, SIZE, SIZE), torch.randint(0, 2, (23, 3)).float()
    loss_of = training_loss(Params(loss=loss, label_smoothing=0.1), FEW.train.labels, CPU)

    def slopes(most: int) -> Tensor:
        model = build(backbone="resnet10", stem="small", dropout=0.3, classes=3, seed=1).eval()
        weights = Weights(model)
        differentiate(weights, losses(weights, most))
        return torch.cat([weight.grad.flatten() for weight in weights.stepped if weight.grad is not None])

    def losses(weights: Weights, most: int) -> Iterator[Tensor]:
        for part in parts(len(images), most):
            yield loss_of(weights.model(images[part]), labels[part]) * (len(images[part]) / len(images))

    whole, summed = slopes(23), slopes(micro_batch)
    assert whole.norm() > 0.01
    assert (summed - whole).norm() < 1e-6 * whole.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_micro_batch_as_large_as_the_batch_gives_the_bits_of_none(data: Dataset, precision: str) -> None:
    told: list[EpochReport] = []
    value = fit(
        SMALL,
        data,
        epochs=2,
        device="cpu",
        precision=precision,
        threads=1,
        micro_batch=32,
        on_epoch=lambda report: not told.append(replace(report, seconds=0.0)),  # type: ignore[func-returns-value]
    )
    assert (value, told) == run(SMALL, data, epochs=2, precision=precision)
    assert told[0].micro_batch == 32


def small_parts(checkpoint: Path | None, *, last: int | None = None, micro_batch: int | None = 8) -> list[EpochReport]:
    told: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> bool:
        told.append(replace(report, seconds=0.0))
        return report.epoch != last

    options = {"precision": "fp16", "threads": 1, "device": "cpu"}
    params = RISING | {"ema": 0.9, "augment": "medium"}
    fit(params, FEW, epochs=3, micro_batch=micro_batch, on_epoch=on_epoch, checkpoint=checkpoint, **options)  # type: ignore[arg-type]
    return told


def test_a_fit_in_parts_goes_on_with_the_parts_of_its_checkpoint_unless_told_others(tmp_path: Path) -> None:
    whole = small_parts(tmp_path / "whole")
    assert {report.micro_batch for report in whole} == {8}
    small_parts(tmp_path / "ended", last=1)
    with pytest.raises(BadCheckpoint, match="belongs to another fit: its micro_batch is 8, asked for is 24"):
        small_parts(tmp_path / "ended", micro_batch=24)
    small_parts(tmp_path / "ended", last=2, micro_batch=None)
    assert small_parts(tmp_path / "ended", micro_batch=None) == whole
    assert same_weights(tmp_path / "whole", tmp_path / "ended")


@pytest.mark.parametrize("micro_batch", [0, 1, 33, 2.0, "8"])
def test_a_micro_batch_that_no_batch_has_is_refused(data: Dataset, micro_batch: object) -> None:
    with pytest.raises(BadParams, match=r"micro_batch: .* is not a whole number from 2 to the batch size, 32"):
        fit(SMALL, data, micro_batch=micro_batch)  # type: ignore[arg-type]


def test_a_micro_batch_is_halved_down_to_the_smallest() -> None:
    assert [smaller(size) for size in (64, 80, 9, 7, 5)] == [32, 40, 5, 4, 4]
    assert [smaller(size) for size in (SMALLEST_MICRO_BATCH, 3, 2)] == [None] * 3


def test_only_errors_about_memory_are_taken_for_such() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert ran_out(caught.value)
    assert ran_out(MemoryError())
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(ValueError("DefaultCPUAllocator: no"))


def test_an_error_of_whoever_listens_is_theirs(data: Dataset) -> None:
    def on_epoch(report: EpochReport) -> bool:
        raise MemoryError(f"in the callback of epoch {report.epoch}")

    with pytest.raises(MemoryError, match="in the callback of epoch 1"):
        fit(SMALL, data, epochs=2, precision="fp32", threads=1, on_epoch=on_epoch)


def test_a_fit_that_runs_out_of_memory_ends_as_if_it_had_been_given_the_smaller_parts(tmp_path: Path) -> None:
    """Here once in the first epoch and once in the second, where Adam's moments are there too."""
    done = in_little(300, "none", tmp_path / "short")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    reports = [EpochReport(**report) for report in told["reports"]]
    micro_batch = reports[-1].micro_batch
    assert SMALLEST_MICRO_BATCH <= micro_batch < 32
    assert [(report.epoch, report.micro_batch) for report in reports[-2:]] == [(1, micro_batch), (2, micro_batch)]
    halvings = [line for line in done.stderr.splitlines() if line.startswith("memory ran out with ")]
    assert len(halvings) == (32 // micro_batch).bit_length() - 1
    assert halvings[0] == (
        "memory ran out with 32 images at a time; the fit starts again with 16, and 32 a step as before"
    )

    given_from_the_start = fit_in_little.run(micro_batch, tmp_path / "given")

    assert (told["value"], reports[-2:]) == given_from_the_start
    assert same_weights(tmp_path / "short", tmp_path / "given")


def test_a_command_without_memory_for_the_smallest_parts_says_so_in_a_sentence() -> None:
    words = "fit image_size=1024 stem=small batch_size=8 --epochs 1 --precision fp32 --threads 1 --device cpu"
    done = in_little(100, "--", *words.split())
    assert done.returncode == OutOfMemory.exit_code == 1
    halving, error = done.stderr.splitlines()
    assert halving == "memory ran out with 8 images at a time; the fit starts again with 4, and 8 a step as before"
    assert error.startswith("Error: Memory ran out even with 4 images at a time (")
    assert error.endswith("Choose a smaller image_size or backbone, run fewer workers at once, or end other programs.")


def test_evaluation_in_smaller_batches_differs_in_the_last_bits_at_most() -> None:
    from mlc_core.data.batches import Images
    from mlc_core.device import choose
    from mlc_core.learner import evaluate

    data = tiny(val=64)
    images = Images(data.val, *data.channel_stats, SIZE, CPU)
    model = build(backbone="resnet10", stem="small", dropout=0.3, classes=3, seed=1)
    compute = choose(device="cpu", precision="fp32", threads=1)
    whole, parted = (evaluate(model, images, compute, size) for size in (250, 7))
    assert parted == pytest.approx(whole, rel=1e-6)
