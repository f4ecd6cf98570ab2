"""An ensemble is never worse than the best candidate where it is chosen, and averages as the network does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from mlc_core.ensemble import blend, select
from mlc_core.errors import BadData
from mlc_core.model import build
from mlc_core.params import Params
from mlc_core.predict import Member, Predictor, infer
from mlc_core.predictions import BLENDS, Blend, Predictions, sigmoid

CLASSES = ("a", "b", "c")


def candidates(noise: list[float], *, images: int = 120, seed: int = 0) -> list[Predictions]:
    """Models that see the same labels through noise of their own."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 2, (images, len(CLASSES)))
    targets = (rng.random(truth.shape) < sigmoid(2 * truth)).astype(np.uint8)
    return [Predictions(CLASSES, truth + rng.normal(0, each, truth.shape), targets) for each in noise]


def bce(predictions: Predictions) -> float:
    return float(log_loss(predictions.targets.ravel(), predictions.probabilities.ravel()))


@pytest.mark.parametrize("average", BLENDS)
def test_one_candidate_is_returned_as_it_is(average: Blend) -> None:
    (only,) = candidates([1.0])

    ensemble = select([only], average=average)

    assert ensemble.weights == (1.0,)
    assert ensemble.value == pytest.approx(bce(only), abs=1e-9)
    assert blend([only], ensemble.weights, ensemble.average) is only


@settings(max_examples=25)
@given(
    st.lists(st.floats(0.2, 4), min_size=1, max_size=5),
    st.integers(0, 99),
    st.sampled_from([None, *BLENDS]),
    st.sampled_from([0, 4]),
)
def test_no_ensemble_is_worse_than_the_best_candidate(
    noise: list[float], seed: int, average: Blend | None, bags: int
) -> None:
    library = candidates(noise, seed=seed, images=40)

    ensemble = select(library, average=average, bags=bags, rounds=8, seed=seed)

    assert min(ensemble.weights) >= 0
    assert sum(ensemble.weights) == pytest.approx(1)
    assert ensemble.value == pytest.approx(bce(blend(library, ensemble.weights, ensemble.average)), abs=1e-9)
    assert ensemble.value <= min(bce(one) for one in library) + 1e-9
    assert average in (None, ensemble.average)


@pytest.mark.parametrize("average", BLENDS)
def test_of_two_candidates_the_weights_are_the_best_there_are(average: Blend) -> None:
    library = candidates([1.0, 1.4])

    ensemble = select(library, average=average, bags=0, rounds=60)

    every = [bce(blend(library, (share, 1 - share), average)) for share in np.linspace(0, 1, 201)]
    assert ensemble.value == pytest.approx(min(every), abs=1e-5)
    assert ensemble.value < min(bce(one) for one in library) - 0.01


def test_unless_told_otherwise_the_average_is_the_better_one() -> None:
    library = candidates([1.0, 1.2, 2.0])

    free = select(library)

    assert free == min((select(library, average=each) for each in BLENDS), key=lambda ensemble: ensemble.value)


def test_a_candidate_that_is_much_worse_is_left_out() -> None:
    rng = np.random.default_rng(1)
    good = candidates([1.0, 1.0, 1.0], images=300)
    useless = Predictions(CLASSES, rng.normal(0, 4, good[0].logits.shape), good[0].targets)

    ensemble = select([good[0], useless, *good[1:]])

    assert ensemble.weights[1] == 0
    assert min(ensemble.weights[0], *ensemble.weights[2:]) > 0.2


def test_a_candidate_twice_is_worth_no_more_than_once() -> None:
    first, second = candidates([1.0, 1.5])

    once, twice = select([first, second], average="logits"), select([first, second, first, second], average="logits")

    assert twice.value == pytest.approx(once.value, abs=1e-4)
    assert twice.weights[0] + twice.weights[2] == pytest.approx(once.weights[0], abs=0.05)
    only = select([first, first, first], average="logits")
    np.testing.assert_allclose(blend([first] * 3, only.weights, "logits").logits, first.logits, atol=1e-12)


@settings(max_examples=10)
@given(st.permutations(range(4)))
def test_the_order_of_candidates_has_no_say(order: list[int]) -> None:
    library = candidates([0.8, 1.0, 1.2, 3.0], images=60)
    ensemble = select(library, rounds=10, bags=5)

    moved = select([library[each] for each in order], rounds=10, bags=5)

    assert moved.average == ensemble.average
    assert moved.weights == pytest.approx([ensemble.weights[each] for each in order], abs=1e-9)


def test_on_unseen_images_an_ensemble_beats_the_best_candidate() -> None:
    gains = []
    for seed in range(5):
        library = candidates([1.0, 1.1, 1.2, 2.5, 5.0], images=600, seed=seed)
        known, unseen = ([one.take(rows) for one in library] for rows in (np.arange(200), np.arange(200, 600)))
        ensemble = select(known, rounds=15, bags=5)
        best = min(range(5), key=lambda place, known=known: bce(known[place]))  # type: ignore[misc]
        gains.append(bce(unseen[best]) - bce(blend(unseen, ensemble.weights, ensemble.average)))

    assert min(gains) > 0.02


def test_averages_have_their_closed_forms() -> None:
    first, second = candidates([1.0, 2.0])

    logits = blend([first, second], (0.25, 0.75), "logits")
    probabilities = blend([first, second], (0.25, 0.75), "probabilities")

    np.testing.assert_allclose(logits.logits, first.logits / 4 + second.logits * 3 / 4)
    expected = first.probabilities / 4 + second.probabilities * 3 / 4
    np.testing.assert_allclose(probabilities.probabilities, expected, atol=1e-12)
    assert logits.targets is probabilities.targets is first.targets


def test_a_blend_says_what_the_network_of_its_members_says() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)
    members, weights = [network(seed) for seed in range(2)], (0.7, 0.3)
    told = [Predictions(CLASSES, infer(Predictor([member]), images), np.zeros((3, 3), np.uint8)) for member in members]

    for average in BLENDS:
        theirs = infer(Predictor(members, weights, average=average), images)
        np.testing.assert_allclose(blend(told, weights, average).logits, theirs, atol=1e-5)


def network(seed: int) -> Member:
    """No training: what is random is as good here."""
    params = Params(image_size=16)
    made = build(backbone=params.backbone, stem=params.stem, dropout=0, classes=len(CLASSES), seed=seed).eval()
    return Member(network=made, params=params, classes=CLASSES, mean=(127.0,) * 3, std=(64.0,) * 3, facts={})


def test_a_seed_gives_the_same_bits_whatever_the_number_of_threads() -> None:
    library = candidates([1.0, 1.2, 1.4], images=400)
    with threadpool_limits(1):
        alone = select(library, seed=3, bags=3)
    with threadpool_limits(2):
        assert select(library, seed=3, bags=3) == alone
    assert select(library, seed=4, bags=3) != alone


def moved_target(predictions: Predictions) -> Predictions:
    return Predictions(predictions.classes, predictions.logits, 1 - predictions.targets)


def renamed(predictions: Predictions) -> Predictions:
    return Predictions(("x", "y", "z"), predictions.logits, predictions.targets)


def fewer(predictions: Predictions) -> Predictions:
    rows: NDArray[Any] = np.arange(5)
    return predictions.take(rows)


@pytest.mark.parametrize("change", [moved_target, renamed, fewer])
def test_candidates_of_other_images_are_refused(change: Any) -> None:
    first, second, third = candidates([1.0, 1.0, 1.0])
    said = (
        "Candidate 3 of 3 is of other images or classes than the first; an ensemble takes models of one data set, "
        "asked about the same split."
    )
    with pytest.raises(BadData) as caught:
        select([first, second, change(third)])
    assert str(caught.value) == said
    with pytest.raises(BadData) as caught:
        blend([first, second, change(third)], (0.2, 0.3, 0.5), "logits")
    assert str(caught.value) == said
