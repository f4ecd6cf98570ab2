"""YOLO text labels: class indices, in three layouts; names in YAML or text."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from mlc_core import BadData
from mlc_core.data.readers import read_listing
from tests.mlc_core.readers.pictures import labels, multi_hot, pictures, splits, write

BOX = "0.5 0.5 0.1 0.1"
NAMES = "names:\n  0: no\n  1: traffic light\n  2: ünï\n"


@pytest.fixture(params=["images/train2017", "train/images"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two layouts of one data set."""
    train: str = request.param
    val = train.replace("train", "val")
    pictures(tmp_path, f"{train}/a.jpg", f"{train}/deep/b b.png", f"{train}/none.jpg", f"{val}/c.jpg")
    labels_of = [train.replace("images", "labels"), val.replace("images", "labels")]
    write(tmp_path / labels_of[0] / "a.txt", f"2 {BOX}\n0 {BOX}\r\n2 0.1 0.1 0.2 0.2 0.3 0.3\n")
    write(tmp_path / labels_of[0] / "deep/b b.txt", "")
    write(tmp_path / labels_of[1] / "c.txt", f"1 {BOX}")
    write(tmp_path / "data.yaml", f"path: ../elsewhere\ntrain: [x]\n{NAMES}")
    return tmp_path


def test_indices_become_names_and_folders_become_splits(root: Path) -> None:
    listing = read_listing(root)

    assert listing.format == "yolo"
    assert listing.classes == ("no", "traffic light", "ünï")
    assert [path.rpartition("/")[2] for path in labels(listing)] == ["a.jpg", "b b.png", "none.jpg", "c.jpg"]
    assert list(labels(listing).values()) == [{"ünï", "no"}, set(), set(), {"traffic light"}]
    assert list(splits(listing).values()) == ["train", "train", "train", "val"]
    assert read_listing(root / "data.yaml", format="yolo") == listing


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=6))
def test_labels_are_those_of_scikit_learn(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    root = tmp_path_factory.mktemp("yolo")
    for row, indices in enumerate(rows):
        pictures(root, f"{row}.bmp")
        write(root / f"{row}.txt", "".join(f"{index} {BOX}\n" for index in indices))
    write(root / "classes.txt", "a\nb\nc\nd\n")

    listing = read_listing(root, format="yolo")

    np.testing.assert_array_equal(multi_hot(listing), MultiLabelBinarizer(classes=range(4)).fit_transform(rows))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"3 {BOX}", "label '3' is not in the class list, which ends at 2. Mend it, or add the class."),
        ("9" * 5000, f"label '{'9' * 115}...' is not in the class list, which ends at 2. Mend it, or add the class."),
        (f"-1 {BOX}", f"'-1 {BOX}' is not the number of a class with its place. Mend it."),
        ("0 0.5 0.5", "'0 0.5 0.5' is not the number of a class with its place. Mend it."),
        ("0 a b c d", "'0 a b c d' is not the number of a class with its place. Mend it."),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_its_image_can_be_skipped(
    tmp_path: Path, line: str, reason: str
) -> None:
    pictures(tmp_path, "images/a.jpg", "images/b.jpg")
    write(tmp_path / "labels/a.txt", f"0 {BOX}\n{line}\n")
    write(tmp_path / "labels/b.txt", f"1 {BOX}\n")
    write(tmp_path / "labels/c.txt", f"1 {BOX}\n")
    write(tmp_path / "labels/classes.txt", "no\ntraffic light\nünï\n")

    skipped = read_listing(tmp_path, skip_bad=True)

    assert [str(problem) for problem in skipped.problems] == [
        f"labels/a.txt, row 2: {reason}",
        "labels/c.txt: there is no image of its name. Add it, or take the file out.",
    ]
    assert labels(skipped) == {"images/b.jpg": {"traffic light"}}


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        (None, "{root}: neither data.yaml nor classes.txt names the classes (yolo). Add one of them."),
        (
            "names: 3",
            "data.yaml: names is not a list of names, nor a mapping from 0, 1, 2 ... to names. Mend it.",
        ),
        (
            "names: {0: a, 2: b}",
            "data.yaml: names is not a list of names, nor a mapping from 0, 1, 2 ... to names. Mend it.",
        ),
        (
            "names: [a, [b]]",
            "data.yaml: names is not a list of names, nor a mapping from 0, 1, 2 ... to names. Mend it.",
        ),
        ("names: [a, a]", "{root}: two classes are called 'a'. Give each a name of its own."),
        ("names: [a, '']", "{root}: a class name is empty."),
        (
            "names: [",
            "data.yaml: it is not YAML: while parsing a flow node. Mend it.",
        ),
        ("names:\n" + "- " * 20_000, "data.yaml: it is nested too deeply. Give a data.yaml."),
        (
            "names: " + "[" * 100_000,
            "data.yaml: it is longer, or nested deeper, than a list of names. Give a data.yaml.",
        ),
    ],
)
def test_names_that_cannot_be_used_are_refused(tmp_path: Path, yaml: str | None, sentence: str) -> None:
    pictures(tmp_path, "images/a.jpg")
    write(tmp_path / "labels/a.txt", f"0 {BOX}\n")
    if yaml is not None:
        write(tmp_path / "data.yaml", yaml)

    with pytest.raises(BadData) as caught:
        read_listing(tmp_path)

    assert str(caught.value) == sentence.replace("{root}", str(tmp_path))


def test_merged_keys_of_yaml_are_not_multiplied(tmp_path: Path) -> None:
    pictures(tmp_path, "images/a.jpg")
    write(tmp_path / "labels/a.txt", f"0 {BOX}\n")
    steps = "".join(f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 10)}]\n" for n in range(1, 12))
    write(tmp_path / "data.yaml", f"names: [a, b]\nm0: &m0 {{x: y}}\n{steps}")

    start = time.process_time()
    assert read_listing(tmp_path).classes == ("a", "b")
    assert time.process_time() - start < 5
