"""Pascal VOC: XML an image, class files, split files; hostile XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import MultiLabelBinarizer

from mlc_core import BadData
from mlc_core.data.readers import read_listing
from tests.mlc_core.readers.pictures import labels, multi_hot, pictures, splits, write

OBJECTS = {"000001": ["dog", "person", "dog"], "000002": [], "000003": ["cat"], "000004": ["cat", "dog"]}


def xml(names: Sequence[str], *, difficult: int = 0) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        "<part><name>head</name></part><bndbox><xmin>1</xmin></bndbox></object>"
        for name in names
    )
    return f"<annotation>\n<filename>other.jpg</filename>{objects}</annotation>\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pictures(tmp_path, *(f"JPEGImages/{name}.jpg" for name in OBJECTS), "SegmentationClass/000001.png")
    for name, objects in OBJECTS.items():
        write(tmp_path / f"Annotations/{name}.xml", xml(objects))
    return tmp_path


def test_objects_are_labels_and_their_parts_are_not(root: Path) -> None:
    listing = read_listing(root)

    reference = MultiLabelBinarizer()
    assert listing.format == "voc"
    np.testing.assert_array_equal(multi_hot(listing), reference.fit_transform(OBJECTS.values()))
    assert listing.classes == tuple(reference.classes_)
    assert set(splits(listing).values()) == {None}
    assert read_listing(root / "Annotations") == listing


def test_split_files_say_which_images_belong_to_the_task(root: Path) -> None:
    write(root / "ImageSets/Main/train.txt", "000001\n000002\n")
    write(root / "ImageSets/Main/val.txt", "000003\n")
    write(root / "ImageSets/Main/trainval.txt", "000001\n000002\n000003\n")

    assert splits(read_listing(root)) == {
        "JPEGImages/000001.jpg": "train",
        "JPEGImages/000002.jpg": "train",
        "JPEGImages/000003.jpg": "val",
    }


def test_trainval_trains_where_there_is_no_val(root: Path) -> None:
    write(root / "ImageSets/Main/trainval.txt", "000001\n000002\n")
    write(root / "ImageSets/Main/test.txt", "000003\n")

    assert list(splits(read_listing(root)).values()) == ["train", "train", "test"]


def test_class_files_say_the_same_as_xml_and_difficult_is_there(root: Path) -> None:
    write(root / "ImageSets/Main/train.txt", "000001\n000002\n")
    write(root / "ImageSets/Main/val.txt", "000003\n000004\n")
    for name in ("cat", "dog", "person"):
        for split, images in (("train", ["000001", "000002"]), ("val", ["000003", "000004"])):
            flags = [" 1" if name in OBJECTS[image] else "-1" for image in images]
            lines = "".join(f"{image} {flag}\n" for image, flag in zip(images, flags, strict=True))
            write(root / f"ImageSets/Main/{name}_{split}.txt", lines.replace("000004  1", "000004  0"))
    write(root / "Annotations/000004.xml", xml(OBJECTS["000004"], difficult=1))
    by_xml = read_listing(root)

    for name in OBJECTS:
        (root / f"Annotations/{name}.xml").unlink()
    by_class_file = read_listing(root)

    assert labels(by_class_file) == labels(by_xml)
    assert labels(by_xml)["JPEGImages/000004.jpg"] == {"cat", "dog"}
    assert splits(by_class_file) == splits(by_xml)
    assert by_class_file.classes == by_xml.classes == ("cat", "dog", "person")


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
REFUSED = "it declares a document type or entities, which is refused. Take them out."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>', REFUSED),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', REFUSED),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><annotation/>', REFUSED),
        ("", "it is empty (0 bytes). Replace the file."),
        ("<annotation>", "it is not XML: no element found: line 1, column 12. Mend it, or copy it again."),
        ("<html></html>", "its root is 'html', not annotation: no Pascal VOC. Take it out."),
        (xml(["cat", " "]), "its object 2 has no name. Write one."),
        (xml(["cats"]), "label 'cats' is not in the class list. Did you mean 'cat'?"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_named_and_can_be_skipped(root: Path, text: str, reason: str) -> None:
    write(root / "Annotations/000003.xml", text)
    for name in ("cat", "dog", "person"):
        write(root / f"ImageSets/Main/{name}_train.txt", "000001 1\n")

    with pytest.raises(BadData) as caught:
        read_listing(root, format="voc")

    sentence = f"Annotations/000003.xml: {reason}"
    assert str(caught.value) == f"{sentence} --skip-bad (skip_bad=True) goes on without such images."
    skipped = read_listing(root, format="voc", skip_bad=True)
    assert [str(problem) for problem in skipped.problems] == [sentence]
    assert [entry.path[-5] for entry in skipped.entries] == ["1", "2", "4"]


def test_a_latin_1_declaration_does_not_change_what_is_read(root: Path) -> None:
    text = '<?xml version="1.0" encoding="iso-8859-1"?>' + xml(["höhle"])
    write(root / "Annotations/000003.xml", text)
    assert labels(read_listing(root))["JPEGImages/000003.jpg"] == {"höhle"}

    (root / "Annotations/000003.xml").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadData) as caught:
        read_listing(root)
    assert str(caught.value) == (
        "Annotations/000003.xml, row 2: byte 0xf6 is not UTF-8. Save the file as UTF-8. "
        "--skip-bad (skip_bad=True) goes on without such images."
    )


def test_an_image_in_two_splits_without_xml_or_with_another_flag_is_a_problem(root: Path) -> None:
    write(root / "ImageSets/Main/train.txt", "000001\n000009\n")
    write(root / "ImageSets/Main/val.txt", "000001\n000003\n")

    assert [str(problem) for problem in read_listing(root, skip_bad=True).problems] == [
        "ImageSets/Main/train.txt, row 2: '000009' has no XML file in Annotations. Add it.",
        "ImageSets/Main/val.txt, row 1: 'JPEGImages/000001.jpg' was listed before (ImageSets/Main/train.txt, row 1) "
        "with split 'train', now 'val'. Keep one of the rows.",
    ]

    for name in OBJECTS:
        (root / f"Annotations/{name}.xml").unlink()
    write(root / "ImageSets/Main/cat_train.txt", "000001 2\n000002 -1\n")
    write(root / "ImageSets/Main/dog_train.txt", "000001 1\n000002 1\n")
    with pytest.raises(BadData) as caught:
        read_listing(root)
    assert str(caught.value).startswith(
        "ImageSets/Main/cat_train.txt, row 1: '000001 2' is not an image with -1, 0 or 1. Mend it."
    )
