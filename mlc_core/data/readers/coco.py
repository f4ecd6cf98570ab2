"""COCO instances JSON: the labels of an image are the categories of its annotations.

Source: Lin et al. 2014, "Microsoft COCO"; the format at cocodataset.org, "Data format". Crowds count like single
objects. A category without annotation stays a class, an image without annotation has no label.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import msgspec

from mlc_core.data.listing import Problem, Row, quoted
from mlc_core.data.readers.files import File, Found, chosen, files_in, head_of, placed, root_of, text_of, tree
from mlc_core.errors import BadData

Id = int | str


class _Image(msgspec.Struct):
    id: Id
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: Id
    category_id: Id


class _Category(msgspec.Struct):
    id: Id
    name: str


class _Coco(msgspec.Struct):
    """The part of the format that speaks of labels; the decoder skips the polygons."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def fits(path: Path) -> bool:
    """Tell by content whether a path holds COCO JSON."""
    return any(_fits(file.path) for file in files_in(path, (".json",)))


def read(path: Path) -> Found:
    """Read one file, or ``annotations/instances_<split>.json`` for each split; images lie anywhere in the folder.

    Raises
    ------
    BadData
        A file is not such JSON.
    """
    root = root_of(path)
    # The published folders hold keypoints and captions of the same images beside the instances.
    named = any(file.path.name.startswith("instances_") for file in files_in(path, (".json",)))
    files = chosen(
        path,
        (".json",),
        lambda file: file.name.startswith("instances_") if named else _fits(file),
        what="COCO annotation file",
    )
    rows: list[Row] = []
    classes: dict[str, None] = {}  # an ordered set
    problems: list[Problem] = []
    for file in files:
        coco = _decode(file)
        names = {category.id: category.name for category in coco.categories}
        if len(set(names.values())) < len(coco.categories):
            raise BadData(f"{file.name}: two categories have one name or one id. Give each its own.")
        classes |= dict.fromkeys(names.values())
        rows_here, problems_here = _rows(file, coco, names)
        rows += rows_here
        problems += problems_here
    rows, lost = placed(rows, tree(root).images)
    return Found(root=root, rows=rows, classes=tuple(classes), problems=(*problems, *lost))


def _fits(path: Path) -> bool:
    keys = "info|licenses|images|annotations|categories|type|videos"
    return re.match(rf'\s*\{{\s*"({keys})"\s*:', head_of(path)) is not None


def _decode(file: File) -> _Coco:
    text = text_of(file)
    try:
        return msgspec.json.decode(text, type=_Coco)
    except RecursionError:
        raise BadData(f"{file.name}: it is nested too deeply. Give COCO JSON.") from None
    except msgspec.ValidationError as error:
        raise BadData(f"{file.name}: it is not COCO: {error}. Mend it there.") from None
    except msgspec.DecodeError as error:
        raise BadData(f"{file.name}: it is not JSON: {error}. Mend it, or copy it again.") from None


def _rows(file: File, coco: _Coco, names: dict[Id, str]) -> tuple[list[Row], list[Problem]]:
    known = {image.id for image in coco.images}
    labels: dict[Id, set[str]] = defaultdict(set)
    bad: dict[Id, str] = {}
    problems = []
    for number, annotation in enumerate(coco.annotations, start=1):
        if annotation.image_id not in known:
            where = f"{file.name}, annotation {number}"
            problems.append(
                Problem(where, f"its image {quoted(annotation.image_id)} is not listed. Add it, or take this out.")
            )
        elif annotation.category_id not in names:
            bad.setdefault(
                annotation.image_id,
                f"label {quoted(annotation.category_id)} (annotation {number}) is not in the class list.",
            )
        else:
            labels[annotation.image_id].add(names[annotation.category_id])
    rows = []
    for image in coco.images:
        where = f"{file.name}, image {quoted(image.id)}"
        if image.id not in known:
            problems.append(Problem(where, "another image has the same id. Give each its own."))
        elif image.id in bad:
            problems.append(Problem(where, bad[image.id]))
        else:
            rows.append(
                Row(path=image.file_name, labels=tuple(sorted(labels[image.id])), where=where, split=file.split)
            )
        known.discard(image.id)  # so that its second mention is seen
    return rows, problems
