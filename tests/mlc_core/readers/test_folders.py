"""Folders as labels: a set of labels each, or a class each; told apart by what is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlc_core import BadData
from mlc_core.data.readers import read_listing
from tests.mlc_core.readers.pictures import labels, picture, pictures, splits


def test_names_whose_parts_recur_are_sets_of_labels(tmp_path: Path) -> None:
    # As in the apparel set that such tutorials use, counters start anew in each folder.
    pictures(tmp_path, "black_jeans/0.jpg", "black_dress/0.jpg", "blue_dress/é 1.jpg", "blue_jeans/nested/0.jpg")

    listing = read_listing(tmp_path)

    assert listing.format == "label-folders"
    assert listing.classes == ("black", "blue", "dress", "jeans")
    assert labels(listing) == {
        "black_jeans/0.jpg": {"black", "jeans"},
        "black_dress/0.jpg": {"black", "dress"},
        "blue_dress/é 1.jpg": {"blue", "dress"},
        "blue_jeans/nested/0.jpg": {"blue", "jeans"},
    }
    assert labels(read_listing(tmp_path, format="class-folders")) == {
        path: {path.partition("/")[0]} for path in labels(listing)
    }


def test_names_whose_parts_do_not_recur_are_classes(tmp_path: Path) -> None:
    pictures(tmp_path, "polar_bear/0.jpg", "black_bear/1.jpg", "sea_lion/2.jpg")

    assert read_listing(tmp_path).classes == ("black_bear", "polar_bear", "sea_lion")
    assert read_listing(tmp_path, format="label-folders").classes == ("bear", "black", "lion", "polar", "sea")


def test_one_file_in_several_folders_is_an_image_with_several_labels(tmp_path: Path) -> None:
    for folder in ("black_cat", "black_dog", "white_cat"):
        picture(tmp_path / folder / "a.png", 1)
    picture(tmp_path / "black_cat/b.png", 2)
    picture(tmp_path / "white_cat/b.png", 3)

    listing = read_listing(tmp_path)

    assert listing.format == "class-folders"
    assert labels(listing) == {
        "black_cat/a.png": {"black_cat", "black_dog", "white_cat"},
        "black_cat/b.png": {"black_cat"},
        "white_cat/b.png": {"white_cat"},  # another picture of that name
    }


def test_folders_above_give_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for folder in ("cat", "dog"):
            picture(tmp_path / split / folder / "a.png")

    listing = read_listing(tmp_path)

    assert labels(listing) == {f"{split}/cat/a.png": {"cat", "dog"} for split in ("test", "train", "valid")}
    assert splits(listing) == {"test/cat/a.png": "test", "train/cat/a.png": "train", "valid/cat/a.png": "val"}


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.jpg", "bus/b.jpg")

    assert read_listing(tmp_path).classes == ("bus", "train")


def test_images_in_no_folder_and_links_are_problems_and_other_files_are_nothing(tmp_path: Path) -> None:
    outside = pictures(tmp_path / "outside", "x.jpg")
    root = pictures(tmp_path / "root", "a.jpg", "cat/b.jpg", "dog/c.jpg", ".hidden/d.jpg")
    (root / "dog/notes.doc").write_text("no image")
    (root / "cow").symlink_to(outside)
    (root / "dog/x.jpg").symlink_to(outside / "x.jpg")

    skipped = read_listing(root, skip_bad=True)

    assert [str(problem) for problem in skipped.problems] == [
        "cow: is a link to a folder, which is not followed. Copy the folder.",
        "a.jpg: it lies in no folder that says its labels. Move it into one.",
        "dog/x.jpg: 'dog/x.jpg' is a link that leaves the data folder. Copy the file there.",
    ]
    assert labels(skipped) == {"cat/b.jpg": {"cat"}, "dog/c.jpg": {"dog"}}


def test_a_name_in_another_encoding_than_utf_8_is_a_problem(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/b.jpg", "dog/c.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/dog/\xe9.jpg")).write_bytes(b"x")

    with pytest.raises(BadData) as caught:
        read_listing(tmp_path)

    assert "the path holds the character '\\udce9', which cannot be shown: 'dog/\\udce9.jpg'. Rename" in str(
        caught.value
    )
    assert labels(read_listing(tmp_path, skip_bad=True)) == {"cat/b.jpg": {"cat"}, "dog/c.jpg": {"dog"}}
