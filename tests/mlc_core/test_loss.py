"""Losses that train, against torchvision, formulas in double precision and numerical gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from mlc_core.data.dataset import Uint8
from mlc_core.loss import Loss, asymmetric, training_loss
from mlc_core.params import LOSSES, LossName, Params

CPU = torch.device("cpu")
GAMMAS, CLIPS = st.floats(0, 20), st.floats(0, 1)
LABELS: Uint8 = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0]], dtype=np.uint8)


def chosen(**params: Any) -> Loss:
    return training_loss(Params(**params), LABELS, CPU)


def pairs(seed: int = 0, *, n: int = 8, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 4, generator=generator) * spread
    return logits, torch.randint(0, 2, (n, 4), generator=generator).float()


def by_the_book(
    logits: Tensor, targets: Tensor, *, gamma_pos: float, gamma_neg: float, clip: float
) -> NDArray[np.float64]:
    """Asymmetric loss as the paper writes it, for logits that double precision has no trouble with."""
    p, y = logits.double().sigmoid().numpy(), targets.numpy()
    lower = np.maximum(p - clip, 0)
    positive = (1 - p) ** gamma_pos * np.log(p)
    negative = lower**gamma_neg * np.log(1 - lower)
    loss: NDArray[np.float64] = -(y * positive + (1 - y) * negative)
    return loss


def test_plain_cross_entropy_has_torchs_bits() -> None:
    logits, targets = pairs()
    assert torch.equal(chosen()(logits, targets), functional.binary_cross_entropy_with_logits(logits, targets))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_positive_weighs_as_much_as_its_class_is_rare(power: float) -> None:
    """Of five images three, none, all and one carry the classes; the second and third have nothing to balance."""
    weights = np.array([(2 / 3) ** power, 1, 1, 4**power])
    logits, targets = pairs()
    p, y = logits.double().sigmoid().numpy(), targets.numpy()

    found = chosen(loss="weighted", pos_weight_power=power)(logits, targets)

    assert float(found) == pytest.approx(-(weights * y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), rel=1e-5)


@given(GAMMAS, st.integers(0, 99))
def test_the_focal_loss_is_torchvisions(gamma: float, seed: int) -> None:
    logits, targets = pairs(seed)
    found = chosen(loss="focal", focal_gamma=gamma)(logits, targets)
    expected = sigmoid_focal_loss(logits.double(), targets.double(), alpha=-1, gamma=gamma, reduction="mean")
    assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-12)


@given(GAMMAS, GAMMAS, CLIPS, st.integers(0, 99))
def test_the_asymmetric_loss_is_that_of_the_paper(gamma_pos: float, gamma_neg: float, clip: float, seed: int) -> None:
    logits, targets = pairs(seed)
    found = chosen(
        loss="asymmetric", asymmetric_gamma_pos=gamma_pos, asymmetric_gamma_neg=gamma_neg, asymmetric_clip=clip
    )(logits, targets)
    expected = by_the_book(logits, targets, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip).mean()
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(st.integers(0, 99), st.sampled_from([0.1, 3.0, 30.0]))
def test_without_gammas_and_clip_the_asymmetric_loss_is_plain_cross_entropy(seed: int, spread: float) -> None:
    logits, targets = pairs(seed, spread=spread)
    found = chosen(loss="asymmetric", asymmetric_gamma_pos=0, asymmetric_gamma_neg=0, asymmetric_clip=0)
    expected = functional.binary_cross_entropy_with_logits(logits, targets)
    assert float(found(logits, targets)) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("gamma_pos", "gamma_neg", "clip"),
    [(0, 0, 0), (2, 2, 0), (0.3, 0.3, 0), (0, 4, 0.05), (1, 0.3, 0.4), (2.5, 0, 0.4)],
)
def test_the_asymmetric_loss_has_the_gradient_of_its_values(gamma_pos: float, gamma_neg: float, clip: float) -> None:
    logits, targets = (tensor.double() for tensor in pairs(n=4, spread=2))

    def loss(z: Tensor) -> Tensor:
        return asymmetric(z, targets, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0, 20.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_logit_is_too_large_for_a_loss_or_its_gradient(loss: LossName, gamma: float, smoothing: float) -> None:
    sizes = torch.tensor([0.0, 1e-30, 0.05, 2.9444, 9.0, 17.0, 90.0, 1e4, 1e30])  # sigmoid(-2.9444) is about the clip
    logits = torch.cat([sizes, -sizes])[:, None].expand(-1, 4).clone().requires_grad_()
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(len(logits), 4)
    for clip in (0.0, 0.05, 1.0):
        params: dict[str, Any] = {"focal_gamma": gamma, "asymmetric_gamma_neg": gamma, "asymmetric_gamma_pos": gamma}
        value = chosen(loss=loss, label_smoothing=smoothing, asymmetric_clip=clip, **params)(logits, targets)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert value >= 0
        assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_smoothing_moves_the_targets_of_every_loss_towards_a_half(loss: LossName) -> None:
    logits, targets = pairs()
    found = chosen(loss=loss, label_smoothing=0.2)(logits, targets)
    expected = chosen(loss=loss)(logits, torch.where(targets == 1, 0.9, 0.1))
    torch.testing.assert_close(found, expected)
    assert found != chosen(loss=loss)(logits, targets)


def test_a_parameter_of_another_loss_has_no_effect() -> None:
    logits, targets = pairs()
    others: dict[LossName, dict[str, Any]] = {
        "weighted": {"pos_weight_power": 1.0},
        "focal": {"focal_gamma": 5.0},
        "asymmetric": {"asymmetric_gamma_pos": 1.0, "asymmetric_gamma_neg": 1.0, "asymmetric_clip": 0.3},
    }
    for loss in LOSSES:
        for owner, params in others.items():
            same = torch.equal(chosen(loss=loss, **params)(logits, targets), chosen(loss=loss)(logits, targets))
            assert same == (owner != loss)
