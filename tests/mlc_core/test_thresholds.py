"""Plain thresholds are the best there are on the given images; tuned ones are as good on images not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import f1_score, fbeta_score, precision_score, recall_score
from threadpoolctl import threadpool_limits

from mlc_core.calibration import calibrate
from mlc_core.errors import BadParams
from mlc_core.metrics import macro_f1
from mlc_core.predictions import Predictions, logit, sigmoid
from mlc_core.thresholds import FEW, Goal, one_for_all, per_class, tune, tune_with_evidence

GOALS = ["f1", "fbeta:2", "fbeta:0.5", "precision:0.75", "precision:1", "recall:0.75", "recall:1", "cost:1,5"]
SHAPES = st.tuples(st.integers(1, 25), st.integers(1, 4))
TAME = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0]) | st.floats(-10, 10)  # so that many are equal
WILD = st.sampled_from([-np.inf, -1e3, -40.0, -15.0, 15.0, 15.1, 40.0, 1e3, np.inf]) | st.floats(-50, 50)


def named(logits: NDArray[Any], targets: NDArray[Any]) -> Predictions:
    return Predictions(tuple(f"class {c}" for c in range(logits.shape[1])), logits, targets)


def cases(logits: st.SearchStrategy[float]) -> st.SearchStrategy[Predictions]:
    return SHAPES.flatmap(
        lambda shape: st.builds(
            named,
            arrays(np.float64, shape, elements=logits),
            arrays(np.uint8, shape, elements=st.integers(0, 1)),
        )
    )


def drawn(images: int, shift: list[float], *, seed: int = 0) -> Predictions:
    """Draw labels as likely as the logits say; the lower the shift, the rarer the class."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, len(shift))) + np.array(shift)
    return named(logits, (rng.random(logits.shape) < sigmoid(logits)).astype(np.uint8))


def measured(targets: NDArray[Any], predicted: NDArray[Any], goal: Goal) -> tuple[float, float]:
    """What the goal wants, and what has to reach its floor, of one class."""
    hits, alarms, missed = (
        int(np.sum((predicted == p) & (targets == t))) for p, t in ((True, 1), (True, 0), (False, 1))
    )
    precision = hits / (hits + alarms) if hits else 0.0
    recall = hits / (hits + missed) if hits else 0.0
    match goal.kind:
        case "precision":
            return recall, precision
        case "recall":
            return precision, recall
        case "cost":
            return -goal.cost[0] * alarms - goal.cost[1] * missed, 0.0
        case _:
            square = goal.beta**2
            return ((1 + square) * precision * recall / (square * precision + recall) if hits else 0.0), 0.0


def worth(predictions: Predictions, thresholds: Any, goal: Goal) -> tuple[bool, float]:
    """Compare as the goal does: by the aim where the floor holds on the mean of classes, else by how near it is."""
    predicted = predictions.probabilities >= np.array(thresholds)
    columns = zip(predictions.targets.T, predicted.T, strict=True)
    aim, held = np.mean([measured(mine, theirs, goal) for mine, theirs in columns], axis=0)
    holds = bool(held >= goal.floor - 1e-9)
    return holds, round(float(aim if holds else held), 9)


def column(predictions: Predictions, c: int) -> Predictions:
    return named(predictions.logits[:, [c]], predictions.targets[:, [c]])


@given(cases(TAME), st.floats(0.1, 0.9))
@settings(max_examples=15)
def test_what_this_file_measures_with_is_scikit_learns(predictions: Predictions, threshold: float) -> None:
    targets, predicted = predictions.targets[:, 0], predictions.probabilities[:, 0] >= threshold
    precision = precision_score(targets, predicted, zero_division=0)
    recall = recall_score(targets, predicted, zero_division=0)

    assert measured(targets, predicted, Goal(kind="precision", floor=0.5)) == pytest.approx((recall, precision))
    assert measured(targets, predicted, Goal(kind="recall", floor=0.5)) == pytest.approx((precision, recall))
    expected = fbeta_score(targets, predicted, beta=3, zero_division=0)
    assert measured(targets, predicted, Goal(kind="fbeta", beta=3)) == pytest.approx((expected, 0))


@settings(max_examples=40)
@given(cases(TAME), st.sampled_from(GOALS))
def test_no_threshold_of_a_class_is_better_than_the_plain_one(predictions: Predictions, text: str) -> None:
    goal = Goal.parse(text)

    chosen = per_class(predictions, goal)

    for c, threshold in enumerate(chosen):
        one = column(predictions, c)
        every = [worth(one, value, goal) for value in [*np.unique(one.probabilities), 2.0]]
        assert worth(one, threshold, goal) == max(every)


@settings(max_examples=40)
@given(cases(TAME), st.sampled_from(GOALS))
def test_no_single_threshold_is_better_than_the_one_for_all(predictions: Predictions, text: str) -> None:
    goal = Goal.parse(text)

    chosen = one_for_all(predictions, goal)

    every = [worth(predictions, value, goal) for value in [*np.unique(predictions.probabilities), 2.0]]
    assert worth(predictions, chosen, goal) == max(every)


@settings(max_examples=40)
@given(cases(WILD), st.sampled_from(GOALS))
def test_every_threshold_is_a_probability_that_a_float32_tells_from_0_and_1(
    predictions: Predictions, text: str
) -> None:
    goal = Goal.parse(text)
    tuned = tune(predictions, goal)

    for value in (*tuned.values, tuned.overall, *per_class(predictions, goal), one_for_all(predictions, goal)):
        assert 0 < np.float32(value) < 1


@settings(max_examples=60)
@given(cases(TAME), st.sampled_from([text for text in GOALS if "precision" in text or "recall" in text]))
def test_a_floor_holds_on_the_given_images_wherever_a_threshold_holds_it(predictions: Predictions, text: str) -> None:
    goal = Goal.parse(text)

    tuned = tune(predictions, goal)

    for c, threshold in enumerate(tuned.values):
        one = column(predictions, c)
        holds, _ = max(worth(one, value, goal) for value in np.unique(one.probabilities))
        positives = int(one.targets.sum())
        if holds and min(positives, len(one) - positives) >= FEW:
            assert worth(one, threshold, goal)[0]


def test_a_class_with_very_few_positives_keeps_the_threshold_of_all() -> None:
    predictions = drawn(300, [0.0, -1.0, -2.0])
    targets = predictions.targets.copy()
    targets[:, 2] = 0
    targets[: FEW - 1, 2] = 1
    tuned = tune(named(predictions.logits, targets))

    assert tuned.values[2] == tuned.overall == one_for_all(named(predictions.logits, targets))
    assert tuned.overall not in tuned.values[:2]

    targets[FEW - 1, 2] = 1
    tuned = tune(named(predictions.logits, targets))
    assert tuned.overall not in tuned.values


@pytest.mark.parametrize(("text", "expected"), [("cost:1,4", 0.2), ("cost:3,1", 0.75), ("cost:2,2", 0.5)])
def test_with_probabilities_that_are_right_a_cost_has_its_closed_form(text: str, expected: float) -> None:
    """FP / (FP + FN): Elkan 2001, "The foundations of cost-sensitive learning"."""
    tuned = tune(drawn(5000, [0.0, -1.0]), Goal.parse(text))

    assert tuned.values == pytest.approx((expected, expected), abs=0.05)
    assert tuned.goal == Goal.parse(text)


def test_with_probabilities_that_are_right_the_best_threshold_for_f1_is_half_the_best_f1() -> None:
    """Lipton, Elkan & Naryanaswamy 2014, theorem 1."""
    predictions = drawn(5000, [0.0, -2.0])

    for c, threshold in enumerate(tune(predictions).values):
        best = f1_score(predictions.targets[:, c], predictions.probabilities[:, c] >= threshold)
        assert threshold == pytest.approx(best / 2, abs=0.04)


def test_thresholds_are_for_probabilities_as_they_are_given() -> None:
    """Logits that are off by a line are parted where right ones are."""
    right = drawn(2000, [0.0, -1.5, -3.0])
    off = named(right.logits * np.array([0.5, 1.5, 3.0]) + np.array([2.0, -1.0, 1.0]), right.targets)

    marked = [given.probabilities >= np.array(tune(given).values) for given in (right, off)]

    assert np.mean(marked[0] != marked[1]) < 0.005


def seen_and_unseen(seed: int) -> tuple[Predictions, Predictions]:
    """300 and 2000 images of a model that is off, each class in its own way; the last classes are rare."""
    shift = [0.0, -1.0, -3.0, -4.0, -4.0]
    true = drawn(2300, shift, seed=seed)
    off = named(true.logits * 0.7 + np.linspace(-1, 1, len(shift)), true.targets)
    return off.take(np.arange(300)), off.take(np.arange(300, 2300))


def test_on_unseen_images_tuned_thresholds_beat_plain_ones_and_the_one_for_all() -> None:
    scores = []
    for seed in range(20):
        known, unseen = seen_and_unseen(seed)
        ways = (tune(known).values, per_class(known), one_for_all(known), 0.5)
        scores.append([macro_f1(unseen.logits - logit(np.array(way)), unseen.targets) for way in ways])

    ours, *others = np.mean(scores, axis=0)

    assert ours > max(others) + 0.01


def test_on_unseen_images_a_floor_is_missed_less_than_with_plain_thresholds() -> None:
    goal = Goal(kind="recall", floor=0.8)
    short = []
    for seed in range(20):
        known, unseen = seen_and_unseen(seed)
        for way in (tune(known, goal).values, per_class(known, goal)):
            predicted = unseen.probabilities >= np.array(way)
            recall = (predicted & (unseen.targets == 1)).sum(axis=0) / unseen.targets.sum(axis=0)
            short.append(np.maximum(goal.floor - recall, 0).mean())

    ours, plain = np.mean(np.reshape(short, (-1, 2)), axis=0)

    assert ours < plain / 2


@given(st.permutations(range(4)), st.sampled_from(GOALS))
@settings(max_examples=20)
def test_the_order_of_classes_has_no_say(order: list[int], text: str) -> None:
    predictions, goal = drawn(80, [0.0, -0.5, -1.0, -1.5]), Goal.parse(text)
    moved = named(predictions.logits[:, order], predictions.targets[:, order])

    assert per_class(moved, goal) == tuple(per_class(predictions, goal)[c] for c in order)
    assert one_for_all(moved, goal) == one_for_all(predictions, goal)
    values = tune(predictions, goal).values
    assert tune(moved, goal).values == pytest.approx([values[c] for c in order], rel=1e-4)


@given(cases(TAME), st.randoms(use_true_random=False), st.sampled_from(GOALS))
@settings(max_examples=40)
def test_the_order_of_images_has_no_say_in_plain_thresholds(predictions: Predictions, random: Any, text: str) -> None:
    rows, goal = list(range(len(predictions))), Goal.parse(text)
    random.shuffle(rows)
    moved = predictions.take(np.array(rows))

    assert per_class(moved, goal) == per_class(predictions, goal)
    assert one_for_all(moved, goal) == one_for_all(predictions, goal)


def test_a_seed_gives_the_same_bits_whatever_the_number_of_threads() -> None:
    predictions = drawn(2000, [0.0, -2.0])
    with threadpool_limits(1):
        alone = tune(predictions, seed=3)
    with threadpool_limits(2):
        assert tune(predictions, seed=3) == alone
    assert tune(predictions, seed=4) != alone


def test_calibrated_predictions_are_parted_where_the_uncalibrated_ones_are() -> None:
    predictions = drawn(1000, [0.0, -2.0])
    calibrated = calibrate(predictions)(predictions)

    marked = [given.probabilities >= np.array(tune(given).values) for given in (predictions, calibrated)]

    assert np.mean(marked[0] != marked[1]) < 0.005


POSITIVE = st.floats(0, 1e9, exclude_min=True)
SHARE = st.floats(0, 1, exclude_min=True)


@given(
    st.just(Goal(kind="f1"))
    | st.builds(lambda beta: Goal(kind="fbeta", beta=beta), POSITIVE)
    | st.builds(lambda kind, floor: Goal(kind=kind, floor=floor), st.sampled_from(["precision", "recall"]), SHARE)
    | st.builds(lambda fp, fn: Goal(kind="cost", cost=(fp, fn)), POSITIVE, POSITIVE)
)
def test_a_goal_is_read_as_it_was_written(goal: Goal) -> None:
    assert Goal.parse(str(goal)) == goal


@pytest.mark.parametrize("text", ["f1", "fbeta:2", "precision:0.9", "recall:1", "cost:1,5"])
def test_a_goal_is_written_as_a_person_writes_it(text: str) -> None:
    assert str(Goal.parse(text)) == text


NO_GOALS = "f2 f1:2 f1: fbeta fbeta:0 fbeta:nan fbeta:inf fbeta:two precision:0 precision:1.01 precision:90% recall"
NO_GOALS += " recall:-0.1 recall:0.5,0.5 cost:1 cost:0,1 cost:1,-1 cost:1,2,3"


@pytest.mark.parametrize("text", ["", *NO_GOALS.split()])
def test_what_is_no_goal_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(BadParams) as caught:
        Goal.parse(text)
    assert str(caught.value) == (
        f"goal: {text!r} is not one of f1, fbeta:B (B above 0), precision:P or recall:R (a share above 0, at most 1), "
        "or cost:FP,FN (what a false positive and a false negative cost, above 0)."
    )


def test_the_usual_thresholds_stay_where_nothing_shows_that_tuned_ones_are_better() -> None:
    known = drawn(600, [0.0, -1.0, -3.0], seed=3)
    usual = tune(known).values  # nobody can do better than that by more than luck

    kept = tune_with_evidence(known, usual)

    assert kept.values == usual
    assert kept.overall == tune(known).overall


def test_tuned_thresholds_replace_usual_ones_that_are_far_off() -> None:
    known = drawn(600, [0.0, -1.0, -3.0], seed=3)

    for goal in (Goal.parse("f1"), Goal.parse("fbeta:2"), Goal.parse("cost:1,5")):
        assert tune_with_evidence(known, (0.99, 0.99, 0.99), goal) == tune(known, goal)


def test_a_floor_is_kept_without_evidence_that_it_pays() -> None:
    known = drawn(600, [0.0, -1.0, -3.0], seed=3)
    goal = Goal.parse("recall:0.9")
    assert tune_with_evidence(known, tune(known).values, goal) == tune(known, goal)


def test_few_images_are_tuned_on_as_they_are() -> None:
    known = drawn(4, [0.0, -1.0])
    assert tune_with_evidence(known, (0.5, 0.5)) == tune(known)
