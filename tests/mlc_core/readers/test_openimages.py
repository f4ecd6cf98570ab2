"""Open Images: rows of single image-label pairs, with class names beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_core import BadData
from mlc_core.data.readers import read_listing
from tests.mlc_core.readers.pictures import labels, pictures, splits, write

HEAD = "ImageID,Source,LabelName,Confidence\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pictures(tmp_path, "train/0a.jpg", "train/0b.jpg", "validation/0c.jpg")
    write(
        tmp_path / "train-annotations-human-imagelabels.csv",
        HEAD + "0a,verification,/m/cat,1\n0a,verification,/m/dog,0\n0a,verification,/m/bat1,0.4\n"
        "0b,verification,/m/dog,0\n",
    )
    write(tmp_path / "validation-annotations-human-imagelabels.csv", HEAD + "0c,verification,/m/bat2,1\n")
    write(
        tmp_path / "class-descriptions.csv",
        '/m/cat,"Cat, domestic"\n/m/dog,Dog\n/m/bat1,Bat\n/m/bat2,Bat\n/m/unused,Unused\n',
    )
    return tmp_path


def test_a_confidence_above_0_is_a_label_and_classes_are_those_something_is_said_of(root: Path) -> None:
    listing = read_listing(root)

    assert listing.format == "openimages"
    assert listing.classes == ("Bat (/m/bat1)", "Bat (/m/bat2)", "Cat, domestic", "Dog")
    assert labels(listing) == {
        "train/0a.jpg": {"Cat, domestic", "Bat (/m/bat1)"},
        "train/0b.jpg": set(),
        "validation/0c.jpg": {"Bat (/m/bat2)"},
    }
    assert splits(listing) == {"train/0a.jpg": "train", "train/0b.jpg": "train", "validation/0c.jpg": "val"}


def test_files_of_one_split_add_up(root: Path) -> None:
    write(root / "train-annotations-bbox.csv", HEAD[:-1] + ",XMin\n0b,xclick,/m/cat,1,0.5\n0a,xclick,/m/cat,1,0.1\n")

    assert labels(read_listing(root))["train/0b.jpg"] == {"Cat, domestic"}
    assert labels(read_listing(root))["train/0a.jpg"] == {"Cat, domestic", "Bat (/m/bat1)"}


def test_without_descriptions_a_single_file_names_classes_as_it_does(root: Path) -> None:
    (root / "class-descriptions.csv").unlink()

    listing = read_listing(root / "train-annotations-human-imagelabels.csv")

    assert listing.classes == ("/m/bat1", "/m/cat", "/m/dog")
    assert set(splits(listing).values()) == {None}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0b,verification,/m/cat,nan", "confidence 'nan' is not a number from 0 to 1. Mend it."),
        ("0b,verification,/m/cat,-1", "confidence '-1' is not a number from 0 to 1. Mend it."),
        ("0b,verification,/m/cat", "it has 3 cells, the header 4. Mend the row."),
        ("0b,machine,/m/dog,0.7", "'/m/dog' is there by one row, not by another. Keep one of them."),
    ],
)
def test_a_statement_that_cannot_be_used_is_named(root: Path, row: str, reason: str) -> None:
    file = root / "train-annotations-human-imagelabels.csv"
    file.write_text(file.read_text() + row + "\n")

    with pytest.raises(BadData) as caught:
        read_listing(root)

    assert str(caught.value) == f"{file.name}, row 6: {reason} --skip-bad (skip_bad=True) goes on without such images."


def test_a_label_without_description_and_an_image_that_is_not_there_can_be_skipped(root: Path) -> None:
    file = root / "train-annotations-human-imagelabels.csv"
    file.write_text(file.read_text() + "0d,verification,/m/dog,1\n0b,verification,/m/cow,1\n")

    skipped = read_listing(root, skip_bad=True)

    assert [str(problem) for problem in skipped.problems] == [
        f"{file.name}, row 5: label '/m/cow' is not in the class list.",
        f"{file.name}, row 6: '0d' is not there. Fix the path.",
    ]
    assert list(labels(skipped)) == ["train/0a.jpg", "validation/0c.jpg"]
