"""A manifest: a table with the path of an image a row, and its labels in one column or in one 0/1 column a class.

Not here: how a table lies on disk (tables.py).
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Final

from mlc_core.data.listing import Problem, Row, quoted
from mlc_core.data.readers.files import File, Found, chosen, files_in, head_of, placed, recur, root_of, text_of, tree
from mlc_core.data.readers.tables import Table, delimited, first_object, json_lines, parquet
from mlc_core.errors import BadData

# Spellings of the columns, in lower case and without what is no letter or digit; the first that is there counts.
PATHS: Final = (
    "path", "filepath", "file", "filename", "image", "imagepath", "imagefile", "imagefilename", "imagename", "img",
    "imgpath", "imgname", "imageid", "imageindex",
)  # fmt: skip
LABELS: Final = (
    "labels", "label", "tags", "tag", "classes", "class", "categories", "category", "findinglabels",
)  # fmt: skip
SPLIT: Final = ("split", "subset")
GROUP: Final = ("group",)

DELIMITERS: Final = {"csv": (",", ";"), "tsv": ("\t",)}
DELIMITED: Final = (".csv", ".tsv", ".tab")
SUFFIXES: Final = {
    "csv": DELIMITED,
    "tsv": DELIMITED,
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet", ".pq"),
}
SEPARATORS: Final = ("|", ";", ",")  # the first of them that occurs; else a space, where the words recur

# 0 and 1 as pandas and spreadsheets write them; by equality also what JSON and Parquet hold.
FLAGS: Final[dict[object, bool]] = {
    **dict.fromkeys(("0", "0.0", "false", "False", "FALSE", 0), False),
    **dict.fromkeys(("1", "1.0", "true", "True", "TRUE", 1), True),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row what stands."""

    path: int
    labels: int | None  # None: one 0/1 column a class
    classes: tuple[int, ...]
    split: int | None
    group: int | None


@dataclass(frozen=True, slots=True)
class _Record:
    """A row of a manifest whose labels are not yet separated."""

    where: str
    path: str
    labels: object  # a cell, or the names of the classes whose columns are 1
    split: str
    group: str


class _Unreadable(Exception):
    """A row does not say what it should; the text says why."""


def fits(path: Path, kind: str) -> bool:
    """Tell by content whether a path holds a manifest of that kind: csv, tsv, jsonl or parquet."""
    return any(_fits(file.path, kind) for file in files_in(path, SUFFIXES[kind]))


def read(path: Path, kind: str) -> Found:
    """Read a manifest, or one for each split.

    Paths are relative to the data folder. Where not one of them is there, each is looked for anywhere in it, maybe
    without ``.jpg``: the images of many a published table lie in folders that it does not name.

    Raises
    ------
    BadData
        A file is not such a table.
    """
    root = root_of(path)
    files = chosen(path, SUFFIXES[kind], lambda file: _fits(file, kind), what=f"manifest ({kind})")
    records: list[_Record] = []
    problems: list[Problem] = []
    classes: tuple[str, ...] | None = None
    for file in files:
        table = _table(file, kind)
        problems += table.problems
        columns = _columns(table)
        names = None if columns.labels is not None else tuple(table.header[column] for column in columns.classes)
        if file is not files[0] and (names and set(names)) != (classes and set(classes)):
            raise BadData(
                f"{file.name}, row 1: its class columns are not those of {files[0].name}. Give both the same."
            )
        classes = classes or names
        for where, cells in table.rows:
            try:
                records.append(_record(table, columns, where, cells))
            except _Unreadable as error:
                problems.append(Problem(where, str(error)))
    rows, unreadable = _rows(records)
    problems += unreadable
    if rows and not any(os.path.lexists(root / row.path) for row in rows):
        rows, lost = placed(rows, tree(root).images)
        problems += lost
    return Found(root=root, rows=rows, classes=classes, problems=tuple(problems))


def _fits(path: Path, kind: str) -> bool:
    head = head_of(path)
    if kind == "parquet":
        return head.startswith("PAR1")
    if kind == "jsonl":
        header: Sequence[str] = first_object(head)
    else:
        header = max((_first_record(head, delimiter) for delimiter in DELIMITERS[kind]), key=len)
    names = _spelled(header)
    return len(header) > 1 and _first(names, PATHS) is not None and "labelname" not in names  # that is Open Images


def _first_record(head: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(head.splitlines(), delimiter=delimiter), [])
    except csv.Error:
        return []


def _table(file: File, kind: str) -> Table:
    match kind:
        case "jsonl":
            return json_lines(file)
        case "parquet":
            return parquet(file)
        case _:
            line = text_of(file).partition("\n")[0]
            return delimited(file, max(DELIMITERS[kind], key=lambda delimiter: len(_first_record(line, delimiter))))


def _spelled(header: Iterable[str]) -> dict[str, int]:
    return {re.sub("[^a-z0-9]", "", name.lower()): column for column, name in reversed(list(enumerate(header)))}


def _first(names: dict[str, int], spellings: Sequence[str]) -> int | None:
    return next((names[name] for name in spellings if name in names), None)


def _columns(table: Table) -> Columns:
    """Find out by the header, and by the first row, which column is what."""
    names = _spelled(table.header)
    path, split, group = (_first(names, spellings) for spellings in (PATHS, SPLIT, GROUP))
    if path is None:
        raise BadData(
            f"{table.file.name}, row 1: none of the columns {quoted(list(table.header))} is the path of an image. "
            "Call one of them path."
        )
    rest = tuple(
        column
        for column, name in enumerate(table.header)
        if column not in (path, split, group) and (column or name)  # pandas writes its index without a name
    )
    if not rest:
        raise BadData(
            f"{table.file.name}, row 1: no column holds labels. Add a column labels, or a 0/1 column a class."
        )
    labels = _first(names, LABELS)
    if labels is not None and len(rest) > 1 and table.rows:
        first = table.rows[0][1]
        if all(_flag(first[column]) is not None for column in rest):
            labels = None  # a class that is called tag, among other classes
    return Columns(path, labels, rest, split, group)


def _flag(cell: object) -> bool | None:
    return FLAGS.get(cell) if isinstance(cell, str | int | float) else None


def _record(table: Table, columns: Columns, where: str, cells: Sequence[object]) -> _Record:
    path, split, group = (
        "" if column is None else _text(table, column, cells[column])
        for column in (columns.path, columns.split, columns.group)
    )
    split = split or table.file.split
    if columns.labels is not None:
        return _Record(where, path, cells[columns.labels], split, group)
    try:
        flags = [FLAGS[cells[column]] for column in columns.classes]
    except (KeyError, TypeError):
        column = next(column for column in columns.classes if _flag(cells[column]) is None)
        raise _Unreadable(
            f"column {quoted(table.header[column])} holds {quoted(cells[column])}, which is not 0 or 1. Mend it, take "
            "the column out, or write names into one column labels."
        ) from None
    return _Record(where, path, [table.header[column] for column in compress(columns.classes, flags)], split, group)


def _text(table: Table, column: int, cell: object) -> str:
    """Take a cell as text; numbers, as groups and names often are, too."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():  # pandas makes floats of integers where one is missing
        cell = int(cell)
    if isinstance(cell, bool) or not isinstance(cell, str | int):
        raise _Unreadable(f"column {quoted(table.header[column])} holds {quoted(cell)}, which is no text. Mend it.")
    return str(cell)


def _rows(records: Sequence[_Record]) -> tuple[list[Row], list[Problem]]:
    """Separate the labels, all in the one way that the column as a whole suggests."""
    separator = _separator({record.labels for record in records if isinstance(record.labels, str)})
    rows, problems = [], []
    for record in records:
        try:
            labels = tuple(_labels(record.labels, separator))
        except _Unreadable as error:
            problems.append(Problem(record.where, str(error)))
        else:
            rows.append(
                Row(path=record.path, labels=labels, where=record.where, split=record.split, group=record.group)
            )
    return rows, problems


def _separator(cells: set[str]) -> str | None:
    """Choose what stands between labels; None where a cell is one label."""
    for separator in SEPARATORS:
        if any(separator in cell for cell in cells):
            return separator
    return " " if recur([cell.split() for cell in cells if cell.strip()]) else None


def _labels(cell: object, separator: str | None) -> Iterator[str]:
    match cell:
        case None:
            return
        case list():
            for name in cell:
                if isinstance(name, bool) or not isinstance(name, str | int):
                    raise _Unreadable(f"the list of labels holds {quoted(name)}, which is no name. Mend it.")
                yield str(name)
        case str():
            text = cell.strip()
            listed = text.startswith("[") and text.endswith("]")  # a list of Python, as pandas writes it into CSV
            text = text[1:-1] if listed else text
            for part in text.split(separator) if separator else [text]:
                if name := part.strip().strip("'\"" if listed else ""):
                    yield name
        case int() if not isinstance(cell, bool):
            yield str(cell)
        case _:
            raise _Unreadable(f"its labels are {quoted(cell)}, neither text nor a list. Mend them.")
