"""Folders as labels: one a set of labels (``black_jeans/``), or one a class, with an image in several.

Which of the two it is shows the content: the same file in several folders means a folder a class; names made by
combining parts (`recur`) mean a folder a set; else it is a folder a class. Folders above that are all called train,
val or test are splits, and those below a label's folder mean nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mlc_core.data.listing import SPELLINGS, Problem, Row
from mlc_core.data.readers.files import Found, Tree, recur, tree
from mlc_core.errors import BadData

SEPARATORS: Final = ("+", ",", "&", "_", "-", " ")
COMPARED: Final = 2**16  # bytes: files of one name, one size and one beginning are one file

FolderFormat = Literal["label-folders", "class-folders"]


@dataclass(frozen=True, slots=True)
class _Image:
    path: str
    split: str
    folder: str
    rest: str  # the path below the label's folder


def which(path: Path) -> FolderFormat | None:
    """Tell by content what the folders mean; None where images lie in fewer than two."""
    if not path.is_dir():
        return None
    images, _ = _images(tree(path))
    folders = {image.folder for image in images}
    if len(folders) < 2:
        return None
    if any(len(same) > 1 for same in _same_files(path, images)):
        return "class-folders"
    return "class-folders" if _separator(folders) is None else "label-folders"


def read(path: Path, kind: FolderFormat) -> Found:
    """Read a folder of folders.

    Raises
    ------
    BadData
        It is no folder.
    """
    if not path.is_dir():
        raise BadData(f"{path}: it is not a folder of folders ({kind}). Give one.")
    below = tree(path)
    images, problems = _images(below)
    if kind == "class-folders":
        rows = [
            Row(
                path=same[0].path,
                labels=tuple(sorted({image.folder for image in same})),
                where=same[0].path,
                split=same[0].split,
            )
            for same in _same_files(path, images)
        ]
    else:
        separator = _separator({image.folder for image in images}) or _most_used({image.folder for image in images})
        rows = [
            Row(path=image.path, labels=_parts(image.folder, separator), where=image.path, split=image.split)
            for image in images
        ]
    return Found(root=path, rows=rows, problems=(*below.problems, *problems))


def _images(below: Tree) -> tuple[list[_Image], list[Problem]]:
    paths = below.images
    split_first = bool(paths) and all(
        path.count("/") >= 2 and path.split("/")[0].lower() in SPELLINGS for path in paths
    )
    images, problems = [], []
    for path in paths:
        split, _, inner = path.partition("/") if split_first else ("", "", path)
        folder, _, rest = inner.partition("/")
        if rest:
            images.append(_Image(path, split, folder, rest))
        else:
            problems.append(Problem(path, "it lies in no folder that says its labels. Move it into one."))
    return images, problems


def _same_files(root: Path, images: Sequence[_Image]) -> list[list[_Image]]:
    """Group what is one file in several folders; files that only share a name, as counters give, stay apart."""
    of_name: dict[tuple[str, str], list[_Image]] = defaultdict(list)
    for image in images:
        of_name[image.split, image.rest].append(image)
    groups = []
    for same in of_name.values():
        if len(same) == 1:
            groups.append(same)
            continue
        of_content: dict[tuple[int, bytes], list[_Image]] = defaultdict(list)
        for image in same:
            of_content[_beginning(root / image.path)].append(image)
        groups += of_content.values()
    return groups


def _beginning(path: Path) -> tuple[int, bytes]:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size, file.read(COMPARED)
    except OSError:
        return -1, bytes(path)  # it stays alone, and the listing says what is wrong with it


def _separator(folders: set[str]) -> str | None:
    return next((one for one in SEPARATORS if recur([_parts(folder, one) for folder in sorted(folders)])), None)


def _most_used(folders: set[str]) -> str:
    return max(SEPARATORS, key=lambda one: sum(one in folder for folder in folders))


def _parts(folder: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in folder.split(separator) if part.strip())
