"""Open Images: a CSV row says that one image shows, or does not show, one class.

Source: Kuznetsova et al. 2020, "The Open Images Dataset V4"; the format at storage.googleapis.com/openimages.
A confidence above 0 is a label. Files of one split (of people, of boxes) add up. The names of classes are those of a
``class-descriptions`` file in the same folder, else what LabelName holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mlc_core.data.listing import Problem, Row, quoted
from mlc_core.data.readers.files import File, Found, files_in, head_of, placed, root_of, text_of, tree
from mlc_core.data.readers.tables import delimited, records
from mlc_core.errors import BadData

COLUMNS: Final = ("ImageID", "LabelName", "Confidence")
DESCRIPTIONS: Final = "class-descriptions"


def fits(path: Path) -> bool:
    """Tell by content whether a path holds a file of image labels."""
    return any(_fits(file.path) for file in files_in(path, (".csv",)))


def read(path: Path) -> Found:
    """Read one file, or those of a folder, with splits by their names; images lie anywhere in the folder.

    Raises
    ------
    BadData
        A file is not such CSV.
    """
    root = root_of(path)
    files = files_in(path, (".csv",))
    if path.is_dir():
        files = [file for file in files if _fits(file.path)]
    if not files:
        raise BadData(f"{path}: it holds no CSV file with the columns {', '.join(COLUMNS)} (openimages).")
    if len(files) == 1:
        files = [replace(files[0], split="")]
    statements = _Statements()
    for file in files:
        statements.add(file)
    names = _readable(statements.classes(), _names(path if path.is_dir() else path.parent))
    rows, lost = placed(list(statements.rows(names)), tree(root).images)
    classes = tuple(sorted(names.values()))
    return Found(root=root, rows=rows, classes=classes, problems=(*statements.problems, *lost))


class _Statements:
    """What files say, by split and image."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._said: dict[tuple[str, str], dict[str, bool]] = {}  # of each class, whether it is there
        self._first: dict[tuple[str, str], str] = {}
        self._bad: set[tuple[str, str]] = set()

    def add(self, file: File) -> None:
        """Add what one file says."""
        table = delimited(file, ",")
        if absent := [name for name in COLUMNS if name not in table.header]:
            raise BadData(f"{file.name}, row 1: it has no column {absent[0]}. Give Open Images' image labels.")
        self.problems += table.problems
        columns = [table.header.index(name) for name in COLUMNS]
        for where, cells in table.rows:
            image, label, confidence = (str(cells[column]).strip() for column in columns)
            key = file.split, image
            self._first.setdefault(key, where)
            said = self._said.setdefault(key, {})
            there = _positive(confidence)
            if there is None:
                self._refuse(key, where, f"confidence {quoted(confidence)} is not a number from 0 to 1. Mend it.")
            elif said.setdefault(label, there) != there:
                self._refuse(key, where, f"{quoted(label)} is there by one row, not by another. Keep one of them.")

    def classes(self) -> list[str]:
        """All classes that something is said of, by their LabelName."""
        return sorted({label for said in self._said.values() for label in said})

    def rows(self, names: Mapping[str, str]) -> Iterator[Row]:
        """Rows of the images of which everything could be read."""
        for key, said in self._said.items():
            if key not in self._bad:
                labels = tuple(names.get(label, label) for label, there in said.items() if there)
                yield Row(path=key[1], labels=labels, where=self._first[key], split=key[0])

    def _refuse(self, key: tuple[str, str], where: str, reason: str) -> None:
        self._bad.add(key)
        self.problems.append(Problem(where, reason))


def _fits(path: Path) -> bool:
    header = head_of(path).partition("\n")[0].strip().split(",")
    return set(COLUMNS) <= set(header)


def _positive(confidence: str) -> bool | None:
    try:
        number = float(confidence)
    except ValueError:
        return None
    return number > 0 if 0 <= number <= 1 else None


def _names(folder: Path) -> dict[str, str] | None:
    """Read the names of classes, where a file of them is there."""
    file = next((file for file in files_in(folder, (".csv",)) if DESCRIPTIONS in file.path.name), None)
    if file is None:
        return None
    names = {}
    for where, cells in records(file, text_of(file), ","):
        if len(cells) != 2:
            raise BadData(f"{where}: it has {len(cells)} cells, not a LabelName and a name. Mend the row.")
        names[cells[0]] = cells[1].strip()
    return names


def _readable(used: list[str], names: Mapping[str, str] | None) -> dict[str, str]:
    """Name the classes; two of one name are told apart by their LabelName, one without a name is no class."""
    if names is None:
        return {label: label for label in used}
    known = {label: names[label] for label in used if label in names}
    counts = Counter(known.values())
    return {label: f"{name} ({label})" if counts[name] > 1 else name for label, name in known.items()}
