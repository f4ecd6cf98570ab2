"""A fit's state comes back exactly or is refused with a sentence."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mlc_core import BadCheckpoint, EpochReport, Params
from mlc_core.checkpoint import PREVIOUS, RESUME, Identity, State, alike, read, write, write_best
from mlc_core.records import BEST
from tests.mlc_core.fits import leaves
from tests.mlc_core.test_cache import files_end_at

CPU = torch.device("cpu")
IDENTITY = Identity(
    start="none",
    params=Params().to_flat(),
    seed=3,
    epochs=5,
    objective="bce",
    data="tiny:1",
    device="cpu",
    precision="fp32",
    threads=1,
    micro_batch=64,
)


def trained(epochs: int = 2) -> State:
    """The state of a real optimizer and scheduler after a few steps."""
    torch.manual_seed(epochs)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 + 0.2, fused=True)
    scheduler = ReduceLROnPlateau(optimizer, patience=0)
    reports = []
    for epoch in range(1, epochs + 1):
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        scheduler.step(1 / 3)
        measured = {"train_loss": 0.1 + 0.2, "val_loss": 1 / 3 / epoch, "macro_f1": 1 / 7, "mean_ap": 1 / 9}
        reports.append(EpochReport(epoch, 5, **measured, lr=1e-5 / 3, seconds=2 / 3, micro_batch=64))
    return State(
        reports=tuple(reports),
        weights=model.state_dict(),
        optimizer=optimizer.state_dict(),
        scheduler=scheduler.state_dict(),
        scaler={"scale": 65536.0 / 3, "_growth_tracker": 7},
        average={"steps": epochs, "network": nn.Linear(3, 2).state_dict()},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A resume file as it should be."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, IDENTITY, trained())
    return (folder / RESUME).read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt")


def spoil(file: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damaged(file: Path) -> str:
    return f"{file} is damaged: its checksum does not match. Delete it to start this fit again."


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    state = trained()
    assert read(tmp_path / "made" / "for it", IDENTITY, device=CPU) is None
    write(tmp_path / "made" / "for it", IDENTITY, state)

    back = read(tmp_path / "made" / "for it", IDENTITY, device=CPU)

    assert back is not None
    assert back.reports == state.reports
    for part in ("weights", "optimizer", "scheduler", "scaler", "average"):
        before, after = (dict(leaves(getattr(each, part))) for each in (state, back))
        assert after == before
    assert len(dict(leaves(back.optimizer))) > 10


def test_there_is_no_state_where_none_was_written(tmp_path: Path) -> None:
    assert read(tmp_path, IDENTITY, device=CPU) is None
    assert read(tmp_path / "nowhere", IDENTITY, device=CPU) is None


def test_the_latest_state_replaces_the_one_before(tmp_path: Path) -> None:
    for epochs in (1, 2, 3):
        write(tmp_path, IDENTITY, trained(epochs))
    back = read(tmp_path, IDENTITY, device=CPU)
    assert back is not None
    assert [report.epoch for report in back.reports] == [1, 2, 3]
    assert sorted(tmp_path.iterdir()) == [tmp_path / RESUME, tmp_path / PREVIOUS]


def test_the_state_before_is_read_where_the_newest_is_damaged_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs in (1, 2, 3):
        write(tmp_path, IDENTITY, trained(epochs))
    spoil(tmp_path / RESUME)
    back = read(tmp_path, IDENTITY, device=CPU)
    assert back is not None
    assert [report.epoch for report in back.reports] == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{damaged(tmp_path / RESUME)} The fit goes on from {tmp_path / PREVIOUS}, after epoch 2."
    ]


def test_a_damaged_state_does_not_take_the_place_of_a_good_one(tmp_path: Path) -> None:
    for epochs in (1, 2):
        write(tmp_path, IDENTITY, trained(epochs))
    spoil(tmp_path / RESUME)
    assert read(tmp_path, IDENTITY, device=CPU) is not None
    write(tmp_path, IDENTITY, trained(2))
    spoil(tmp_path / RESUME)
    back = read(tmp_path, IDENTITY, device=CPU)
    assert back is not None
    assert [report.epoch for report in back.reports] == [1]


def test_killed_between_two_renames_the_state_before_is_there(tmp_path: Path) -> None:
    write(tmp_path, IDENTITY, trained(1))
    (tmp_path / RESUME).rename(tmp_path / PREVIOUS)
    (tmp_path / f".{RESUME}.x1").write_bytes(b"what was to be renamed next")
    back = read(tmp_path, IDENTITY, device=CPU)
    assert back is not None
    assert [report.epoch for report in back.reports] == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / PREVIOUS]


def test_where_the_newest_belongs_to_another_fit_the_one_before_is_not_asked(tmp_path: Path) -> None:
    write(tmp_path, IDENTITY, trained(1))
    write(tmp_path, replace(IDENTITY, seed=4), trained(2))
    with pytest.raises(BadCheckpoint, match="belongs to another fit: its seed is 4, asked for is 3"):
        read(tmp_path, IDENTITY, device=CPU)


def test_a_state_is_read_with_its_micro_batch_unless_another_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, IDENTITY, trained(1))
    back = read(tmp_path, replace(IDENTITY, micro_batch=None), device=CPU)
    assert back is not None
    assert back.reports[0].micro_batch == 64
    with pytest.raises(BadCheckpoint, match="belongs to another fit: its micro_batch is 64, asked for is 32"):
        read(tmp_path, replace(IDENTITY, micro_batch=32), device=CPU)


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(3),
        torch.zeros(2, 2),
        torch.zeros(4, dtype=torch.float64),
        torch.zeros(1).expand(4),  # one number in memory
        torch.zeros(4).to_sparse(),
        [0.0] * 4,
        None,
    ],
)
def test_only_a_tensor_of_the_same_form_is_alike(other: object) -> None:
    ours = {"state": {0: {"exp_avg": torch.zeros(4), "step": 1}}}
    assert alike({"state": {0: {"exp_avg": torch.ones(4), "step": 2.0}}}, ours)
    assert not alike({"state": {0: {"exp_avg": other, "step": 1}}}, ours)
    assert not alike({"state": {}}, ours)


@given(st.data())
def test_whatever_bit_flips_the_state_is_refused(whole: bytes, folder: Path, data: st.DataObject) -> None:
    content = bytearray(whole)
    content[data.draw(st.integers(0, 50) | st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / RESUME).write_bytes(content)

    with pytest.raises(BadCheckpoint) as caught:
        read(folder, IDENTITY, device=CPU)

    assert str(caught.value) == damaged(folder / RESUME)


@given(st.data())
def test_wherever_a_file_is_cut_off_or_goes_on_the_state_is_refused(
    whole: bytes, folder: Path, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, 50) | st.integers(0, len(whole) - 1))
    content = data.draw(st.sampled_from([whole[:length], whole + whole[: length + 1]]))
    (folder / RESUME).write_bytes(content)

    with pytest.raises(BadCheckpoint) as caught:
        read(folder, IDENTITY, device=CPU)

    assert str(caught.value) == damaged(folder / RESUME)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (replace(IDENTITY, seed=4), "its seed is 3, asked for is 4"),
        (replace(IDENTITY, epochs=6), "its epochs is 5, asked for is 6"),
        (replace(IDENTITY, objective="map"), "its objective is 'bce', asked for is 'map'"),
        (replace(IDENTITY, data="tiny:2"), "its data is 'tiny:1', asked for is 'tiny:2'"),
        (replace(IDENTITY, precision="bf16"), "its precision is 'fp32', asked for is 'bf16'"),
        (replace(IDENTITY, device="cuda"), "its device is 'cpu', asked for is 'cuda'"),
        (replace(IDENTITY, threads=2), "its threads is 1, asked for is 2"),
        (
            replace(IDENTITY, params=Params(lr=0.5).to_flat()),
            f"its params is {Params().to_flat()}, asked for is {Params(lr=0.5).to_flat()}",
        ),
    ],
)
def test_the_state_of_another_fit_is_refused_by_what_differs(
    whole: bytes, tmp_path: Path, other: Identity, difference: str
) -> None:
    (tmp_path / RESUME).write_bytes(whole)

    with pytest.raises(BadCheckpoint) as caught:
        read(tmp_path, other, device=CPU)

    assert str(caught.value) == (
        f"{tmp_path / RESUME} belongs to another fit: {difference}. Name another checkpoint folder."
    )


def sealed(content: object) -> bytes:
    """A file whose checksum is right, whatever is in it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return b"MLCFIT01" + hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def test_a_state_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESUME).write_bytes(sealed({"format": 1, "identity": asdict(IDENTITY)}))

    with pytest.raises(BadCheckpoint) as caught:
        read(tmp_path, IDENTITY, device=CPU)

    assert str(caught.value) == (f"{tmp_path / RESUME} has format 1, this version reads 6. Delete it to start again.")


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sprung),)


def test_reading_runs_no_code_that_a_file_brings(tmp_path: Path) -> None:
    (tmp_path / RESUME).write_bytes(
        sealed({"format": 6, "identity": asdict(IDENTITY), "weights": Trap(tmp_path / "sprung")})
    )

    with pytest.raises(BadCheckpoint, match="is damaged: it does not hold what was written"):
        read(tmp_path, IDENTITY, device=CPU)

    assert not (tmp_path / "sprung").exists()


def test_a_write_that_fails_leaves_the_state_before_it(tmp_path: Path) -> None:
    write(tmp_path, IDENTITY, trained(1))

    with files_end_at(1000), pytest.raises(OSError, match="File too large"):
        write(tmp_path, IDENTITY, trained(2))

    back = read(tmp_path, IDENTITY, device=CPU)
    assert back is not None
    assert [report.epoch for report in back.reports] == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / RESUME]


def test_the_best_weights_are_a_safetensors_file_that_says_what_they_are(tmp_path: Path) -> None:
    weights = {
        "conv": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "seen": torch.tensor(7),  # batch normalization counts in int64
        "grown": nn.Parameter(torch.randn(2)),
    }
    write_best(tmp_path, weights, {"classes": json.dumps(["a", "é"])})

    with safe_open(tmp_path / BEST, framework="pt") as file:
        assert file.metadata() == {"classes": '["a", "\\u00e9"]'}
        assert sorted(file.keys()) == ["conv", "grown", "seen"]
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in weights.items())
