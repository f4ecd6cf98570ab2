"""Splits hold their share of every class, keep groups whole, and are the same on every machine."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from mlc_core import BadData, digits
from mlc_core.data.split import SHARES, assign

TRAIN, VAL, TEST, UNSAID = 0, 1, 2, -1

LABELS = arrays.arrays(np.uint8, st.tuples(st.integers(3, 40), st.integers(1, 6)), elements=st.integers(0, 1))


def split(
    labels: NDArray[np.uint8],
    *,
    given: list[int] | NDArray[np.int8] | None = None,
    groups: list[int] | NDArray[np.int64] | None = None,
    seed: int = 0,
) -> NDArray[np.int8]:
    said = np.full(len(labels), UNSAID, np.int8) if given is None else np.asarray(given, np.int8)
    numbers = np.arange(len(labels)) if groups is None else np.asarray(groups, np.int64)
    return assign(labels, given=said, groups=numbers, seed=seed)


def positives(labels: NDArray[np.uint8], splits: NDArray[np.int8]) -> NDArray[np.int64]:
    """(3, classes)."""
    return np.stack([labels[splits == number].sum(axis=0, dtype=np.int64) for number in range(3)])


def distance(labels: NDArray[np.uint8], splits: NDArray[np.int8]) -> float:
    """Labels distribution of Sechidis et al. 2011, eq. 1: how far the odds of each class are from those of all."""
    per = positives(labels, splits)
    sizes = np.bincount(splits, minlength=3)[:, None]
    whole = per.sum(axis=0) / (len(labels) - per.sum(axis=0))
    return float(np.abs(per / (sizes - per) - whole).mean())


def test_every_class_of_the_digit_scenes_has_its_share_in_every_split() -> None:
    labels = digits().train.labels

    splits = split(labels)

    shares = positives(labels, splits) / labels.sum(axis=0)
    assert np.abs(np.bincount(splits) / 4000 - SHARES).max() < 0.005
    assert np.abs(shares - np.array(SHARES)[:, None]).max() < 0.005
    by_chance = np.random.default_rng(0).permutation(splits)
    assert distance(labels, splits) < distance(labels, by_chance) / 5


@drawn(st.lists(st.integers(0, 5), min_size=3, max_size=200), st.integers(0, 2**63 - 1))
def test_classes_that_exclude_each_other_are_split_as_exactly_as_whole_images_allow(
    kinds: list[int], seed: int
) -> None:
    labels = np.eye(6, dtype=np.uint8)[kinds]

    per = positives(labels, split(labels, seed=seed))

    # What moved a single image so that no split is empty is the one exception.
    for counts in per.T[(per.sum(axis=0) >= 7)]:
        assert np.abs(counts - counts.sum() * np.array(SHARES)).max() < 1 + 1e-9
    assert (per[:, per.sum(axis=0) >= 3] > 0).all()


@drawn(LABELS, st.data())
def test_groups_stay_whole_what_is_given_stays_and_the_same_seed_gives_the_same(
    labels: NDArray[np.uint8], data: st.DataObject
) -> None:
    groups = np.array(data.draw(st.lists(st.integers(0, 30), min_size=len(labels), max_size=len(labels))))
    by_group = data.draw(st.dictionaries(st.sampled_from(sorted(set(groups.tolist()))), st.integers(0, 2)))
    given = np.array([by_group.get(group, UNSAID) for group in groups.tolist()], np.int8)
    if len(set(groups.tolist())) < 3 or not (given < 0).any():
        return
    try:
        splits = split(labels, given=given, groups=groups)
    except BadData:
        free = set(groups[given < 0].tolist())
        assert len(free) < 3 - len(set(by_group.values()))
        return

    assert set(splits.tolist()) == {TRAIN, VAL, TEST}
    assert (splits[given >= 0] == given[given >= 0]).all()
    for group in set(groups.tolist()):
        assert len(set(splits[groups == group].tolist())) == 1
    assert (split(labels, given=given, groups=groups) == splits).all()


@drawn(LABELS)
def test_no_image_could_move_to_bring_a_class_to_a_split_without_taking_one_away(labels: NDArray[np.uint8]) -> None:
    splits = split(labels)

    present = positives(labels, splits) > 0
    for image, target in product(range(len(labels)), range(3)):
        moved = splits.copy()
        moved[image] = target
        if len(set(moved.tolist())) < 3:
            continue
        after = positives(labels, moved) > 0
        assert not ((after >= present).all() and (after > present).any())


@settings(max_examples=30)
@drawn(st.integers(3, 60), st.integers(1, 8), st.integers(0, 2**32))
def test_a_class_on_three_groups_or_more_is_in_all_three_splits(groups: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    of_image = np.repeat(np.arange(groups), size)
    labels = (rng.random((len(of_image), 2)) < [1 / size, 0.9]).astype(np.uint8)

    splits = split(labels, groups=of_image, seed=seed)

    carriers = len(set(of_image[labels[:, 0] > 0].tolist()))
    if carriers >= 6:  # so many that the other class cannot have used them up
        assert (positives(labels, splits)[:, 0] > 0).all()


@pytest.mark.parametrize(("images", "where"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1])])
def test_a_class_too_rare_for_all_splits_trains_first_then_validates(images: int, where: list[int]) -> None:
    labels = np.zeros((40, 2), np.uint8)
    labels[:, 0] = 1
    labels[:images, 1] = 1
    assert positives(labels, split(labels))[:, 1].tolist() == where


def test_large_groups_leave_every_split_near_its_share() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(300), rng.integers(1, 30, 300))
    habits = rng.random((300, 8)) * np.geomspace(0.5, 0.02, 8)  # images of a group are alike
    labels = (rng.random((len(groups), 8)) < habits[groups]).astype(np.uint8)

    splits = split(labels, groups=groups)

    assert np.abs(np.bincount(splits) / len(splits) - SHARES).max() < 0.005
    shares = positives(labels, splits) / labels.sum(axis=0)
    assert np.abs(shares - np.array(SHARES)[:, None]).max() < 0.02


def test_a_missing_test_split_is_carved_out_of_train_and_validation_stays_whole() -> None:
    labels = digits().train.labels[:1000]
    given = [TRAIN] * 800 + [VAL] * 200

    splits = split(labels, given=given)

    assert (splits[800:] == VAL).all()
    assert not (splits[:800] == VAL).any()
    assert (splits == TEST).sum() == pytest.approx(800 * 0.15 / 0.85, abs=10)


def test_both_others_are_carved_out_of_train() -> None:
    labels = digits().train.labels[:1000]
    assert np.bincount(split(labels, given=[TRAIN] * 1000)) == pytest.approx([700, 150, 150], abs=10)


def test_all_three_given_are_taken_as_they_are() -> None:
    labels = digits().train.labels[:6]
    assert split(labels, given=[TEST, TRAIN, TRAIN, VAL, VAL, VAL]).tolist() == [2, 0, 0, 1, 1, 1]


def test_images_without_a_split_fill_up_those_that_have_too_few() -> None:
    labels = digits().train.labels[:1000]
    given = np.full(1000, UNSAID, np.int8)
    given[:400] = TEST

    splits = split(labels, given=given)

    # Test has more than its share; what is left is divided as 0.7 to 0.15.
    assert np.bincount(splits) == pytest.approx([600 * 0.7 / 0.85, 600 * 0.15 / 0.85, 400], abs=10)


def test_another_seed_gives_other_splits_of_like_sizes() -> None:
    labels = digits().train.labels
    first, second = split(labels, seed=1), split(labels, seed=2)
    assert (first != second).mean() > 0.3
    assert np.bincount(first) == pytest.approx(np.bincount(second), abs=40)


def test_a_group_in_two_splits_is_an_error_that_names_it() -> None:
    labels = np.ones((4, 2), np.uint8)
    with pytest.raises(BadData) as caught:
        split(labels, given=[TRAIN, UNSAID, TEST, VAL], groups=[7, 8, 7, 9])
    assert str(caught.value) == "Group 7 is given in train and in test. Images of one group must stay in one split."


def test_two_groups_are_too_few_for_three_splits() -> None:
    with pytest.raises(BadData) as caught:
        split(np.ones((9, 2), np.uint8), groups=[1] * 5 + [2] * 4)
    assert str(caught.value) == (
        "2 images, or groups that stay together, are too few: test would be empty. Training, validation and test need "
        "at least one each; add images."
    )


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(BadData) as caught:
        split(np.ones((4, 2), np.uint8), given=[VAL, VAL, TEST, TEST])
    assert str(caught.value) == (
        "Every image is given to val or test, none to train. Give train some, or leave splits empty."
    )


def test_no_image_at_all_is_an_error() -> None:
    with pytest.raises(BadData) as caught:
        split(np.ones((0, 2), np.uint8))
    assert str(caught.value) == "There is no image to put into a split."


def test_a_hundred_thousand_images_of_eighty_classes_take_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((100_000, 80)) < np.geomspace(0.3, 0.0002, 80)).astype(np.uint8)
    start = time.perf_counter()
    splits = split(labels)
    assert time.perf_counter() - start < 20
    assert np.bincount(splits).tolist() == [70_000, 15_000, 15_000]
