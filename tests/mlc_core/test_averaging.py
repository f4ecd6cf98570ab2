"""Averaged weights: what they are, that the training does not notice them, and that they survive an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlc_core import BadCheckpoint, Value
from mlc_core.checkpoint import RESUME, read_state
from mlc_core.model import Classifier, build
from mlc_core.optimize import Average, Weights
from mlc_core.predict import Predictor, infer, read_member
from mlc_core.records import BEST, best_epoch
from tests.mlc_core.fits import FEW, RISING, Run, losses, run, same_weights

EMA: dict[str, Value] = {"ema": 0.9}


def arrays(model: Classifier) -> dict[str, NDArray[np.float64]]:
    return {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}


def changed(model: Classifier, step: int) -> None:
    """Change every tensor, as a step of training does."""
    generator = torch.Generator().manual_seed(step)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        else:
            tensor.add_(1)


def state(folder: Path) -> dict[str, Any]:
    saved = read_state(folder / RESUME, {}, device=torch.device("cpu"))
    assert saved is not None
    return saved


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A fit with averaged weights, with its checkpoint; not to be written to."""
    folder = tmp_path_factory.mktemp("averaged")
    return run(RISING | EMA, FEW, checkpoint=folder), folder


def test_the_average_is_the_recurrence_in_double_precision() -> None:
    model = build(backbone="resnet10", stem="small", dropout=0.0, classes=2, seed=0)
    average = Average(Weights(model), 0.2)
    expected = arrays(model)
    for step, kept in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):  # the decay grows until it is the one asked for
        changed(model, step)
        average.update()
        for name, latest in arrays(model).items():
            counts = name.endswith("num_batches_tracked")
            expected[name] = latest if counts else kept * expected[name] + (1 - kept) * latest

    for name, array in arrays(average.weights.model).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-6, err_msg=name)


def test_the_training_does_not_notice_the_averaging(rising: tuple[Run, Path], averaged: tuple[Run, Path]) -> None:
    (off, off_folder), (on, on_folder) = rising, averaged
    off_state, on_state = state(off_folder), state(on_folder)

    assert [report.train_loss for report in on.reports] == [report.train_loss for report in off.reports]
    assert losses(on.reports) != losses(off.reports)
    for name, tensor in off_state["weights"].items():
        assert torch.equal(tensor, on_state["weights"][name]), name
    assert off_state["average"] == {}
    assert on_state["average"]["steps"] == 6  # 48 images in batches of 24, three times


def test_the_kept_weights_are_the_averaged_ones_that_the_fit_was_judged_by(averaged: tuple[Run, Path]) -> None:
    whole, folder = averaged
    best = best_epoch(whole.reports, "bce")
    assert whole.value == best.val_loss

    member = read_member(folder / BEST)
    logits = torch.from_numpy(infer(Predictor([member]), FEW.val.images, FEW.val.rows))
    targets = torch.from_numpy(FEW.val.labels).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert float(loss) == pytest.approx(best.val_loss, rel=1e-5)
    if best is whole.reports[-1]:
        kept = member.network.state_dict()
        assert all(torch.equal(kept[name], tensor) for name, tensor in state(folder)["average"]["network"].items())


def test_an_interrupted_fit_goes_on_with_its_average_to_the_same_bits(
    averaged: tuple[Run, Path], tmp_path: Path
) -> None:
    whole, folder = averaged
    for last in (1, 2):
        assert run(RISING | EMA, FEW, checkpoint=tmp_path, last=last).reports == whole.reports[:last]

    assert run(RISING | EMA, FEW, checkpoint=tmp_path) == whole
    assert same_weights(folder, tmp_path)


def test_a_fit_in_half_precision_goes_on_with_its_average_to_the_same_bits(tmp_path: Path) -> None:
    params: dict[str, Value] = RISING | EMA | {"image_size": 32, "scheduler": "plateau", "patience": 0}
    whole = run(params, FEW, epochs=2, precision="bf16", checkpoint=tmp_path / "whole")
    run(params, FEW, epochs=2, precision="bf16", checkpoint=tmp_path / "parts", last=1)

    assert run(params, FEW, epochs=2, precision="bf16", checkpoint=tmp_path / "parts") == whole
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_checkpoint_without_the_average_is_of_another_fit(tmp_path: Path) -> None:
    run(RISING, FEW, checkpoint=tmp_path, last=1)
    with pytest.raises(BadCheckpoint, match=r"belongs to another fit: its params is .*'ema': 0\.0.*'ema': 0\.9"):
        run(RISING | EMA, FEW, checkpoint=tmp_path)
