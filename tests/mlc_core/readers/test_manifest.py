"""Tables with a path a row: CSV, TSV, JSON lines, Parquet; what their columns mean, and what is wrong with them."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from sklearn.preprocessing import MultiLabelBinarizer

from mlc_core import BadData
from mlc_core.data.readers import read_listing
from tests.mlc_core.readers.pictures import labels, multi_hot, pictures, splits, write

NAMES = ["a.jpg", "nested/b b.png", "nested/deep/ünï 猫.webp"]
LABELS = [["cat", "dog"], [], ["dog"]]
SPLITS = ["train", "validation", "test"]
INTENDED = {"a.jpg": {"cat", "dog"}, "nested/b b.png": set(), "nested/deep/ünï 猫.webp": {"dog"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pictures(tmp_path, *NAMES)


def one_column(root: Path) -> None:
    rows = [f"{name},{'|'.join(names)},{split},7\n" for name, names, split in zip(NAMES, LABELS, SPLITS, strict=True)]
    write(root / "labels.csv", "path,labels,split,group\n" + "".join(rows))


def one_column_a_class(root: Path) -> None:
    rows = [
        f"{name};{int('dog' in names)};{int('cat' in names)};{split};7\n"
        for name, names, split in zip(NAMES, LABELS, SPLITS, strict=True)
    ]
    write(root / "labels.csv", "\ufefffile_name;dog;cat;split;group\r\n" + "".join(rows))


def tabs(root: Path) -> None:
    rows = [
        f"{name}\t{', '.join(names)}\t{split}\t7\n" for name, names, split in zip(NAMES, LABELS, SPLITS, strict=True)
    ]
    write(root / "labels.tsv", "Image Path\tTags\tSplit\tGroup\n" + "".join(rows))


def json_lists(root: Path) -> None:
    rows = [
        json.dumps({"image": name, "labels": names, "split": split, "group": 7})
        for name, names, split in zip(NAMES, LABELS, SPLITS, strict=True)
    ]
    write(root / "labels.jsonl", "\n".join(rows))


def json_flags(root: Path) -> None:
    rows = [
        json.dumps({"path": name, "cat": "cat" in names, "dog": float("dog" in names), "split": split, "group": "7"})
        for name, names, split in zip(NAMES, LABELS, SPLITS, strict=True)
    ]
    write(root / "metadata.jsonl", "\n".join(rows))


def parquet_lists(root: Path) -> None:
    table = pa.table({"path": NAMES, "labels": LABELS, "split": SPLITS, "group": [7.0] * 3})
    parquet.write_table(table, root / "labels.parquet")


def parquet_flags(root: Path) -> None:
    flags = {name: np.array([name in names for names in LABELS], np.int8) for name in ("cat", "dog")}
    parquet.write_table(pa.table({"path": NAMES, **flags, "split": SPLITS, "group": ["7"] * 3}), root / "labels.pq")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (one_column, "csv"),
        (one_column_a_class, "csv"),
        (tabs, "tsv"),
        (json_lists, "jsonl"),
        (json_flags, "jsonl"),
        (parquet_lists, "parquet"),
        (parquet_flags, "parquet"),
    ],
)
def test_every_kind_of_table_gives_the_same_labels_splits_and_groups(
    root: Path, make: Callable[[Path], None], name: str
) -> None:
    make(root)

    listing = read_listing(root)

    assert listing.format == name
    assert listing.root == root
    assert sorted(listing.classes) == ["cat", "dog"]
    assert labels(listing) == INTENDED
    assert splits(listing) == dict(zip(NAMES, ["train", "val", "test"], strict=True))
    assert {entry.group for entry in listing.entries} == {"7"}
    assert read_listing(root, format=name) == listing


@given(st.lists(st.sets(st.sampled_from("abcdef")), min_size=2, max_size=8), st.sampled_from("|;,"))
def test_labels_are_those_of_scikit_learn(
    tmp_path_factory: pytest.TempPathFactory, rows: list[set[str]], separator: str
) -> None:
    chosen = [*rows, {"a", "b"}]
    root = tmp_path_factory.mktemp("rows")
    pictures(root, *(f"{row:02}.bmp" for row in range(len(chosen))))
    cells = [separator.join(sorted(names)) for names in chosen]
    write(root / "x.csv", "path,labels\n" + "".join(f'{row:02}.bmp,"{cell}"\n' for row, cell in enumerate(cells)))

    listing = read_listing(root)

    reference = MultiLabelBinarizer()
    np.testing.assert_array_equal(multi_hot(listing), reference.fit_transform(chosen))
    assert listing.classes == tuple(reference.classes_)


@pytest.mark.parametrize(
    ("cells", "intended"),
    [
        (["haze primary", "clear primary", "clear"], [{"haze", "primary"}, {"clear", "primary"}, {"clear"}]),
        (["polar bear", "black bear", "sea lion"], [{"polar bear"}, {"black bear"}, {"sea lion"}]),
        (["polar bear|sea lion", "sea lion", ""], [{"polar bear", "sea lion"}, {"sea lion"}, set()]),
        (["\"['a b', 'c']\"", "['c']", "[]"], [{"a b", "c"}, {"c"}, set()]),
        (["a; b;", "a", "b|c; a"], [{"a; b;"}, {"a"}, {"b", "c; a"}]),
    ],
)
def test_the_separator_is_the_one_that_the_column_as_a_whole_suggests(
    root: Path, cells: list[str], intended: list[set[str]]
) -> None:
    rows = [f"{name},{cell}\n" for name, cell in zip(NAMES, cells, strict=True)]
    write(root / "labels.csv", "path,labels\n" + "".join(rows))

    assert list(labels(read_listing(root)).values()) == intended


def test_files_named_for_splits_are_read_together(root: Path) -> None:
    write(root / "train.csv", "path,cat,dog\na.jpg,1,1\n")
    write(root / "val.csv", "path,dog,cat\nnested/b b.png,0,0\n")
    write(root / "test.csv", "path,cat,dog\nnested/deep/ünï 猫.webp,0,1\n")

    listing = read_listing(root)

    assert labels(listing) == INTENDED
    assert splits(listing) == dict(zip(NAMES, ["train", "val", "test"], strict=True))


def test_a_tag_among_classes_is_a_class_and_an_unnamed_index_is_none(root: Path) -> None:
    write(root / "labels.csv", ",path,tag,car\n0,a.jpg,1,0\n1,nested/b b.png,0,1\n")

    listing = read_listing(root)

    assert listing.classes == ("tag", "car")
    assert labels(listing) == {"a.jpg": {"tag"}, "nested/b b.png": {"car"}}


def test_images_that_no_path_reaches_are_found_by_the_end_of_it(root: Path) -> None:
    write(root / "train.csv", "image_name,tags\nb b,cat\ndeep/ünï 猫,dog cat\n")

    assert labels(read_listing(root)) == {NAMES[1]: {"cat"}, NAMES[2]: {"cat", "dog"}}


def test_accents_and_backslashes_of_another_system_reach_the_same_file(root: Path) -> None:
    written = "nested\\deep\\" + unicodedata.normalize("NFD", "ünï 猫.webp")
    write(root / "labels.csv", f"path,labels\na.jpg,cat\n{written},dog\n")

    assert labels(read_listing(root)) == {NAMES[0]: {"cat"}, NAMES[2]: {"dog"}}


HEAD = "path,cat,dog\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "labels.csv: it is empty (0 bytes). Replace the file."),
        (
            "name,cat\nx,1\n",
            "labels.csv, row 1: none of the columns ['name', 'cat'] is the path of an image. Call one of them path.",
        ),
        ("path\na.jpg\n", "labels.csv, row 1: no column holds labels. Add a column labels, or a 0/1 column a class."),
        ("path,a,a\na.jpg,1,0\n", "labels.csv, row 1: two columns are called 'a'. Give each a name of its own."),
        (
            HEAD + "a.jpg,1,2\n",
            "labels.csv, row 2: column 'dog' holds '2', which is not 0 or 1. Mend it, take the column out, or write "
            "names into one column labels. --skip-bad (skip_bad=True) goes on without such images.",
        ),
        (
            HEAD + "a.jpg,1,0\n\na.jpg,1\n",
            "labels.csv, row 4: it has 2 cells, the header 3. Mend the row. "
            "--skip-bad (skip_bad=True) goes on without such images.",
        ),
        (
            HEAD + "a.jpg,1,0\nb.jpg,0,1\n",
            "labels.csv, row 3: 'b.jpg' is not there. Fix the path. "
            "--skip-bad (skip_bad=True) goes on without such images.",
        ),
        (
            HEAD + "a.jpg,1,0\na.jpg,0,1\n",
            "labels.csv, row 3: 'a.jpg' was listed before (labels.csv, row 2) with labels ['cat'], now ['dog']. Keep "
            "one of the rows. --skip-bad (skip_bad=True) goes on without such images.",
        ),
        (
            HEAD + '"a.jpg,1,0\n',
            "labels.csv, row 2: it is not valid CSV: unexpected end of data. Mend the quotes.",
        ),
        (
            HEAD + f"{'x' * 200_000},1,0\n",
            "labels.csv, row 2: it is not valid CSV: field larger than field limit (131072). Mend the quotes.",
        ),
        (HEAD + "a.jpg\0,1,0\n", "labels.csv, row 2: it holds a NUL byte. Save the file as text in UTF-8."),
        (
            HEAD,
            "{root}: it lists no image that can be used (csv).",
        ),
        (
            "path,labels\na.jpg,cat\n",
            "{root}: the images carry one class only, 'cat'; a classifier needs at least two classes (csv).",
        ),
        (
            "path,labels\na.jpg,\n",
            "{root}: the images carry no label at all; a classifier needs at least two classes (csv).",
        ),
    ],
)
def test_a_table_that_cannot_be_used_says_what_is_wrong_with_it(root: Path, text: str, sentence: str) -> None:
    write(root / "labels.csv", text)

    for format_name in ("csv", "auto"):
        with pytest.raises(BadData) as caught:
            read_listing(root, format=format_name)
        assert str(caught.value) == sentence.replace("{root}", str(root))


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("latin-1", "labels.csv, row 3: byte 0xfc is not UTF-8. Save the file as UTF-8."),
        ("utf-16", "labels.csv, row 1: byte 0xff is not UTF-8. Save the file as UTF-8."),
        ("utf-16-be", "labels.csv, row 1: it holds a NUL byte. Save the file as text in UTF-8."),
    ],
)
def test_another_encoding_is_named_by_its_first_byte(root: Path, encoding: str, sentence: str) -> None:
    text = "path,labels\na.jpg,cat\nü.jpg,dog\n" if encoding == "latin-1" else "path,labels\na.jpg,cat\n"
    (root / "labels.csv").write_bytes(text.encode(encoding))

    with pytest.raises(BadData) as caught:
        read_listing(root)

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"path": "a.jpg", ', "it is not JSON: Input data was truncated. Write one JSON object a line."),
        (
            '["a.jpg"]',
            "it is not what it should be: Expected `object`, got `array`. Write one JSON object a line.",
        ),
        ('{"path": "a.jpg"}', "it has other keys than the first row. Give all rows the same keys."),
        ('{"path": ["a.jpg"], "labels": []}', "column 'path' holds ['a.jpg'], which is no text. Mend it."),
        ('{"path": "a.jpg", "labels": {"x": 1}}', "its labels are {'x': 1}, neither text nor a list. Mend them."),
        ('{"path": "a.jpg", "labels": [[]]}', "the list of labels holds [], which is no name. Mend it."),
        (
            '{"path": "a.jpg", "labels": 1' + "0" * 5000 + "}",
            "it is not what it should be: Integer value out of range - at `$[...]`. Write one JSON object a line.",
        ),
        ('{"path": ' + "[" * 100_000, "it is nested too deeply. Write one JSON object a line."),
        (
            '{"path": "a.jpg", "labels": ["\\u0007"]}',
            "a label holds the character '\\x07', which cannot be shown: '\\x07'.",
        ),
    ],
)
def test_a_line_of_json_that_cannot_be_used_is_named(root: Path, line: str, sentence: str) -> None:
    good = '{"path": "a.jpg", "labels": ["cat", "dog"]}\n'
    write(root / "labels.jsonl", good + line + "\n")

    with pytest.raises(BadData) as caught:
        read_listing(root)

    assert (
        str(caught.value) == f"labels.jsonl, row 2: {sentence} --skip-bad (skip_bad=True) goes on without such images."
    )
    skipped = read_listing(root, skip_bad=True)
    assert [str(problem) for problem in skipped.problems] == [f"labels.jsonl, row 2: {sentence}"]
    assert labels(skipped) == {"a.jpg": {"cat", "dog"}}


def test_parquet_that_is_none_or_claims_too_much_is_refused(root: Path) -> None:
    (root / "labels.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(BadData, match=r"^labels\.parquet: it is not a Parquet file that can be read: 'Parquet magic"):
        read_listing(root)

    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000_001, np.int8)), ["a.jpg"])
    parquet.write_table(pa.table({"path": many, "labels": many}), root / "labels.parquet")
    with pytest.raises(BadData) as caught:
        read_listing(root)
    assert str(caught.value) == "labels.parquet: it has 5000001 rows; 5000000 are allowed."


def test_parquet_without_pyarrow_says_which_extra_brings_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet_lists(root)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(BadData) as caught:
        read_listing(root)

    assert str(caught.value) == "labels.parquet: Parquet needs pyarrow. Run: pip install 'mlc-search[parquet]'"


def test_two_manifests_that_no_split_tells_apart_are_both_named(root: Path) -> None:
    one_column(root)
    write(root / "other.csv", "path,labels\na.jpg,cat\n")

    with pytest.raises(BadData) as caught:
        read_listing(root)

    assert str(caught.value) == (
        f"{root}: labels.csv and other.csv are both a manifest (csv). Give the path of the one that is meant."
    )
    assert labels(read_listing(root / "labels.csv")) == INTENDED


def test_splits_over_other_classes_are_refused(root: Path) -> None:
    write(root / "train.csv", "path,cat,dog\na.jpg,1,1\n")
    write(root / "val.csv", "path,cat,cow\nnested/b b.png,0,0\n")

    with pytest.raises(BadData) as caught:
        read_listing(root)

    assert str(caught.value) == ("val.csv, row 1: its class columns are not those of train.csv. Give both the same.")
