"""The ground that all formats stand on: text from a file, the files below a folder, an image found by its name.

Not here: what a file says (one file a format); whether an image can be used (listing.py, store.py).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from mlc_core.data.listing import SPELLINGS, Problem, Row, quoted
from mlc_core.errors import BadData

IMAGES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp"})
HEAD: Final = 2**16  # bytes; so much of a file tells its format
MOST_FILES: Final = 100  # of one kind in a folder; more of them are one an image, not one for all


class BadFile(BadData):
    """A file cannot be used; where it is one of many, the others may be."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.problem = Problem(where, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a format says, not yet checked."""

    root: Path
    rows: Sequence[Row]
    classes: tuple[str, ...] | None = None  # None: those that occur
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A file that may hold labels."""

    path: Path
    name: str  # relative to the data folder, as an error names it
    split: str = ""  # that its name speaks of


@dataclass(frozen=True, slots=True)
class Tree:
    """The files below a folder, relative to it, sorted; without hidden ones and what lies behind links to folders."""

    files: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def images(self) -> list[str]:
        """Those whose name ends like an image's."""
        return [path for path in self.files if is_image(path)]


def is_image(path: str) -> bool:
    """Tell by the end of the name."""
    return os.path.splitext(path)[1].lower() in IMAGES  # noqa: PTH122 - a tenth of the time


def tree(root: Path) -> Tree:
    """Walk a folder, asking the disk once a folder."""
    files: list[str] = []
    problems: list[Problem] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/")
                    elif entry.is_symlink() and entry.is_dir():  # followed, it might lead out, or round in a circle
                        problems.append(Problem(path, "is a link to a folder, which is not followed. Copy the folder."))
                    else:
                        files.append(path)
        except OSError as error:
            problems.append(Problem(folder or str(root), f"cannot be read: {error.strerror}."))
    return Tree(tuple(sorted(files)), tuple(sorted(problems, key=str)))


def bytes_of(file: File) -> bytes:
    """Read a whole file.

    Raises
    ------
    BadFile
        Where it is not there, or not a file.
    """
    try:
        if not file.path.is_file():  # opening a pipe would wait for ever
            there = "is no file" if file.path.exists() else "is not there"
            raise BadFile(file.name, f"it {there}. Fix the path.")
        return file.path.read_bytes()
    except OSError as error:
        raise BadFile(file.name, f"it cannot be read: {error.strerror}.") from None


def text_of(file: File, *, empty: bool = False) -> str:
    """Read text in UTF-8, with or without a byte order mark.

    Parameters
    ----------
    empty : bool
        Whether nothing is a text as well.

    Raises
    ------
    BadFile
        Where it cannot be read or is something else, naming the row.
    """
    data = bytes_of(file)
    if not data and not empty:
        raise BadFile(file.name, "it is empty (0 bytes). Replace the file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{file.name}, row {data.count(10, 0, error.start) + 1}"  # 10: the end of a line
        raise BadFile(where, f"byte 0x{data[error.start]:02x} is not UTF-8. Save the file as UTF-8.") from None
    if "\0" in text:
        where = f"{file.name}, row {text.count(chr(10), 0, text.index(chr(0))) + 1}"
        raise BadFile(where, "it holds a NUL byte. Save the file as text in UTF-8.")
    return text


def head_of(path: Path) -> str:
    """Read the first HEAD bytes, whatever they are, to tell a format; nothing where that is impossible."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(HEAD).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def split_in(name: str) -> str:
    """Find the one split that a file's or folder's name speaks of: ``instances_train2017`` is train; else empty."""
    splits = {SPELLINGS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in SPELLINGS}
    return splits.pop() if len(splits) == 1 else ""


def split_above(path: str) -> str:
    """Find the split that the outermost folder of those that speak of one speaks of."""
    return next((split for folder in PurePosixPath(path).parts[:-1] if (split := split_in(folder))), "")


def root_of(path: Path) -> Path:
    """Name the data folder that a given path means: itself, or a file's folder, above ``annotations``."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name.lower() == "annotations" else path.parent


def files_in(path: Path, suffixes: Collection[str] = ()) -> list[File]:
    """List what may hold labels: the given file, or files at the top, in ``annotations`` and in a split's folder."""
    if not path.is_dir():
        return [File(path, path.name)]
    top, folders = _scan(path, suffixes)
    files = [File(path / name, name, split_in(name)) for name in top]
    for folder in folders:
        above = SPELLINGS.get(folder.lower(), "")
        if above or folder.lower() == "annotations":
            inner, _ = _scan(path / folder, suffixes)
            files += [File(path / folder / name, f"{folder}/{name}", above or split_in(name)) for name in inner]
    return files


def _scan(folder: Path, suffixes: Collection[str]) -> tuple[list[str], list[str]]:
    """Name the files of these kinds, and the folders."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if os.path.splitext(entry.name)[1].lower() in suffixes:  # noqa: PTH122 - a tenth of the time
                    files += [entry.name] if entry.is_file() else []
                elif entry.is_dir():
                    folders.append(entry.name)
    except OSError as error:
        raise BadData(f"{folder}: it cannot be read: {error.strerror}.") from None
    return sorted(files) if len(files) <= MOST_FILES else [], sorted(folders)


def chosen(path: Path, suffixes: Collection[str], fits: Callable[[Path], bool], *, what: str) -> list[File]:
    """Choose the files that hold the labels: one, or one for each of several splits.

    Raises
    ------
    BadData
        Where there is none, or where nothing says which of several is meant.
    """
    files = files_in(path, suffixes)
    if path.is_dir() and len(files) > 1:
        files = [file for file in files if fits(file.path)]
    if not files:
        raise BadData(f"{path}: it holds no {what}.")
    if len(files) == 1:
        return [replace(files[0], split="")]
    splits = Counter(file.split for file in files)
    if splits[""] or max(splits.values()) > 1:
        names = " and ".join(file.name for file in files[:2])
        raise BadData(f"{path}: {names} are both a {what}. Give the path of the one that is meant.")
    return files


def placed(rows: Sequence[Row], images: Iterable[str]) -> tuple[list[Row], list[Problem]]:
    """Say where images lie of which a format gives the end of the path, maybe without ``.jpg``.

    An image that is not found keeps its path as written; one that may be several is a problem, unless the folders
    speak of splits and only one lies in the row's.
    """
    ends: dict[str, list[str]] = {_one_spelling(row.path): [] for row in rows}
    for path in images:
        spelled = _one_spelling(path)
        for tail in (*_tails(spelled), *_tails(os.path.splitext(spelled)[0])):  # noqa: PTH122 - a tenth of the time
            if tail in ends:
                ends[tail].append(path)
    narrowed: dict[tuple[str, str], list[str]] = {}
    found, problems = [], []
    for row in rows:
        key = _one_spelling(row.path), row.split
        if key not in narrowed:
            narrowed[key] = _narrowed(*key, ends[key[0]])
        match narrowed[key]:
            case []:
                found.append(row)
            case [path]:
                found.append(replace(row, path=path))
            case [path, other, *_]:
                either = f"{quoted(path)} or {quoted(other)}"
                problems.append(Problem(row.where, f"{quoted(row.path)} may be {either}. Write the whole path."))
    return found, problems


def _tails(path: str) -> Iterator[str]:
    start = 0
    while True:
        yield path[start:]
        start = path.find("/", start) + 1
        if not start:
            return


def _narrowed(end: str, split: str, several: list[str]) -> list[str]:
    """Prefer the image of exactly this path, then the one in a folder of the split."""
    if whole := [path for path in several if _one_spelling(path) == end]:
        return whole
    if len(several) > 1 and split:
        return [path for path in several if split_above(path) == split] or several
    return several


def recur(names: Collection[Sequence[str]]) -> bool:
    """Tell whether names that consist of parts are made by combining the parts.

    So it is where a part occurs in two names and the parts are no more than the names, or half of them recur:
    black jeans, blue dress, blue jeans; but not polar bear, black bear, sea lion.
    """
    if all(len(parts) < 2 for parts in names):
        return False
    counts = Counter(part for parts in names for part in set(parts))
    again = sum(count > 1 for count in counts.values())
    return again > 0 and (len(counts) <= len(names) or 2 * again >= len(counts))


def _one_spelling(path: str) -> str:
    """Write accents in one of the two ways of Unicode, and folders as a disk here does."""
    return path if path.isascii() and "\\" not in path else unicodedata.normalize("NFC", path.replace("\\", "/"))
