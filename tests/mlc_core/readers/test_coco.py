"""COCO instances: the categories of an image's annotations, as pycocotools reads them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from mlc_core import BadData
from mlc_core.data.readers import read_listing
from tests.mlc_core.readers.pictures import labels, multi_hot, pictures, splits, write

CATEGORIES = [{"id": 3, "name": "sea lion"}, {"id": 1, "name": "cat"}, {"id": 90, "name": "never"}]


def coco(images: dict[int, str], annotations: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "info": {"year": 2017},
        "images": [{"id": number, "file_name": name, "width": 3, "height": 2} for number, name in images.items()],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": n % 2}
            for n, (image, category) in enumerate(annotations, start=1)
        ],
        "categories": [dict(category) for category in CATEGORIES],
    }


@given(st.lists(st.tuples(st.integers(10, 14), st.sampled_from([3, 1])), max_size=12))
def test_labels_are_those_of_pycocotools(
    tmp_path_factory: pytest.TempPathFactory, annotations: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("coco")
    names = {number: f"{number}.bmp" for number in range(10, 15)}
    pictures(root / "images", *names.values())
    file = write(root / "instances.json", json.dumps(coco(names, annotations)))

    listing = read_listing(root)

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(file))
    order = {category["name"]: category["id"] for category in reference.loadCats(reference.getCatIds())}
    for row, number in zip(multi_hot(listing), names, strict=True):
        theirs = {one["category_id"] for one in reference.loadAnns(reference.getAnnIds(imgIds=[number]))}
        np.testing.assert_array_equal(row, [order[name] in theirs for name in listing.classes])
    assert listing.classes == ("sea lion", "cat", "never")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits with an image of one name, as COCO is published."""
    pictures(tmp_path, "train2017/1.jpg", "train2017/2 é.jpg", "val2017/1.jpg")
    train = coco({1: "1.jpg", 2: "2 é.jpg"}, [(1, 3), (1, 1), (1, 3)])
    write(tmp_path / "annotations/instances_train2017.json", json.dumps(train))
    write(tmp_path / "annotations/instances_val2017.json", json.dumps(coco({1: "1.jpg"}, [(1, 1)]), indent=1))
    write(tmp_path / "annotations/captions_val2017.json", json.dumps({"images": [], "annotations": []}))
    return tmp_path


def test_a_published_folder_gives_splits_by_its_files(root: Path) -> None:
    listing = read_listing(root)

    assert listing.format == "coco"
    assert labels(listing) == {
        "train2017/1.jpg": {"sea lion", "cat"},
        "train2017/2 é.jpg": set(),
        "val2017/1.jpg": {"cat"},
    }
    assert splits(listing) == {"train2017/1.jpg": "train", "train2017/2 é.jpg": "train", "val2017/1.jpg": "val"}


def test_one_of_its_files_is_a_data_set_without_splits(root: Path) -> None:
    (root / "val2017/1.jpg").unlink()

    listing = read_listing(root / "annotations/instances_train2017.json")

    assert labels(listing) == {"train2017/1.jpg": {"sea lion", "cat"}, "train2017/2 é.jpg": set()}
    assert set(splits(listing).values()) == {None}


def test_an_image_that_lies_in_two_folders_is_not_guessed(root: Path) -> None:
    with pytest.raises(BadData) as caught:
        read_listing(root / "annotations/instances_train2017.json")

    assert str(caught.value) == (
        "instances_train2017.json, image 1: '1.jpg' may be 'train2017/1.jpg' or 'val2017/1.jpg'. Write the whole "
        "path. --skip-bad (skip_bad=True) goes on without such images."
    )


def changed(path: list[str | int], value: object) -> str:
    content = coco({1: "1.jpg", 2: "2.jpg"}, [(1, 3), (2, 1)])
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (changed(["images"], {}), "it is not COCO: Expected `array`, got `object` - at `$.images`. Mend it there."),
        (
            changed(["images", 1, "file_name"], 3),
            "it is not COCO: Expected `str`, got `int` - at `$.images[1].file_name`. Mend it there.",
        ),
        (
            changed(["annotations", 0, "category_id"], []),
            "it is not COCO: Expected `int | str`, got `array` - at `$.annotations[0].category_id`. Mend it there.",
        ),
        (
            changed(["categories"], None),
            "it is not COCO: Object missing required field `categories`. Mend it there.",
        ),
        (
            changed(["images", 0, "id"], 1)[:-40],
            "it is not JSON: Input data was truncated. Mend it, or copy it again.",
        ),
        (changed(["categories", 0, "id"], 1), "two categories have one name or one id. Give each its own."),
        (changed(["categories", 0, "name"], "cat"), "two categories have one name or one id. Give each its own."),
        ('{"info": ' + "[" * 200_000, "it is nested too deeply. Give COCO JSON."),
        (
            '{"info": ' + "9" * 5000 + "}",
            "it is not COCO: Object missing required field `images`. Mend it there.",
        ),
    ],
)
def test_json_of_another_shape_is_named_by_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    write(tmp_path / "x.json", text)

    with pytest.raises(BadData) as caught:
        read_listing(tmp_path)

    assert str(caught.value) == f"x.json: {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence", "left"),
    [
        (
            changed(["annotations", 0, "category_id"], 7),
            "x.json, image 1: label 7 (annotation 1) is not in the class list.",
            {"2.jpg": {"cat"}},
        ),
        (
            changed(["annotations", 1, "image_id"], 7),
            "x.json, annotation 2: its image 7 is not listed. Add it, or take this out.",
            {"1.jpg": {"sea lion"}, "2.jpg": set()},
        ),
        (
            changed(["images", 1, "id"], 1).replace('"image_id": 2', '"image_id": 1'),
            "x.json, image 1: another image has the same id. Give each its own.",
            {"1.jpg": {"sea lion", "cat"}},
        ),
        (
            changed(["images", 1, "file_name"], "../x.jpg"),
            "x.json, image 2: '../x.jpg' leaves the data folder. Write a path below {root}/.",
            {"1.jpg": {"sea lion"}},
        ),
    ],
)
def test_one_bad_image_is_named_and_can_be_skipped(
    tmp_path: Path, text: str, sentence: str, left: dict[str, set[str]]
) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg")
    write(tmp_path / "x.json", text)
    whole = sentence.replace("{root}", str(tmp_path))

    with pytest.raises(BadData) as caught:
        read_listing(tmp_path)

    assert str(caught.value).startswith(whole)
    skipped = read_listing(tmp_path, skip_bad=True)
    assert str(skipped.problems[0]) == whole
    assert labels(skipped) == left
