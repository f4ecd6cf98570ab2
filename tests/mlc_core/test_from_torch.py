"""A torch dataset taken into memory: real torch datasets, PIL images, arrays and tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import MultiLabelBinarizer
from torch.utils.data import TensorDataset

from mlc_core import BadData, from_torch
from mlc_core.data.dataset import Split

CLASSES = ("a", "b", "c")
SETS = [sorted(set(own)) for own in np.random.default_rng(0).integers(0, 3, (90, 2)).tolist()]
HOT = MultiLabelBinarizer(classes=range(3)).fit_transform(SETS).astype(np.uint8)
PIXELS = np.random.default_rng(1).integers(0, 256, (90, 3, 6, 8), dtype=np.uint8)


def in_order(data: object) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all splits as the dataset had them."""
    splits: list[Split] = [data.train, data.val, data.test]  # type: ignore[attr-defined]
    rows = np.concatenate([split.rows for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    assert sorted(rows) == list(range(len(rows)))
    return splits[0].images, labels[np.argsort(rows)]


def test_multi_hot_labels_and_class_indices_mean_the_same() -> None:
    hot = from_torch(TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(HOT)), CLASSES, image_size=8)
    indices = from_torch([*_alone(list(zip(PIXELS, SETS, strict=True)))], CLASSES, image_size=8)
    images, labels = in_order(hot)
    assert np.array_equal(labels, HOT)
    assert np.array_equal(in_order(indices)[1], HOT)
    assert hot.fingerprint == indices.fingerprint
    assert images.shape == (90, 3, 8, 8)


def _alone(items: list[tuple[np.ndarray, list[int]]]) -> list[list[tuple[np.ndarray, list[int]]]]:
    return [items]


def test_pil_images_arrays_and_floats_give_the_same_pixels() -> None:
    square = np.repeat(PIXELS[:, :, :4, :4], 2, axis=2).repeat(2, axis=3)
    kinds = [
        [(Image.fromarray(pixels.transpose(1, 2, 0)), hot) for pixels, hot in zip(square, HOT, strict=True)],
        [(pixels, hot) for pixels, hot in zip(square, HOT, strict=True)],
        [(torch.from_numpy(pixels).to(torch.float32) / 255, hot) for pixels, hot in zip(square, HOT, strict=True)],
    ]
    for items in kinds:
        assert np.array_equal(in_order(from_torch([items], CLASSES, image_size=8))[0], square)


def test_three_datasets_are_the_three_splits() -> None:
    parts = [list(zip(PIXELS[part], HOT[part], strict=True)) for part in (np.s_[:50], np.s_[50:70], np.s_[70:])]
    data = from_torch(parts, CLASSES, image_size=8)
    assert [len(split) for split in (data.train, data.val, data.test)] == [50, 20, 20]
    assert np.array_equal(data.val.labels, HOT[50:70])


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ((PIXELS[0, 0], HOT[0]), "Item 3: an image of shape (6, 8) is not (3, height, width)."),
        (
            (PIXELS[0].astype(np.int64), HOT[0]),
            "Item 3: an image of torch.int64 is neither uint8 nor floats in [0, 1].",
        ),
        (
            (PIXELS[0].astype(np.float32), HOT[0]),
            "Item 3: floats of an image lie in [0, 1]; leave the normalization to the fit.",
        ),
        ((PIXELS[0], [3]), "Item 3: labels are 3 values of 0 and 1, or different indices from 0 to 2."),
        ((PIXELS[0], ["a"]), "Item 3: labels are 3 values of 0 and 1, or different indices from 0 to 2."),
        ((PIXELS[0], [[0], [1, 2]]), "Item 3: labels are 3 values of 0 and 1, or different indices from 0 to 2."),
        ((PIXELS[0], [0, 0, 0, 1]), "Item 3: labels are 3 values of 0 and 1, or different indices from 0 to 2."),
        (7, "Item 3 is not a pair of an image and its labels."),
    ],
)
def test_an_item_that_cannot_be_used_is_named(item: object, sentence: str) -> None:
    items = [*list(zip(PIXELS[:3], HOT[:3], strict=True)), item]
    with pytest.raises(BadData) as refused:
        from_torch([items], CLASSES, image_size=8)
    assert str(refused.value) == sentence


def test_two_datasets_are_one_too_few() -> None:
    part = list(zip(PIXELS, HOT, strict=True))
    with pytest.raises(BadData, match=r"^2 datasets: give one, or three: training, validation and test\.$"):
        from_torch([part, part], CLASSES, image_size=8)
