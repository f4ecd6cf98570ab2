"""Calibration is logistic regression, held to what all classes together say where a class says little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from mlc_core.calibration import Calibration, calibrate
from mlc_core.predictions import Predictions, sigmoid


def drawn(scale: list[float], shift: list[float], *, images: int, seed: int = 0) -> Predictions:
    """Draw labels for which exactly this scale and shift are right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (images, len(scale)))
    targets = rng.random(logits.shape) < sigmoid(logits * np.array(scale) + np.array(shift))
    return Predictions(tuple(f"class {c}" for c in range(len(scale))), logits, targets.astype(np.uint8))


def test_without_shrinkage_it_is_scikit_learns_logistic_regression() -> None:
    predictions = drawn([1.0, 0.4, 2.5], [0.0, 1.0, -2.0], images=500)

    calibration = calibrate(predictions, ridge=1e-6)

    for c in range(3):
        theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(predictions.logits[:, [c]], predictions.targets[:, c])
        assert calibration.scale[c] == pytest.approx(theirs.coef_[0, 0], rel=1e-5)
        assert calibration.shift[c] == pytest.approx(theirs.intercept_[0], rel=1e-5)


def test_the_line_that_made_the_labels_is_found_from_many_images() -> None:
    calibration = calibrate(drawn([0.5, 2.0], [1.0, -1.0], images=20_000))

    assert calibration.scale == pytest.approx((0.5, 2.0), abs=0.08)
    assert calibration.shift == pytest.approx((1.0, -1.0), abs=0.08)


def test_a_class_is_held_to_all_classes_together_the_more_the_fewer_images_there_are() -> None:
    scale, shift = [1.5, 1.5, 1.5, 0.3], [0.5, 0.5, 0.5, -0.5]  # the last is unlike the others
    away = []
    for images in (20, 200, 2000):
        calibration = calibrate(drawn(scale, shift, images=images), ridge=20)
        away.append(np.mean(calibration.scale[:3]) - calibration.scale[3])

    assert away[0] < away[1] < away[2] < 1.3


def test_an_endless_ridge_leaves_logits_alone() -> None:
    predictions = drawn([0.4, 2.0], [1.0, -3.0], images=300)

    calibration = calibrate(predictions, ridge=1e9)

    np.testing.assert_allclose(calibration(predictions).logits, predictions.logits, atol=1e-4)


def test_the_slope_of_the_ridge_cancels_that_of_the_summed_bce() -> None:
    """First of all classes together, here one, against (1, 0); then of the class against what came out."""
    predictions, ridge = drawn([2.0], [1.0], images=100), 5.0
    logits, targets = predictions.logits[:, 0], predictions.targets[:, 0]

    def slope(line: NDArray[np.float64]) -> NDArray[np.float64]:
        rest = sigmoid(line[0] * logits + line[1]) - targets
        return np.array([np.sum(rest * logits), np.sum(rest)])

    calibration = calibrate(predictions, ridge=ridge)
    line = np.array([calibration.scale[0], calibration.shift[0]])
    together = line + slope(line) / ridge

    np.testing.assert_allclose(slope(together) + ridge * (together - [1, 0]), 0, atol=1e-5)
    assert np.abs(slope(together)).min() > 0.1


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 4)).flatmap(
        lambda shape: st.tuples(
            arrays(np.float64, shape, elements=st.floats(-1e6, 1e6)),
            arrays(np.uint8, shape, elements=st.integers(0, 1)),
        )
    )
)
def test_no_image_changes_its_rank_whatever_the_labels(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]],
) -> None:
    """Also where a class has no positives, or all logits are the same, or the model is wrong about all."""
    logits, targets = case
    calibration = calibrate(Predictions(tuple("abcd"[: logits.shape[1]]), logits, targets))

    assert min(calibration.scale) > 0
    assert np.isfinite([*calibration.scale, *calibration.shift]).all()


def test_a_class_without_positives_becomes_less_likely() -> None:
    predictions = drawn([1.0, 1.0], [0.0, -1000.0], images=200)
    assert predictions.targets.sum(axis=0)[1] == 0

    calibrated = calibrate(predictions)(predictions)

    assert calibrated.probabilities[:, 1].max() < predictions.probabilities[:, 1].max()
    assert calibrated.probabilities[:, 1].mean() < predictions.probabilities[:, 1].mean() / 10


@given(st.permutations(range(4)))
def test_the_order_of_classes_has_no_say(order: list[int]) -> None:
    predictions = drawn([0.5, 1.0, 1.5, 2.0], [0.5, 0.0, -0.5, -1.0], images=60)
    calibration = calibrate(predictions)

    moved = calibrate(Predictions(predictions.classes, predictions.logits[:, order], predictions.targets[:, order]))

    assert moved.scale == pytest.approx([calibration.scale[c] for c in order], rel=1e-4)
    assert moved.shift == pytest.approx([calibration.shift[c] for c in order], rel=1e-4, abs=1e-4)


def test_calibrating_again_changes_little() -> None:
    predictions = drawn([0.5, 2.0], [1.0, -1.0], images=2000)
    calibrated = calibrate(predictions)(predictions)

    assert calibrate(calibrated).scale == pytest.approx((1, 1), abs=0.04)
    assert calibrate(calibrated).shift == pytest.approx((0, 0), abs=0.04)


def test_a_calibration_scales_and_shifts_each_class_and_leaves_the_rest() -> None:
    predictions = drawn([1.0, 1.0], [0.0, 0.0], images=5)
    before = predictions.logits.copy()

    calibrated = Calibration(scale=(2.0, 0.5), shift=(0.0, -1.0))(predictions)

    np.testing.assert_array_equal(calibrated.logits, np.stack([before[:, 0] * 2, before[:, 1] * 0.5 - 1], axis=1))
    np.testing.assert_array_equal(predictions.logits, before)
    assert calibrated.targets is predictions.targets
    assert calibrated.classes == predictions.classes


def test_the_number_of_threads_has_no_say_in_any_bit() -> None:
    predictions = drawn([0.5, 2.0], [1.0, -1.0], images=50_000)
    with threadpool_limits(1):
        alone = calibrate(predictions)
    with threadpool_limits(2):
        assert calibrate(predictions) == alone
