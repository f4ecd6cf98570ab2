"""Which images an epoch takes: rare classes more often, everything else by the book."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from mlc_core import Dataset
from mlc_core.data.dataset import Uint8
from mlc_core.data.sampling import Sampling
from mlc_core.params import Params

LABELS = st.tuples(st.integers(2, 60), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)
SHARES, LIMITS = st.floats(0, 1), st.floats(1, 100)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skewed(n: int = 500) -> Uint8:
    """Three classes on 60, 20 and 2 of 100 images, and images with none."""
    chances = np.random.default_rng(1).random((n, 3))
    return (chances < (0.6, 0.2, 0.02)).astype(np.uint8)


def counts(order: Tensor) -> Tensor:
    return torch.bincount(order, minlength=len(order))


@given(LABELS, SHARES, LIMITS)
def test_an_image_repeats_by_its_rarest_class_as_in_lvis(labels: Uint8, below: float, most: float) -> None:
    sampling = Sampling.of(labels, Params(rare_below=below, rare_repeat=most))

    shares = [float(column.sum()) / len(labels) for column in labels.T]
    for row, rare, repeats in zip(labels, sampling.rare, sampling.repeats, strict=True):
        carried = [share for label, share in zip(row, shares, strict=True) if label]
        assert rare == any(share < below for share in carried)
        expected = max([1.0, *(max(1.0, min(most, math.sqrt(below / share))) for share in carried)])
        assert repeats == pytest.approx(expected, rel=1e-12)


@given(LABELS, SHARES, LIMITS, st.integers(0, 99))
def test_an_epoch_takes_as_many_images_as_there_are_each_as_often_as_it_should(
    labels: Uint8, below: float, most: float, seed: int
) -> None:
    sampling = Sampling.of(labels, Params(rare_below=below, rare_repeat=most))

    order = sampling.order(seeded(seed))

    assert order.shape == (len(labels),)
    assert order.dtype == torch.int64
    expected = sampling.repeats * len(labels) / sampling.repeats.sum()
    assert (np.abs(counts(order).numpy() - expected) < 1 + 1e-6).all()


@pytest.mark.parametrize("params", [Params(), Params(rare_below=0.5), Params(rare_repeat=9), Params(rare_below=0.01)])
def test_where_nothing_is_rare_or_nothing_may_repeat_the_order_is_a_plain_shuffle(params: Params) -> None:
    order = Sampling.of(skewed(), params).order(seeded(7))
    assert torch.equal(order, torch.randperm(500, generator=seeded(7)))


def test_over_many_epochs_each_image_comes_as_often_as_it_repeats() -> None:
    labels = skewed(100)
    sampling = Sampling.of(labels, Params(rare_below=0.3, rare_repeat=3))
    assert sorted({round(float(each), 2) for each in sampling.repeats}) == [1.0, 1.22, 3.0]

    epochs = 2000
    seen = sum(counts(sampling.order(seeded(epoch))) for epoch in range(epochs)) / epochs

    np.testing.assert_allclose(seen, sampling.repeats * 100 / sampling.repeats.sum(), atol=0.06)


def test_the_shares_are_those_of_the_images_that_epochs_take() -> None:
    labels = skewed(400)
    sampling = Sampling.of(labels, Params(rare_below=0.3, rare_repeat=4))

    shares = sampling.shares(labels)

    taken = np.mean([labels[sampling.order(seeded(epoch))].mean(axis=0) for epoch in range(200)], axis=0)
    np.testing.assert_allclose(shares, taken, atol=0.002)
    assert shares[2] > 2 * labels[:, 2].mean()
    np.testing.assert_allclose(Sampling.of(labels, Params()).shares(labels), labels.mean(axis=0))


def test_the_order_is_a_function_of_the_generators_seed_alone() -> None:
    sampling = Sampling.of(skewed(), Params(rare_below=0.3, rare_repeat=4))
    torch.manual_seed(0)
    once = sampling.order(seeded(7))
    torch.manual_seed(1)
    assert torch.equal(once, sampling.order(seeded(7)))
    assert not torch.equal(once, sampling.order(seeded(8)))


def test_an_image_that_comes_twice_does_not_come_twice_in_a_row() -> None:
    sampling = Sampling.of(skewed(), Params(rare_below=0.3, rare_repeat=4))
    order = sampling.order(seeded(7))
    again = len(order) - len(set(order.tolist()))
    assert again > 30
    assert (order.diff() == 0).sum() < again / 10


def test_a_class_that_no_image_carries_makes_none_rare() -> None:
    labels = np.array([[0, 1], [0, 1], [0, 0]], dtype=np.uint8)
    sampling = Sampling.of(labels, Params(rare_below=0.5, rare_repeat=8))
    assert not sampling.rare.any()
    assert (sampling.repeats == 1).all()


def test_the_rare_digits_become_more_common_and_the_common_ones_hardly_less(scenes: Dataset) -> None:
    labels = scenes.train.labels
    shares = Sampling.of(labels, Params(rare_below=0.2, rare_repeat=3)).shares(labels) / labels.mean(axis=0)
    assert (shares[7:] > 1.2).all()
    assert (shares[:3] > 0.85).all()
