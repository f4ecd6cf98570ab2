"""Which format it is, is told by what is there; where nothing or two fit, the person is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlc_core import BadData
from mlc_core.data.readers import FORMATS, read_listing
from tests.mlc_core.readers.pictures import labels, pictures, write


def test_a_name_that_says_nothing_is_read_by_its_content(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    file = write(tmp_path / "data.download", "path\tlabels\na.jpg\tcat\nb.jpg\tdog\n")

    assert read_listing(file).format == "tsv"


def test_a_manifest_beside_folders_of_images_is_what_is_meant(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.jpg", "dog/b.jpg")
    write(tmp_path / "labels.csv", "path,labels\ncat/a.jpg,x\ndog/b.jpg,y\n")
    write(tmp_path / "README.csv", "This folder, as one can see, holds images.\n")

    assert labels(read_listing(tmp_path)) == {"cat/a.jpg": {"x"}, "dog/b.jpg": {"y"}}
    assert read_listing(tmp_path, format="class-folders").classes == ("cat", "dog")


def test_where_two_fit_the_format_is_asked_for(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    write(tmp_path / "labels.csv", "path,labels\na.jpg,x|y\n")
    write(tmp_path / "labels.jsonl", '{"path": "a.jpg", "labels": ["x", "z"]}\n')

    with pytest.raises(BadData) as caught:
        read_listing(tmp_path)

    assert str(caught.value) == f"{tmp_path}: it could be csv or jsonl. Say which by --format csv."
    assert read_listing(tmp_path, format="jsonl").classes == ("x", "z")


def test_where_nothing_fits_the_error_lists_what_was_looked_for(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")

    with pytest.raises(BadData) as caught:
        read_listing(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}: it is no data set that is known here. Looked for: a CSV file with a column path (csv); a TSV "
        "file with a column path (tsv); JSON lines with a key path (jsonl); a Parquet file (parquet); JSON with "
        "images, annotations and categories (coco); Annotations/*.xml or ImageSets/Main/*.txt (voc); a CSV file with "
        "the columns ImageID, LabelName, Confidence (openimages); labels/*.txt beside images/ (yolo); folders named "
        "for several labels, as black_jeans (label-folders); a folder a class (class-folders)."
    )


def test_an_unknown_format_and_a_path_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData) as caught:
        read_listing(tmp_path, format="cocoo")
    assert str(caught.value) == f"format 'cocoo' is not one of {', '.join(FORMATS)}. Did you mean 'coco'?"

    for path in (tmp_path / "nothing", tmp_path / ("x" * 300)):
        with pytest.raises(BadData) as caught:
            read_listing(path)
        assert str(caught.value) == f"{path}: it is not there. Fix the path."


@pytest.mark.parametrize("name", FORMATS)
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "labels.csv")

    with pytest.raises(BadData):
        read_listing(tmp_path / "labels.csv", format=name)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder_is_refused_in_every_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadData):
        read_listing(tmp_path, format=name)
