"""What is known of a data set before an image is opened: its files, their labels, what was said of splits and groups.

Not here: how a format spells it (readers/); what is inside the files (store.py).
"""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from mlc_core.errors import BadData, did_you_mean

SplitName = Literal["train", "val", "test"]
SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)

SPELLINGS: Final[Mapping[str, SplitName]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

HINTS: Final = 3  # that many unknown labels are compared with the class list, for what may have been meant
LONGEST: Final = 120  # characters of a file's own words that an error repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a format says of one image, not yet checked."""

    path: str  # as written, relative to the root
    labels: tuple[str, ...]  # names
    where: str  # who says so, as an error names it: "labels.csv, row 17"
    split: str = ""  # as written; empty where nothing is said
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of a data set."""

    path: str  # relative to the listing's root, with "/" between folders
    labels: tuple[int, ...]  # indices into the listing's classes, ascending
    where: str
    split: SplitName | None = None
    group: str | None = None  # images of one group stay in one split


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one row or file cannot be used."""

    where: str
    reason: str  # a sentence that says what is wrong and what to do

    def __str__(self) -> str:
        """As an error says it."""
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A data set's images, by path, no path twice."""

    root: Path  # absolute, without symbolic links
    format: str
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()  # of what was left out


def listing(
    root: Path,
    rows: Iterable[Row],
    *,
    format: str,  # noqa: A002 - the word of the command line
    classes: Sequence[str] | None = None,
    problems: Iterable[Problem] = (),
    skip_bad: bool = False,
) -> Listing:
    """Check rows against the disk and each other.

    Parameters
    ----------
    root : Path
        The folder that no path may leave.
    classes : sequence of str, optional
        The names that are known, in their order; by default those that occur, sorted.
    problems : iterable of Problem
        What the reader itself could not use.
    skip_bad : bool
        Leave out what cannot be used, and say so in `Listing.problems`, instead of raising.

    Raises
    ------
    BadData
        Naming the first file and row that cannot be used, and how many more there are; or where nothing, or one
        class only, is left.
    """
    top = Path(os.path.realpath(root))
    found = list(problems)
    taken: dict[str, tuple[Row, SplitName | None]] = {}
    names_of, inside = _Names(classes), _Inside(top)
    for row in rows:
        try:
            names_of.check(row.labels)
            path = inside.check(row.path)
            split = _split(row.split)
            if path in taken:
                _same(row, split, *taken[path])
        except _Unusable as error:
            found.append(Problem(row.where, str(error)))
        else:
            taken.setdefault(path, (row, split))
    if found and not skip_bad:
        raise BadData(first_of(found))
    if not taken:
        raise BadData(f"{root}: it lists no image that can be used ({format}).{_because(found)}")
    names = (
        tuple(classes) if classes is not None else tuple(sorted({n for row, _ in taken.values() for n in row.labels}))
    )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadData(f"{root}: two classes are called {quoted(twice[0])}. Give each a name of its own.")
    if wrong := next((reason for name in names if (reason := unprintable(name))), ""):
        raise BadData(f"{root}: a class name {wrong}.")
    if len(names) < 2:
        only = f"one class only, {quoted(names[0])}" if names else "no label at all"
        raise BadData(f"{root}: the images carry {only}; a classifier needs at least two classes ({format}).")
    index = {name: number for number, name in enumerate(names)}
    entries = tuple(
        Entry(
            path=path,
            labels=tuple(sorted({index[name] for name in row.labels})),
            where=row.where,
            split=split,
            group=row.group or None,
        )
        for path, (row, split) in sorted(taken.items())
    )
    return Listing(root=top, format=format, classes=names, entries=entries, problems=tuple(found))


def first_of(problems: Sequence[Problem]) -> str:
    """Spell the first problem, how many more there are, and how to see or skip them."""
    more = f" {len(problems) - 1} more like it: mlc-search data check lists them." if len(problems) > 1 else ""
    return f"{problems[0]}{more} --skip-bad (skip_bad=True) goes on without such images."


def quoted(text: object) -> str:
    """Spell what a file says within quotes, at most a line of it, control characters escaped."""
    spelled = repr(text)
    return spelled if len(spelled) <= LONGEST else f"{spelled[: LONGEST - 4]}...{spelled[-1]}"


def unprintable(name: str) -> str:
    """Say what keeps a name from being shown or stored, as the end of a sentence; empty where nothing does."""
    if not name.strip():
        return "is empty"
    bad = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs")), "") if not name.isprintable() else ""
    return f"holds the character {bad!r}, which cannot be shown: {quoted(name)}" if bad else ""


class _Unusable(Exception):
    """A row cannot be used; the text says why."""


class _Names:
    """Checks that labels are in the class list, where there is one, and that they can be shown."""

    def __init__(self, classes: Sequence[str] | None) -> None:
        self._known = None if classes is None else set(classes)
        self._fine = set(classes or ())
        self._hints = HINTS

    def check(self, labels: Sequence[str]) -> None:
        for name in labels:
            if name in self._fine:
                continue
            if self._known is not None:
                raise _Unusable(f"label {quoted(name)} is not in the class list.{self._hint(name, self._known)}")
            if wrong := unprintable(name):
                raise _Unusable(f"a label {wrong}.")
            self._fine.add(name)

    def _hint(self, name: str, known: Iterable[str]) -> str:
        """Guess what was meant, but not for every one of 100,000 rows."""
        self._hints -= 1
        return did_you_mean(name, known) if self._hints >= 0 and len(name) <= LONGEST else ""


class _Inside:
    """Checks that files are there, below one folder, also once symbolic links are followed."""

    def __init__(self, top: Path) -> None:
        self._below = os.path.join(top, "")  # noqa: PTH118 - it ends in a slash, which a Path cannot
        self._folders: dict[str, str] = {}  # real paths of folders: asked once, not for each of 100,000 images

    def check(self, written: str) -> str:
        """Return the path in its one spelling."""
        if not written.strip():
            raise _Unusable("no path is written. Write one, or take the row out.")
        if wrong := unprintable(written):
            raise _Unusable(f"the path {wrong}. Rename the file.")
        for path in _spellings(written):
            if path.startswith("/") or ".." in path.split("/"):
                raise _Unusable(f"{quoted(written)} leaves the data folder. Write a path below {self._below}.")
            path = posixpath.normpath(path)  # noqa: PLW2901 - the same path
            try:
                kind = os.lstat(self._below + path)
            except (OSError, ValueError):
                continue
            self._usable(written, path, kind)
            return path
        raise _Unusable(f"{quoted(written)} is not there. Fix the path.")

    def _usable(self, written: str, path: str, kind: os.stat_result) -> None:
        whole = self._below + path
        folder = whole.rpartition("/")[0]
        if folder not in self._folders:
            self._folders[folder] = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118
        real = self._folders[folder]
        if stat.S_ISLNK(kind.st_mode):
            real = os.path.realpath(whole)
            try:
                kind = os.stat(real)  # noqa: PTH116 - as lstat above
            except OSError:
                raise _Unusable(f"{quoted(written)} is a link to nothing. Copy the file there.") from None
        if not real.startswith(self._below):
            raise _Unusable(f"{quoted(written)} is a link that leaves the data folder. Copy the file there.")
        if not stat.S_ISREG(kind.st_mode):
            raise _Unusable(f"{quoted(written)} is not a file. Fix the path.")
        if kind.st_size == 0:
            raise _Unusable(f"{quoted(written)} is empty (0 bytes). Replace the file.")


def _spellings(written: str) -> Iterator[str]:
    """Spell a path as it was written, and as another system would have: its accents, its slashes."""
    yield written
    if "\\" in written or not written.isascii():
        yield written.replace("\\", "/")
        for form in ("NFC", "NFD"):
            yield unicodedata.normalize(form, written.replace("\\", "/"))


def _split(written: str) -> SplitName | None:
    word = written.strip().lower()
    if not word:
        return None
    if word not in SPELLINGS:
        raise _Unusable(f"split {quoted(written)} is not one of {', '.join(SPLITS)}.")
    return SPELLINGS[word]


def _same(row: Row, split: SplitName | None, first: Row, first_split: SplitName | None) -> None:
    """Refuse a second row of an image that says something else; a mere repetition is left out silently."""
    for what, now, before in (
        ("labels", sorted(set(row.labels)), sorted(set(first.labels))),
        ("split", split, first_split),
        ("group", row.group, first.group),
    ):
        if now != before:
            raise _Unusable(
                f"{quoted(row.path)} was listed before ({first.where}) with {what} {quoted(before)}, "
                f"now {quoted(now)}. Keep one of the rows."
            )


def _because(found: Sequence[Problem]) -> str:
    return f" The first problem: {found[0]}" if found else ""
