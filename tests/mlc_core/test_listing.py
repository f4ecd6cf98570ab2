"""Rows are checked against the disk and each other, and become a listing or a sentence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlc_core import BadData
from mlc_core.data.listing import Entry, Problem, Row, first_of, listing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b b.jpg"):
        (folder / name).write_text("x")
    (folder / "empty.jpg").touch()
    (tmp_path / "secret.jpg").write_text("x")
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "out").symlink_to(tmp_path)
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    (folder / "round.jpg").symlink_to(folder / "round.jpg")
    return folder


def row(path: str, *labels: str, where: str = "x.csv, row 2", split: str = "", group: str = "") -> Row:
    return Row(path=path, labels=labels, where=where, split=split, group=group)


GOOD = row("sub/b b.jpg", "cat", "dog", where="x.csv, row 1")


def test_entries_come_by_path_with_sorted_labels_and_one_spelling(root: Path) -> None:
    rows = [
        row("./sub//b b.jpg", "dog", "cat", "dog", split=" Validation ", group="7"),
        row("in.jpg"),
        row("a.jpg", "cat", split="dev"),
    ]

    made = listing(root, rows, format="csv")

    assert made.root == root
    assert made.classes == ("cat", "dog")
    assert made.entries == (
        Entry(path="a.jpg", labels=(0,), where="x.csv, row 2", split="val"),
        Entry(path="in.jpg", labels=(), where="x.csv, row 2"),
        Entry(path="sub/b b.jpg", labels=(0, 1), where="x.csv, row 2", split="val", group="7"),
    )
    assert made.problems == ()


def test_given_classes_keep_their_order_and_those_without_image(root: Path) -> None:
    made = listing(root, [GOOD], format="csv", classes=["dog", "never", "cat"])

    assert made.classes == ("dog", "never", "cat")
    assert made.entries[0].labels == (0, 2)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(""), "no path is written. Write one, or take the row out."),
        (row("b.jpg"), "'b.jpg' is not there. Fix the path."),
        (row("a.jpg/c.jpg"), "'a.jpg/c.jpg' is not there. Fix the path."),
        (row("x" * 5000), f"'{'x' * 115}...' is not there. Fix the path."),
        (row("../secret.jpg"), "'../secret.jpg' leaves the data folder. Write a path below {root}/."),
        (row("sub/../a.jpg"), "'sub/../a.jpg' leaves the data folder. Write a path below {root}/."),
        (row("..\\secret.jpg"), "'..\\\\secret.jpg' leaves the data folder. Write a path below {root}/."),
        (row("/etc/passwd"), "'/etc/passwd' leaves the data folder. Write a path below {root}/."),
        (row("out.jpg"), "'out.jpg' is a link that leaves the data folder. Copy the file there."),
        (row("out/secret.jpg"), "'out/secret.jpg' is a link that leaves the data folder. Copy the file there."),
        (row("round.jpg"), "'round.jpg' is a link to nothing. Copy the file there."),
        (row("sub"), "'sub' is not a file. Fix the path."),
        (row("empty.jpg"), "'empty.jpg' is empty (0 bytes). Replace the file."),
        (row("a\0.jpg"), "the path holds the character '\\x00', which cannot be shown: 'a\\x00.jpg'. Rename the file."),
        (row("a.jpg", "\ud800"), "a label holds the character '\\ud800', which cannot be shown: '\\ud800'."),
        (row("a.jpg", " "), "a label is empty."),
        (row("a.jpg", "cat", split="holdout"), "split 'holdout' is not one of train, val, test."),
        (
            row("sub/b b.jpg", "cat"),
            "'sub/b b.jpg' was listed before (x.csv, row 1) with labels ['cat', 'dog'], now ['cat']. Keep one of the "
            "rows.",
        ),
        (
            row("sub/b b.jpg", "cat", "dog", split="test"),
            "'sub/b b.jpg' was listed before (x.csv, row 1) with split None, now 'test'. Keep one of the rows.",
        ),
        (
            row("sub/b b.jpg", "cat", "dog", group="7"),
            "'sub/b b.jpg' was listed before (x.csv, row 1) with group '', now '7'. Keep one of the rows.",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_can_be_skipped(root: Path, bad: Row, reason: str) -> None:
    sentence = f"x.csv, row 2: {reason.replace('{root}', str(root))}"

    with pytest.raises(BadData) as caught:
        listing(root, [GOOD, bad], format="csv")

    assert str(caught.value) == f"{sentence} --skip-bad (skip_bad=True) goes on without such images."
    skipped = listing(root, [GOOD, bad], format="csv", skip_bad=True)
    assert [str(problem) for problem in skipped.problems] == [sentence]
    assert [entry.path for entry in skipped.entries] == ["sub/b b.jpg"]


def test_a_label_outside_the_class_list_is_named_with_what_may_have_been_meant(root: Path) -> None:
    rows = [row("a.jpg", "dgo", where=f"x.csv, row {number}") for number in range(5)]

    skipped = listing(root, [GOOD, *rows], format="csv", classes=["cat", "dog"], skip_bad=True)

    sentence = "label 'dgo' is not in the class list."
    assert [problem.reason for problem in skipped.problems] == [f"{sentence} Did you mean 'dog'?"] * 3 + [sentence] * 2


def test_a_repeated_row_is_one_image(root: Path) -> None:
    made = listing(root, [GOOD, row("./sub/b b.jpg", "dog", "cat")], format="csv")

    assert [entry.where for entry in made.entries] == ["x.csv, row 1"]


@pytest.mark.parametrize(
    ("rows", "classes", "sentence"),
    [
        ([], None, "{root}: it lists no image that can be used (csv)."),
        (
            [row("b.jpg", "cat")],
            None,
            "{root}: it lists no image that can be used (csv). The first problem: x.csv, row 2: 'b.jpg' is not there. "
            "Fix the path.",
        ),
        (
            [row("a.jpg", "cat")],
            None,
            "{root}: the images carry one class only, 'cat'; a classifier needs at least two classes (csv).",
        ),
        ([GOOD], ["cat", "dog", "cat"], "{root}: two classes are called 'cat'. Give each a name of its own."),
        (
            [GOOD],
            ["cat", "dog", "x\x1b[2J"],
            "{root}: a class name holds the character '\\x1b', which cannot be shown: 'x\\x1b[2J'.",
        ),
        ([GOOD], ["cat", "dog", ""], "{root}: a class name is empty."),
    ],
)
def test_nothing_left_or_classes_that_are_none_cannot_be_skipped(
    root: Path, rows: Sequence[Row], classes: list[str] | None, sentence: str
) -> None:
    with pytest.raises(BadData) as caught:
        listing(root, rows, format="csv", classes=classes, skip_bad=True)

    assert str(caught.value) == sentence.replace("{root}", str(root))


def test_the_first_problem_is_spelled_and_the_others_are_counted() -> None:
    problems = [Problem("x.csv, row 3", "it is wrong."), Problem("y", "z"), Problem("y", "z")]

    assert first_of(problems) == (
        "x.csv, row 3: it is wrong. 2 more like it: mlc-search data check lists them. "
        "--skip-bad (skip_bad=True) goes on without such images."
    )


def test_as_many_unknown_labels_as_rows_take_no_time(root: Path) -> None:
    classes = [f"class number {number}" for number in range(2000)]
    rows = [row("a.jpg", f"clas number {number}") for number in range(5000)]

    start = time.process_time()
    made = listing(root, [row("sub/b b.jpg", classes[0]), *rows], format="csv", classes=classes, skip_bad=True)

    assert len(made.problems) == 5000
    assert time.process_time() - start < 5
