"""Metrics equal scikit-learn's, ties and absent classes included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score

from mlc_core.metrics import macro_f1, mean_average_precision

Case = tuple[NDArray[Any], NDArray[Any]]
FEW_VALUES = st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0, 1e30, -1e30])  # so that many logits are equal
LOGITS = FEW_VALUES | st.floats(-30, 30, width=32)


def cases(shape: tuple[int, int]) -> st.SearchStrategy[Case]:
    return st.tuples(
        arrays(np.float32, shape, elements=LOGITS), arrays(np.uint8, shape, elements=st.integers(0, 1), fill=st.just(0))
    )


CASES = st.tuples(st.integers(1, 40), st.integers(1, 6)).flatmap(cases)


@given(CASES)
def test_macro_f1_is_scikit_learns(case: Case) -> None:
    logits, targets = case
    # scikit-learn takes a single column for the two classes of one label
    each = [f1_score(y, z >= 0, zero_division=0) for z, y in zip(logits.T, targets.T, strict=True)]
    assert macro_f1(logits, targets) == pytest.approx(np.mean(each), abs=1e-6)


@given(CASES)
def test_mean_average_precision_is_scikit_learns_over_the_classes_that_are_there(case: Case) -> None:
    logits, targets = case
    each = [average_precision_score(y, z) for z, y in zip(logits.T, targets.T, strict=True) if y.any()]
    assert mean_average_precision(logits, targets) == pytest.approx(np.mean(each) if each else 0, abs=1e-6)


def test_metrics_of_many_images_and_classes_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((10_000, 80)) < rng.uniform(0.2, 1, 80) ** 4).astype(np.uint8)
    logits = (rng.normal(-2, 1, targets.shape) + 2 * targets).round(2).astype(np.float32)
    assert macro_f1(logits, targets) == pytest.approx(f1_score(targets, logits >= 0, average="macro"), abs=1e-9)
    expected = average_precision_score(targets, logits, average="macro")
    assert mean_average_precision(logits, targets) == pytest.approx(expected, abs=1e-9)


@given(CASES, st.randoms(use_true_random=False))
def test_neither_the_order_of_images_nor_the_kind_of_array_has_a_say(case: Case, random: Any) -> None:
    logits, targets = case
    order = list(range(len(logits)))
    random.shuffle(order)
    for metric in (macro_f1, mean_average_precision):
        told = metric(logits, targets)
        assert metric(logits[order], targets[order]) == pytest.approx(told, abs=1e-12)
        for kind in (torch.uint8, torch.float32, torch.bool):
            assert metric(torch.from_numpy(logits), torch.from_numpy(targets).to(kind)) == told


def test_a_class_that_is_absent_counts_nothing_for_f1_and_is_left_out_of_average_precision() -> None:
    logits = np.array([[3.0, -3.0, 3.0], [-3.0, -3.0, -3.0]])
    targets = np.array([[1, 0, 0], [0, 0, 0]])
    assert macro_f1(logits, targets) == pytest.approx(1 / 3)
    assert mean_average_precision(logits, targets) == 1
    assert mean_average_precision(logits, targets * 0) == 0


def test_logits_that_are_not_finite_break_no_metric() -> None:
    """A network that runs away is told by its loss."""
    logits = np.array([[np.nan, np.inf], [-np.inf, np.nan], [0.0, -np.inf]])
    targets = np.array([[1, 0], [0, 1], [1, 1]])
    assert 0 <= macro_f1(logits, targets) <= 1
    assert 0 <= mean_average_precision(logits, targets) <= 1
