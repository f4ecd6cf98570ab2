"""Whatever the bytes, every reader lists images or says what is wrong, and soon."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mlc_core import MlcError
from mlc_core.data.listing import Listing
from mlc_core.data.readers import FORMATS, read_listing
from tests.mlc_core.readers.pictures import pictures, write

EXAMPLES = int(os.environ.get("MLC_EXAMPLES", "40"))
XML = "<annotation><object><name>{}</name></object></annotation>"


def csv_file(root: Path) -> Path:
    return write(root / "x.csv", "path,cat,dog,split,group\na.bmp,1,0,train,7\nb b.bmp,0,1,val,\n")


def tsv_file(root: Path) -> Path:
    return write(root / "x.tsv", "path\tlabels\na.bmp\tcat|dog\nb b.bmp\t['dog', 'cow']\n")


def jsonl_file(root: Path) -> Path:
    rows = [{"path": "a.bmp", "labels": ["cat"], "group": 1}, {"path": "b b.bmp", "labels": "dog, cat", "group": "x"}]
    return write(root / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def parquet_file(root: Path) -> Path:
    table = pa.table({"path": ["a.bmp", "b b.bmp"], "labels": [["cat"], ["dog", "cat"]], "group": [1.0, None]})
    parquet.write_table(table, root / "x.parquet")
    return root / "x.parquet"


def coco_file(root: Path) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.bmp"}, {"id": 2, "file_name": "b b.bmp"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0.5]}, {"image_id": 2, "category_id": 2}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    return write(root / "x.json", json.dumps(content))


def voc_xml(root: Path) -> Path:
    write(root / "Annotations/b b.xml", XML.format("dog"))
    return write(root / "Annotations/a.xml", XML.format("cat"))


def voc_class_file(root: Path) -> Path:
    write(root / "ImageSets/Main/dog_train.txt", "a -1\nb 1\n")
    return write(root / "ImageSets/Main/cat_train.txt", "a 1\nb 0\n")


def openimages_file(root: Path) -> Path:
    write(root / "class-descriptions.csv", "/m/1,Cat\n/m/2,Dog\n")
    return write(root / "x.csv", "ImageID,Source,LabelName,Confidence\na,v,/m/1,1\nb b,v,/m/2,0.5\n")


def openimages_names(root: Path) -> Path:
    openimages_file(root)
    return root / "class-descriptions.csv"


def yolo_labels(root: Path) -> Path:
    write(root / "data.yaml", "names: [cat, dog]\n")
    return write(root / "a.txt", "0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n")


def yolo_names(root: Path) -> Path:
    yolo_labels(root)
    return write(root / "data.yaml", "nc: 2\nnames:\n  0: cat\n  1: &x dog\n")


def yolo_list(root: Path) -> Path:
    yolo_labels(root)
    (root / "data.yaml").unlink()
    return write(root / "classes.txt", "cat\ndog\n")


MAKERS: dict[Callable[[Path], Path], str] = {
    csv_file: "csv",
    tsv_file: "tsv",
    jsonl_file: "jsonl",
    parquet_file: "parquet",
    coco_file: "coco",
    voc_xml: "voc",
    voc_class_file: "voc",
    openimages_file: "openimages",
    openimages_names: "openimages",
    yolo_labels: "yolo",
    yolo_names: "yolo",
    yolo_list: "yolo",
}

NASTY = st.sampled_from(
    [
        *(
            b"\0",
            b"\xff",
            b'"',
            b"'",
            b",",
            b"\n",
            b"\r",
            b"\t",
            b"[",
            b"}",
            b"<",
            b"&x;",
            b"<!DOCTYPE a>",
            b"../",
            b"/",
        ),
        *(b"\xef\xbb\xbf", b"\xc2\x85", b"\x1b[", b"\\u0000", b"\\ud800", b"NaN", b"-1", b"1e999", b"null", b"*x"),
        *(b"<<: *x", b"9" * 5000, b"x" * 200_000, b"\n" * 50_000),
        *(b"[" * 50_000, b'{"a":' * 50_000, b"<a>" * 50_000, b"- " * 20_000),
    ]
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=4) | NASTY), max_size=4)


def edited(data: bytes, edits: list[tuple[float, int, bytes]], end: float) -> bytes:
    """Replace some bytes by others, here and there, and cut the rest off."""
    for place, dropped, new in edits:
        at = round(place * len(data))
        data = data[:at] + new + data[at + dropped :]
    return data[: round(end * len(data))]


def listed_or_refused(root: Path, format_name: str, *, skip_bad: bool) -> Listing | None:
    start = time.process_time()
    try:
        listing = read_listing(root, format=format_name, skip_bad=skip_bad)
    except MlcError as error:
        refused = str(error)
    else:
        refused = ""
    assert time.process_time() - start < 5
    if refused:
        assert len(refused.encode()) < 2000  # a terminal can show it
        return None
    paths = [entry.path for entry in listing.entries]
    assert paths == sorted(set(paths))
    assert all((root / path).is_file() for path in paths)
    assert all(0 <= label < len(listing.classes) for entry in listing.entries for label in entry.labels)
    return listing


@pytest.mark.parametrize(("make", "name"), MAKERS.items(), ids=lambda value: getattr(value, "__name__", value))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=EXAMPLES)
@given(data=st.data())
def test_whatever_the_bytes_images_are_listed_or_mlc_error_is_raised(
    tmp_path_factory: pytest.TempPathFactory, make: Callable[[Path], Path], name: str, data: st.DataObject
) -> None:
    root = pictures(tmp_path_factory.mktemp(name), "a.bmp", "b b.bmp")
    file = make(root)
    good = file.read_bytes()
    changed = st.builds(edited, st.just(good), EDITS, st.just(1.0) | st.floats(0, 1))
    file.write_bytes(data.draw(st.binary(max_size=200) | NASTY | changed))

    for skip_bad in (False, True):
        listed_or_refused(root, name, skip_bad=skip_bad)
        listed_or_refused(root, "auto", skip_bad=skip_bad)


@pytest.mark.parametrize(("make", "name"), MAKERS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_unbroken_these_files_are_data_sets(tmp_path: Path, make: Callable[[Path], Path], name: str) -> None:
    make(pictures(tmp_path, "a.bmp", "b.bmp", "b b.bmp"))

    listing = listed_or_refused(tmp_path, "auto", skip_bad=False)

    assert listing is not None
    assert listing.format == name


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15)
@given(content=st.binary(max_size=100))
def test_a_single_file_of_any_bytes_is_refused_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    file = tmp_path_factory.mktemp("single") / "x"
    file.write_bytes(content)

    with pytest.raises(MlcError):
        read_listing(file, format=name)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_whatever_the_folders_are_called_they_are_labels_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("folders")
    for number, name in enumerate(names):
        pictures(root, f"{name}/{number}.bmp")

    for format_name in ("auto", "label-folders", "class-folders"):
        listed_or_refused(root, format_name, skip_bad=True)
