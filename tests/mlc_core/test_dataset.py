"""A data set is uint8 images and multi-hot labels that belong together, or it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from mlc_core import BadData, Dataset, Split


def images(n: int = 2, *, height: int = 4, width: int = 5) -> NDArray[np.uint8]:
    return np.zeros((n, 3, height, width), np.uint8)


def labels(n: int = 2, *, classes: int = 2) -> NDArray[np.uint8]:
    return np.zeros((n, classes), np.uint8)


@pytest.mark.parametrize(
    ("given_images", "given_labels", "sentence"),
    [
        (
            images().astype(np.float32),
            labels(),
            "images: float32 of shape (2, 3, 4, 5) is not uint8 of shape (n, 3, height, width).",
        ),
        (
            np.zeros((2, 4, 5, 3), np.uint8),
            labels(),
            "images: uint8 of shape (2, 4, 5, 3) is not uint8 of shape (n, 3, height, width).",
        ),
        (images()[0], labels(), "images: uint8 of shape (3, 4, 5) is not uint8 of shape (n, 3, height, width)."),
        (images(), labels().astype(bool), "labels: bool of shape (2, 2) is not uint8 of shape (n, classes)."),
        (images(), labels()[0], "labels: uint8 of shape (2,) is not uint8 of shape (n, classes)."),
        (images(3), labels(2), "3 images have 2 rows of labels; give one row an image."),
        (images(0), labels(0), "A split holds no image; training, validation and test each need at least one."),
        (
            images(),
            labels(classes=0),
            "Images of shape (2, 3, 4, 5) with labels of shape (2, 0) hold no pixel or no class.",
        ),
        (
            images(height=0),
            labels(),
            "Images of shape (2, 3, 0, 5) with labels of shape (2, 2) hold no pixel or no class.",
        ),
        (images(), labels() + np.uint8(7), "labels hold the value 7; a label is 0 or 1."),
    ],
)
def test_a_split_that_cannot_be_used_says_what_is_wrong_with_it(
    given_images: NDArray[Any], given_labels: NDArray[Any], sentence: str
) -> None:
    with pytest.raises(BadData) as caught:
        Split(given_images, given_labels)
    assert str(caught.value) == sentence


DTYPES = st.sampled_from([np.uint8, np.int64, np.float32, np.bool_])
SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@given(
    arrays.arrays(DTYPES, SHAPES | st.tuples(st.integers(0, 3), st.just(3), st.integers(0, 3), st.integers(0, 3))),
    arrays.arrays(DTYPES, SHAPES | st.tuples(st.integers(0, 3), st.integers(0, 3))),
)
def test_whatever_the_arrays_they_are_a_usable_split_or_bad_data(pixels: NDArray[Any], marks: NDArray[Any]) -> None:
    try:
        split = Split(pixels, marks)
    except BadData:
        return
    assert split.images.dtype == split.labels.dtype == np.uint8
    assert split.images.size > 0
    assert len(split) == len(split.images) == len(split.labels)
    assert set(split.labels.ravel()) <= {0, 1}


@pytest.mark.parametrize("wrong", ["train", "val", "test"])
def test_a_split_over_other_classes_is_named(wrong: str) -> None:
    splits = {name: Split(images(), labels(classes=3 if name == wrong else 2)) for name in ("train", "val", "test")}

    with pytest.raises(BadData) as caught:
        Dataset("birds", ("owl", "tit"), **splits, fingerprint="x")

    assert str(caught.value) == f"birds: {wrong} has 3 label columns for 2 classes."


def test_a_single_training_image_is_refused() -> None:
    one, two = Split(images(1), labels(1)), Split(images(2), labels(2))

    with pytest.raises(BadData) as caught:
        Dataset("birds", ("owl", "tit"), train=one, val=two, test=two, fingerprint="x")

    assert str(caught.value) == "birds: one training image has no variance to normalize by; give at least two."
    assert len(Dataset("birds", ("owl", "tit"), train=two, val=one, test=one, fingerprint="x").val) == 1


def test_the_channels_are_measured_over_the_training_images_as_scikit_learn_does(data: Dataset) -> None:
    scaler = StandardScaler().fit(data.train.images.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64))

    mean, std = data.channel_stats

    assert {str(mean.dtype), str(std.dtype)} == {"float32"}
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(std, scaler.scale_, rtol=1e-6)


def test_a_channel_of_one_level_is_not_divided_by_zero() -> None:
    flat = Split(images() + np.uint8(200), labels())

    mean, std = Dataset("flat", ("a", "b"), flat, flat, flat, fingerprint="x").channel_stats

    assert mean.tolist() == [200, 200, 200]
    assert std.tolist() == [1, 1, 1]
