"""Scores equal scikit-learn's and torchmetrics', absent classes, images without labels and ties included."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn import metrics
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multilabel_coverage_error,
    multilabel_ranking_loss,
)

from mlc_core import BadData, BadModel, BadParams
from mlc_core.bootstrap import places, resample
from mlc_core.evaluation import BINS, Scores, multilabel_confusion, reliability, score
from mlc_core.predictions import Predictions

FEW_VALUES = st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0, 40.0, -40.0])  # so that many logits are equal
LOGITS = FEW_VALUES | st.floats(-30, 30)
THRESHOLDS = st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Predictions, list[float]]:
    shape = draw(st.tuples(st.integers(1, 30), st.integers(2, 6)))
    logits = draw(arrays(np.float64, shape, elements=LOGITS))
    targets = draw(arrays(np.uint8, shape, elements=st.integers(0, 1), fill=st.just(0)))
    thresholds = draw(st.lists(THRESHOLDS, min_size=shape[1], max_size=shape[1]))
    return predictions(logits, targets), thresholds


def predictions(logits: NDArray[Any], targets: NDArray[Any]) -> Predictions:
    names = tuple(f"class {number}" for number in range(targets.shape[1]))
    return Predictions(names, logits.astype(np.float64), targets.astype(np.uint8))


def many(images: int, classes: int, *, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = rng.random((images, classes)) < rng.uniform(0.05, 0.6, classes)
    return predictions((rng.normal(-1, 1, targets.shape) + 2 * targets).round(1), targets)


def near(expected: Any) -> Any:
    return None if expected is None else pytest.approx(expected, abs=1e-6)


@given(cases())
@settings(max_examples=60)
def test_scores_of_labels_are_scikit_learns(case: tuple[Predictions, list[float]]) -> None:
    told, thresholds = case
    scores = score(told, thresholds, resamples=1)
    predicted, targets = (told.probabilities >= thresholds).astype(int), told.targets
    assert scores.images == len(targets)
    assert scores.accuracy == near((predicted == targets).mean())
    assert scores.accuracy == near(1 - metrics.hamming_loss(targets, predicted))
    assert scores.subset_accuracy == near(metrics.accuracy_score(targets, predicted))
    for kind in ("macro", "micro", "weighted", "samples"):
        expected = metrics.precision_recall_fscore_support(targets, predicted, average=kind, zero_division=0)
        assert astuple(getattr(scores, kind)) == near(expected[:3])
    each = metrics.precision_recall_fscore_support(targets, predicted, zero_division=0)
    matrices = metrics.multilabel_confusion_matrix(targets, predicted)
    for at, own in enumerate(scores.classes):
        assert (own.precision, own.recall, own.f1, own.support) == near([values[at] for values in each])
        assert own.confusion == tuple(matrices[at].ravel())
        assert (own.name, own.threshold) == (told.classes[at], thresholds[at])


@given(cases())
@settings(max_examples=60)
def test_scores_of_ranks_and_losses_are_scikit_learns(case: tuple[Predictions, list[float]]) -> None:
    told, thresholds = case
    scores = score(told, thresholds, resamples=1)
    aps, areas = [], []
    for own, logits, targets in zip(scores.classes, told.logits.T, told.targets.T, strict=True):
        ap = float(metrics.average_precision_score(targets, logits)) if targets.any() else None
        area = float(metrics.roc_auc_score(targets, logits)) if 0 < targets.sum() < len(targets) else None
        assert (own.average_precision, own.roc_auc) == (near(ap), near(area))
        aps.append(ap)
        areas.append(area)
    for mean, each in ((scores.mean_ap, aps), (scores.roc_auc, areas)):
        known = [value for value in each if value is not None]
        assert mean == near(float(np.mean(known)) if known else None)
    assert scores.coverage_error == near(metrics.coverage_error(told.targets, told.logits))
    assert scores.ranking_loss == near(metrics.label_ranking_loss(told.targets, told.logits))
    # scikit-learn clips probabilities and so cannot tell what a logit of 40 costs.
    logits, targets = torch.from_numpy(told.logits), torch.from_numpy(told.targets).double()
    assert scores.loss == near(torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item())


@given(cases())
@settings(max_examples=60)
def test_calibration_errors_are_a_literal_loop_over_the_papers_bins(case: tuple[Predictions, list[float]]) -> None:
    told, thresholds = case
    scores = score(told, thresholds, resamples=1)
    assert scores.calibration_error == near(literal_error(told.probabilities, told.targets))
    for at, own in enumerate(scores.classes):
        assert own.calibration_error == near(literal_error(told.probabilities[:, at], told.targets[:, at]))


def literal_error(probabilities: NDArray[Any], targets: NDArray[Any]) -> float:
    """Guo et al. 2017, section 2: bins ((m - 1) / M, m / M], of the pairs' probability of being positive."""
    pairs = list(zip(probabilities.ravel(), targets.ravel(), strict=True))
    total = 0.0
    for m in range(1, BINS + 1):
        inside = [(p, y) for p, y in pairs if (m - 1) / BINS < p <= m / BINS or (m == 1 and p == 0)]
        if inside:
            gap = abs(sum(y for _, y in inside) / len(inside) - sum(p for p, _ in inside) / len(inside))
            total += len(inside) / len(pairs) * gap
    return total


def test_scores_of_many_images_are_torchmetrics() -> None:
    told = many(3000, 12)
    noise = np.random.default_rng(1).normal(0, 0.01, told.logits.shape)
    told = predictions(told.logits + noise, told.targets)  # no ties, of which torchmetrics thinks otherwise
    scores = score(told, [0.5] * 12, resamples=1)
    probabilities, targets = torch.from_numpy(told.probabilities), torch.from_numpy(told.targets).int()
    expected = binary_calibration_error(probabilities.flatten(), targets.flatten(), n_bins=BINS, norm="l1")
    assert scores.calibration_error == pytest.approx(expected.item(), abs=1e-6)
    assert scores.ranking_loss == pytest.approx(multilabel_ranking_loss(probabilities, targets, 12).item(), abs=1e-6)
    assert scores.coverage_error == pytest.approx(
        multilabel_coverage_error(probabilities, targets, 12).item(), abs=1e-6
    )


def test_a_reliability_of_few_pairs_is_counted_by_hand() -> None:
    told = reliability(np.array([0.0, 1 / 15, 0.5, 0.52, 1.0]), np.array([0, 1, 1, 0, 1]))
    assert told.pairs.tolist() == [2, *[0] * 5, 0, 2, *[0] * 6, 1]
    assert told.told[[0, 7, 14]] == pytest.approx([1 / 30, 0.51, 1])
    assert told.seen[[0, 7, 14]].tolist() == [0.5, 0.5, 1]
    assert told.error == pytest.approx((2 * (0.5 - 1 / 30) + 2 * 0.01) / 5)


@given(cases())
def test_the_multilabel_confusion_is_a_literal_loop_over_the_papers_categories(
    case: tuple[Predictions, list[float]],
) -> None:
    told, thresholds = case
    predicted = told.probabilities >= thresholds
    classes = len(told.classes)
    expected = np.zeros((classes + 1, classes + 1), int)
    for own, said in zip(told.targets, predicted, strict=True):
        literal_mlcm(expected, set(np.flatnonzero(own).tolist()), set(np.flatnonzero(said).tolist()))
    matrix = multilabel_confusion(predicted, told.targets)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == expected.tolist()


def literal_mlcm(matrix: NDArray[Any], true: set[int], said: set[int]) -> None:
    """Heydarian et al. 2022: T1 = P1 are right, T2 are missed, P2 are wrong."""
    no_label = no_prediction = len(matrix) - 1
    missed, wrong = true - said, said - true
    for label in true & said:
        matrix[label, label] += 1
    if not true and not said:
        matrix[no_label, no_prediction] += 1
    elif not wrong:  # category 1
        for label in missed:
            matrix[label, no_prediction] += 1
    elif not missed:  # category 2
        for prediction in wrong:
            for label in true or {no_label}:
                matrix[label, prediction] += 1
    else:  # category 3
        for prediction in wrong:
            for label in missed:
                matrix[label, prediction] += 1


def test_the_multilabel_confusion_of_single_labels_is_the_confusion_matrix_everyone_knows() -> None:
    rng = np.random.default_rng(0)
    true, said = rng.integers(0, 5, (2, 300))
    matrix = multilabel_confusion(np.eye(5, dtype=bool)[said], np.eye(5, dtype=np.uint8)[true])
    assert matrix[:5, :5].tolist() == metrics.confusion_matrix(true, said).tolist()
    assert matrix.sum() == 300


def test_intervals_are_those_of_scores_of_the_drawn_images() -> None:
    """Each resample scored as a split of its own, by the function that scores splits, gives the same values."""
    told, thresholds, images = many(60, 4, seed=3), [0.4, 0.5, 0.6, 0.5], 60
    told.targets[5:, 0] = 0  # a class that some resamples miss
    predicted, positive = told.probabilities >= thresholds, told.targets == 1
    got = resample(predicted, positive, [places(column) for column in told.logits.T], resamples=40, seed=7)
    random = np.random.default_rng(bootstrap_seed(7))
    for at in range(40):
        alone = score(told.take(random.integers(0, images, images)), thresholds, resamples=1)
        assert got.accuracy[at] == pytest.approx(alone.accuracy)
        assert got.subset_accuracy[at] == pytest.approx(alone.subset_accuracy)
        assert got.micro_f1[at] == pytest.approx(alone.micro.f1)
        assert got.mean_ap[at] == pytest.approx(alone.mean_ap, rel=1e-6)
        for name in ("precision", "recall", "f1"):
            assert getattr(got, name)[at] == pytest.approx([getattr(own, name) for own in alone.classes])
            assert getattr(got, name)[at].mean() == pytest.approx(getattr(alone.macro, name))
    interval = score(told, thresholds, resamples=40, seed=7).intervals["macro_f1"]
    assert astuple(interval) == pytest.approx(np.quantile(got.f1.mean(axis=1), (0.025, 0.975)))


def bootstrap_seed(seed: int) -> int:
    from mlc_core import Stream, stream_seed

    return stream_seed(seed, Stream.BOOTSTRAP)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    """The accuracy of independent images is a mean: 1.96 standard errors to each side."""
    told = many(2000, 3, seed=5)
    scores = score(told, [0.5] * 3, resamples=2000)
    right = ((told.probabilities >= 0.5) == told.targets).mean(axis=1)
    half = 1.96 * right.std() / math.sqrt(len(right))
    low, high = astuple(scores.intervals["accuracy"])
    assert (low, high) == pytest.approx((scores.accuracy - half, scores.accuracy + half), abs=half / 8)
    for name, value in {"mean_ap": scores.mean_ap, "macro_f1": scores.macro.f1, "micro_f1": scores.micro.f1}.items():
        assert scores.intervals[name].low < value < scores.intervals[name].high  # type: ignore[operator]


def test_intervals_depend_on_the_seed_alone() -> None:
    told = many(300, 5)
    first, again, other = (score(told, [0.5] * 5, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.intervals != other.intervals
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert score(told, [0.5] * 5, resamples=200, seed=1) == first
    finally:
        torch.set_num_threads(before)


def undefined(scores: Scores) -> tuple[float | None, Sequence[float | None]]:
    return scores.mean_ap, [own.average_precision for own in scores.classes]


def test_a_class_that_nothing_can_be_said_of_is_left_out_and_the_table_holds_no_nan() -> None:
    logits = np.array([[3.0, -3.0, 1.0], [-3.0, -3.0, 2.0]])
    scores = score(predictions(logits, np.array([[1, 0, 1], [0, 0, 1]])), [0.5] * 3)
    assert undefined(scores) == (1, [1, None, 1])
    assert [own.roc_auc for own in scores.classes] == [1, None, None]
    table = json.loads(json.dumps(scores.to_table(), allow_nan=False))
    assert table["classes"][1]["average_precision"] is None
    assert table["intervals"]["accuracy"] == {"low": 1.0, "high": 1.0}
    assert table["macro"] == {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3}

    nothing = score(predictions(logits, np.zeros((2, 3))), [0.5] * 3)
    assert undefined(nothing) == (None, [None] * 3)
    assert (nothing.roc_auc, "mean_ap" in nothing.intervals) == (None, False)
    json.dumps(nothing.to_table(), allow_nan=False)


def test_what_cannot_be_scored_is_said() -> None:
    told = many(10, 3)
    with pytest.raises(BadParams) as error:
        score(told, [0.5, 0.5])
    assert str(error.value) == "thresholds: [0.5, 0.5] is not one number for each of the 3 classes."
    with pytest.raises(BadParams, match="resamples: 0 is not a whole number from 1 to 1000000"):
        score(told, [0.5] * 3, resamples=0)
    with pytest.raises(BadData) as empty:
        score(told.take(np.arange(0)), [0.5] * 3)
    assert str(empty.value) == "There is no image to evaluate. Give at least one."
    told.logits[4, 1] = np.nan
    with pytest.raises(BadModel) as broken:
        score(told, [0.5] * 3)
    assert str(broken.value) == "The model's logits for 1 of 10 images are not finite. Train it again."
