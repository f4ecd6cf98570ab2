"""A fit's state comes back exactly or is refused with a sentence."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterator
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
from mlc_core.checkpoint import RESUME, Identity, State, read, write, write_best
from mlc_core.records import BEST
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
        measured = {"train_loss": 0.1 + 0.2, "val_loss": 1 / 3, "macro_f1": 1 / 7, "mean_ap": 1 / 9}
        reports.append(EpochReport(epoch, 5, **measured, lr=1e-5 / 3, seconds=2 / 3))
    return State(
        reports=tuple(reports),
        weights=model.state_dict(),
        optimizer=optimizer.state_dict(),
        scheduler=scheduler.state_dict(),
        scaler={"scale": 65536.0 / 3, "_growth_tracker": 7},
        average={"steps": epochs, "network": nn.Linear(3, 2).state_dict()},
    )


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Whatever a nested state holds, tensors as their type and bytes."""
    match tree:
        case dict():
            for key, value in tree.items():
                yield from leaves(value, f"{path}/{key}")
        case list() | tuple():
            for index, value in enumerate(tree):
                yield from leaves(value, f"{path}/{index}")
        case torch.Tensor():
            yield path, (tree.dtype, tree.shape, tree.numpy().tobytes())
        case _:
            yield path, tree


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A resume file as it should be."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, IDENTITY, trained())
    return (folder / RESUME).read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt")


def damaged(file: Path) -> str:
    return f"{file} is damaged: its checksum does not match. Delete it to start this fit again."


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    state = trained()
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
    assert list(tmp_path.iterdir()) == [tmp_path / RESUME]


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

    assert str(caught.value) == (f"{tmp_path / RESUME} has format 1, this version reads 5. Delete it to start again.")


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sprung),)


def test_reading_runs_no_code_that_a_file_brings(tmp_path: Path) -> None:
    (tmp_path / RESUME).write_bytes(sealed({"format": 5, "weights": Trap(tmp_path / "sprung")}))

    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
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
    write_best(tmp_path / "made", weights, {"classes": json.dumps(["a", "é"])})

    with safe_open(tmp_path / "made" / BEST, framework="pt") as file:
        assert file.metadata() == {"classes": '["a", "\\u00e9"]'}
        assert sorted(file.keys()) == ["conv", "grown", "seen"]
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in weights.items())
