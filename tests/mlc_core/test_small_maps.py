"""Convolutions over small maps: the same function as the ones they stand for, and the same state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from mlc_core.model import Classifier, build
from mlc_core.params import BackboneName, StemName
from mlc_core.small_maps import SmallMapConv2d, fit_to


def small_and_plain(*, kernel: int, stride: int, padding: int, size: int) -> tuple[SmallMapConv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, kernel, stride=stride, padding=padding, bias=False).double()
    return SmallMapConv2d(plain, size), plain


def fitted(backbone: BackboneName, stem: StemName, size: int) -> tuple[Classifier, Classifier]:
    """The same network twice, the second one fitted to a size; in double precision, so that rounding hides nothing."""
    torch.manual_seed(0)
    plain, fit = (build(backbone=backbone, stem=stem, dropout=0.0, classes=4, seed=1) for _ in range(2))
    fit_to(fit, size)
    return plain.double(), fit.double()


def replaced(model: Classifier) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, SmallMapConv2d)]


@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    size=st.integers(1, 6),
    n=st.integers(1, 3),
)
def test_outputs_and_slopes_are_those_of_the_convolution(
    kernel: int, stride: int, padding: int, size: int, n: int
) -> None:
    assume(stride <= kernel or kernel == 1)
    assume(2 * padding <= kernel <= size + 2 * padding)
    small, plain = small_and_plain(kernel=kernel, stride=stride, padding=padding, size=size)
    ours, theirs = (torch.linspace(-1, 1, n * 3 * size * size).double().view(n, 3, size, size) for _ in range(2))
    ours, theirs = ours.requires_grad_(), theirs.requires_grad_()

    mine, expected = small(ours), plain(theirs)
    weights = torch.linspace(0, 1, expected.numel()).double().view(expected.shape)
    (mine * weights).sum().backward()
    (expected * weights).sum().backward()

    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    slopes, kept = plain.weight.grad, small.weight.grad
    assert slopes is not None
    assert kept is not None
    met = slopes.abs().amax(dim=(0, 1)) > 0  # what meets nothing has no slope
    torch.testing.assert_close(kept, slopes[:, :, met].permute(2, 1, 0).flatten(0, 1))


@pytest.mark.parametrize(
    ("backbone", "stem", "size", "count"),
    [
        ("resnet10", "standard", 32, 6),
        ("resnet10", "small", 32, 3),
        ("resnet10", "standard", 64, 3),
        ("resnet10", "standard", 128, 0),
        ("resnet50", "standard", 40, 9),
        ("resnet18", "standard", 8, 19),
    ],
)
def test_a_network_fitted_to_a_size_computes_the_same(
    backbone: BackboneName, stem: StemName, size: int, count: int
) -> None:
    plain, fit = fitted(backbone, stem, size)
    images = torch.randn(4, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    assert len(replaced(fit)) == count
    for model in (plain, fit):
        model.train()(images)  # moves the statistics of batch normalization as well
    torch.testing.assert_close(fit.eval()(images), plain.eval()(images))


def test_the_state_is_that_of_the_plain_network_without_weights_that_meet_nothing() -> None:
    plain, fit = fitted("resnet10", "standard", 32)

    whole, kept = plain.state_dict(), fit.state_dict()

    assert list(kept) == list(whole)
    corner, centre = whole["resnet.layer4.0.conv2.weight"].clone(), kept["resnet.layer4.0.conv2.weight"]
    assert torch.equal(centre[..., 1, 1], corner[..., 1, 1])
    assert not centre[..., 0, :].any()
    assert not centre[..., 2, :].any()
    assert sum(weight.numel() for weight in fit.parameters()) < sum(weight.numel() for weight in plain.parameters()) / 2


def test_a_state_goes_from_either_network_to_the_other() -> None:
    (plain, fit), images = fitted("resnet10", "standard", 32), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    (other, other_fit) = (build(backbone="resnet10", stem="standard", dropout=0.0, classes=4, seed=9) for _ in range(2))
    fit_to(other_fit, 32)

    other.double().load_state_dict(fit.state_dict())
    other_fit.double().load_state_dict(plain.state_dict())

    with torch.inference_mode():
        told: list[Tensor] = [model.eval()(images) for model in (plain, other, other_fit)]
    torch.testing.assert_close(told[1], told[0])
    torch.testing.assert_close(told[2], told[0])


def test_under_autocast_the_products_are_in_its_precision_and_the_slopes_in_that_of_the_weights() -> None:
    plain = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    small = SmallMapConv2d(plain, 2)
    images = torch.randn(4, 3, 2, 2)

    with torch.autocast("cpu", torch.bfloat16):
        told = small(images)
    told.float().sum().backward()

    assert told.dtype == torch.bfloat16
    assert small.weight.grad is not None
    assert small.weight.grad.dtype == torch.float32
    torch.testing.assert_close(told.float(), plain(images), rtol=0.02, atol=0.02)
