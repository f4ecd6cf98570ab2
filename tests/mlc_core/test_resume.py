"""A fit goes on from its checkpoint to the bits of the uninterrupted one, or refuses it."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch

from mlc_core import BadCheckpoint, Dataset, Diverged, EpochReport, Value, fit
from mlc_core.checkpoint import PREVIOUS, RESUME
from mlc_core.params import AUGMENTS, OPTIMIZERS, SCHEDULERS
from mlc_core.records import BEST, best_epoch
from tests.faults.disk import mounted
from tests.mlc_core.fits import FEW, RISING, SMALL, Run, run, same_weights, state
from tests.mlc_core.tiny import tiny


@pytest.fixture(scope="module")
def begun(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a fit of three epochs that ended after the first; not to be written to."""
    folder = tmp_path_factory.mktemp("begun")
    run(SMALL, data, seed=3, checkpoint=folder, last=1)
    return folder


COMBINATIONS = [
    (optimizer, scheduler, precision, AUGMENTS[(number % 3 + number // 3) % 4])
    for number, (precision, optimizer, scheduler) in enumerate(product(("fp32", "bf16"), OPTIMIZERS, SCHEDULERS))
]
MOVES: dict[str, dict[str, Value]] = {  # a rate that changes within three epochs
    "step": {"scheduler": "step", "step_size": 1, "gamma": 0.5},
    "plateau": {"scheduler": "plateau", "patience": 0, "factor": 0.5},
    "cosine": {"scheduler": "cosine", "t_max": 3},
}


@pytest.mark.parametrize(("optimizer", "scheduler", "precision", "augment"), COMBINATIONS)
def test_a_fit_interrupted_after_every_epoch_goes_on_to_the_same_bits(
    optimizer: str, scheduler: str, precision: str, augment: str, tmp_path: Path
) -> None:
    params = RISING | MOVES[scheduler] | {"optimizer": optimizer, "augment": augment}
    whole = run(params, FEW, precision=precision)
    assert whole.reports[0].lr != whole.reports[2].lr

    for last in (1, 2):
        part = run(params, FEW, precision=precision, checkpoint=tmp_path, last=last)
        assert part.reports == whole.reports[:last]
    assert run(params, FEW, precision=precision, checkpoint=tmp_path) == whole


def test_a_fit_in_fp16_goes_on_with_its_scale_to_the_same_bits(tmp_path: Path) -> None:
    whole = run(RISING, FEW, precision="fp16")
    for last in (1, 2):
        assert run(RISING, FEW, precision="fp16", checkpoint=tmp_path, last=last).reports == whole.reports[:last]
    state = torch.load(io.BytesIO((tmp_path / RESUME).read_bytes()[40:]), weights_only=True)
    assert state["scaler"]["_growth_tracker"] == 4  # steps since it last ran over: two an epoch
    assert run(RISING, FEW, precision="fp16", checkpoint=tmp_path) == whole


OTHERS: dict[str, dict[str, Value]] = {  # with COMBINATIONS: every kind of parameter that an epoch depends on
    "averaged": {"ema": 0.9, "loss": "focal", "augment": "strong", "optimizer": "adam", "flip": 0.5},
    "averaged, asymmetric": {"ema": 0.9, "loss": "asymmetric", "augment": "medium", "label_smoothing": 0.1},
    "smoothed, rare": {"rare_below": 0.9, "rare_repeat": 3, "label_smoothing": 0.1, "scheduler": "plateau"},
    "averaged, rare": {"rare_below": 0.9, "rare_repeat": 3, "ema": 0.5, "rare_augment": "none", "loss": "weighted"},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_last_state_of_an_interrupted_fit_is_the_uninterrupted_ones_to_the_bit(
    kind: str, precision: str, tmp_path: Path
) -> None:
    """All of it, and the best weights, but for the time that epochs took."""
    params, ended, whole = RISING | OTHERS[kind], tmp_path / "ended", tmp_path / "whole"
    run(params, FEW, precision=precision, checkpoint=whole)
    for last in (1, 2, None):
        run(params, FEW, precision=precision, checkpoint=ended, last=last)
    assert state(ended) == state(whole)
    assert same_weights(ended, whole)


def test_a_full_disk_costs_no_state_that_is_there(tmp_path: Path) -> None:
    """A real one: it takes a second state in part. Once there is room, the fit goes on to the same bits."""
    whole = run(RISING, FEW, checkpoint=tmp_path)
    size = (tmp_path / RESUME).stat().st_size
    with mounted(100) as disk:
        run(RISING, FEW, checkpoint=disk.root, last=1)
        disk.fill()
        with (disk.root / "ballast").open("r+b") as ballast:
            ballast.truncate(ballast.seek(0, os.SEEK_END) - size // 2)
        before = (disk.root / RESUME).read_bytes()
        with pytest.raises(OSError, match="No space left on device"):
            run(RISING, FEW, checkpoint=disk.root)
        assert (disk.root / RESUME).read_bytes() == before
        assert [path for path in disk.root.iterdir() if path.name.startswith(".")] == []

        disk.free()

        assert run(RISING, FEW, checkpoint=disk.root) == whole
        assert same_weights(disk.root, tmp_path)


def test_a_fit_of_rare_classes_by_another_loss_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    params = RISING | {"rare_below": 0.9, "rare_repeat": 3, "rare_augment": "strong", "flip": 0.5, "loss": "weighted"}
    whole = run(params, FEW)
    for last in (1, 2):
        assert run(params, FEW, checkpoint=tmp_path, last=last).reports == whole.reports[:last]
    assert run(params, FEW, checkpoint=tmp_path) == whole


def test_a_checkpoint_whose_best_weights_another_objective_chose_is_refused(begun: Path, data: Dataset) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        fit(SMALL, data, seed=3, epochs=3, objective="map", precision="fp32", threads=1, checkpoint=begun)
    assert str(caught.value) == (
        f"{begun / RESUME} belongs to another fit: its objective is 'bce', asked for is 'map'. "
        "Name another checkpoint folder."
    )


def test_the_combinations_pair_each_choice_with_each_other_one() -> None:
    choices = (OPTIMIZERS, SCHEDULERS, ("fp32", "bf16"), AUGMENTS)
    for one, other in combinations(range(4), 2):
        assert {(row[one], row[other]) for row in COMBINATIONS} == {*product(choices[one], choices[other])}


def test_a_fit_whose_best_weights_are_gone_starts_again_and_finds_them(tmp_path: Path) -> None:
    whole = run(RISING, FEW, checkpoint=tmp_path)
    (tmp_path / BEST).unlink()

    assert run(RISING, FEW, checkpoint=tmp_path) == whole
    assert (tmp_path / BEST).exists()


def test_best_weights_that_another_fit_left_are_replaced(rising: tuple[Run, Path], tmp_path: Path) -> None:
    whole, folder = rising
    other = run(RISING, FEW, seed=1, checkpoint=tmp_path)
    assert best_epoch(other.reports, "bce").epoch == best_epoch(whole.reports, "bce").epoch
    for name in (RESUME, PREVIOUS):
        (tmp_path / name).unlink()

    assert run(RISING, FEW, checkpoint=tmp_path) == whole
    assert same_weights(tmp_path, folder)


def test_a_checkpoint_place_that_is_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadCheckpoint, match=r"folder .*file cannot be used: File exists\. Name another\."):
        run(RISING, FEW, checkpoint=tmp_path / "file")


def test_a_fit_interrupted_by_ctrl_c_goes_on_to_the_same_bits(rising: tuple[Run, Path], tmp_path: Path) -> None:
    def interrupt(report: EpochReport) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(RISING, FEW, checkpoint=tmp_path, each=interrupt)

    whole, folder = rising
    assert run(RISING, FEW, checkpoint=tmp_path) == whole
    assert same_weights(tmp_path, folder)


def test_a_finished_fit_tells_its_reports_again_and_writes_nothing(rising: tuple[Run, Path]) -> None:
    whole, folder = rising
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    seconds: list[float] = []
    for _ in range(2):
        assert run(RISING, FEW, checkpoint=folder, each=lambda report: seconds.append(report.seconds)) == whole
    assert seconds[:3] == seconds[3:]  # as they were measured, not measured again
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert sorted(before) == [BEST, RESUME, PREVIOUS]


def test_an_epoch_told_again_can_end_the_fit_too(rising: tuple[Run, Path]) -> None:
    whole, folder = rising
    assert run(RISING, FEW, checkpoint=folder, last=2).reports == whole.reports[:2]


def test_an_epoch_is_told_once_its_checkpoint_is_on_disk(data: Dataset, tmp_path: Path) -> None:
    """A second fit, in the middle of the first one's callback, finds the epoch that is being told."""
    found: list[int] = []

    def look(report: EpochReport) -> None:
        again = run(SMALL, data, epochs=2, checkpoint=tmp_path, last=report.epoch)
        found.append(len(again.reports))
        assert replace(report, seconds=0.0) == again.reports[-1]

    run(SMALL, data, epochs=2, checkpoint=tmp_path, each=look)
    assert found == [1, 2]


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 4}, "its seed is 3, asked for is 4"),
        ({"epochs": 4}, "its epochs is 3, asked for is 4"),
        ({"precision": "bf16"}, "its precision is 'fp32', asked for is 'bf16'"),
        ({"data": tiny(train=97)}, "its data is 'tiny:[0-9a-f]{16}', asked for is 'tiny:[0-9a-f]{16}'"),
        ({"params": SMALL | {"lr": 0.5}}, r"its params is \{.*'lr': 0.001, .*\}, asked for is \{.*'lr': 0.5, .*\}"),
    ],
)
def test_the_checkpoint_of_another_fit_is_refused_before_any_training_and_kept(
    data: Dataset, begun: Path, changed: dict[str, Any], difference: str
) -> None:
    before = (begun / RESUME).read_bytes()
    told: list[EpochReport] = []
    asked: dict[str, Any] = {"params": SMALL, "data": data, "seed": 3} | changed

    with pytest.raises(
        BadCheckpoint,
        match=f"^{begun}/{RESUME} belongs to another fit: {difference}. Name another checkpoint folder.$",
    ):
        run(**asked, checkpoint=begun, each=told.append)

    assert told == []
    assert (begun / RESUME).read_bytes() == before


def test_a_damaged_checkpoint_is_refused(data: Dataset, begun: Path, tmp_path: Path) -> None:
    content = bytearray((begun / RESUME).read_bytes())
    content[-1] ^= 1
    (tmp_path / RESUME).write_bytes(content)

    with pytest.raises(BadCheckpoint) as caught:
        run(SMALL, data, seed=3, checkpoint=tmp_path)

    assert str(caught.value) == (
        f"{tmp_path / RESUME} is damaged: its checksum does not match. Delete it to start this fit again."
    )


def test_a_fit_that_diverges_keeps_its_last_good_checkpoint(data: Dataset, tmp_path: Path) -> None:
    wild = SMALL | {"optimizer": "adam", "lr": 10, "batch_size": 96}  # its only step comes after the first loss
    told: list[int] = []
    for _ in range(2):
        with pytest.raises(Diverged) as caught:
            run(wild, data, checkpoint=tmp_path, each=lambda report: told.append(report.epoch))
        assert caught.value.epoch == 2
    assert told == [1, 1]
