"""YOLO text labels: beside each image, or in ``labels`` where it lies in ``images``, a line an object.

Source: docs.ultralytics.com, "Object Detection Datasets Overview". The first word of a line is the index of a class;
what follows (a box, a polygon, nothing) says where it is, not what. An empty file, or none, is an image without label.
The names come from a YAML file with ``names``, else from ``classes.txt`` or ``obj.names``; the paths in the YAML
are not used: folders called train, val, test give the splits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mlc_core.data.listing import Problem, Row, quoted
from mlc_core.data.readers.files import BadFile, File, Found, Tree, head_of, root_of, split_above, text_of, tree
from mlc_core.errors import BadData

NAMES: Final = ("classes.txt", "obj.names", "predefined_classes.txt")
YAML: Final = (".yaml", ".yml")
LONGEST: Final = 2**18  # characters; of names, the thousands of classes of any published set are less
DEEPEST: Final = 1000  # brackets; the time that PyYAML takes grows with their square
LOOKED_AT: Final = 20  # label files, to tell the format


def fits(path: Path) -> bool:
    """Tell by content whether a path holds YOLO labels."""
    if path.is_file():
        return path.suffix.lower() in YAML and "names:" in head_of(path)
    below = tree(path)
    files = set(below.files)
    labels = [label for image in below.images if (label := _label_of(image)) in files][:LOOKED_AT]
    heads = [head_of(path / label).split("\n")[0].split() for label in labels]
    looks = [words for words in heads if words]
    if not looks:  # no image has an object, or none has a label file
        return any("labels" in label.split("/") for label in labels)
    return all(map(_fits, looks))


def read(path: Path) -> Found:
    """Read a folder, or the one that a YAML file lies in.

    Raises
    ------
    BadData
        Nothing names the classes.
    """
    root = root_of(path)
    below = tree(root)
    names = _names(root, below, path)
    files = set(below.files)
    rows, problems = [], list(below.problems)
    for image in below.images:
        label = _label_of(image)
        try:
            labels = _labels(File(root / label, label), names) if label in files else ()
        except BadFile as error:
            problems.append(error.problem)
        else:
            rows.append(Row(path=image, labels=labels, where=label, split=split_above(image)))
    alone = files.difference(map(_label_of, below.images))
    problems += [
        Problem(label, "there is no image of its name. Add it, or take the file out.")
        for label in sorted(alone)
        if label.endswith(".txt") and "labels" in label.split("/")[:-1] and label.rpartition("/")[2] not in NAMES
    ]
    return Found(root=root, rows=rows, classes=names, problems=tuple(problems))


def _label_of(image: str) -> str:
    """Name the label file as Ultralytics does: the last folder ``images`` becomes ``labels``."""
    before, folder, after = f"/{image}".rpartition("/images/")
    other = f"{before}/labels/{after}" if folder else f"/{image}"
    return f"{os.path.splitext(other)[0]}.txt"[1:]  # noqa: PTH122 - a tenth of the time


def _fits(words: list[str]) -> bool:
    return words[0].isdecimal() and all(map(_number, words[1:])) and (len(words) == 1 or len(words) >= 5)


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _labels(file: File, names: tuple[str, ...]) -> tuple[str, ...]:
    found = set()
    for number, line in enumerate(text_of(file, empty=True).split("\n"), start=1):
        words, where = line.split(), f"{file.name}, row {number}"
        if not words:
            continue
        if not _fits(words):
            raise BadFile(where, f"{quoted(line)} is not the number of a class with its place. Mend it.")
        index = int(words[0]) if len(words[0]) < 10 else len(names)
        if index >= len(names):
            listed = f"the class list, which ends at {len(names) - 1}"
            raise BadFile(where, f"label {quoted(words[0])} is not in {listed}. Mend it, or add the class.")
        found.add(names[index])
    return tuple(sorted(found))


def _names(root: Path, below: Tree, path: Path) -> tuple[str, ...]:
    """Find the names of the classes, in the order of their indices."""
    yamls = [path.name] if path.is_file() else [name for name in below.files if name.lower().endswith(YAML)]
    for name in sorted(yamls, key=lambda name: name.count("/")):
        if "names:" in head_of(root / name) or path.is_file():
            return _yaml(File(root / name, name))
    lists = [name for name in below.files if name.rpartition("/")[2] in NAMES]
    if not lists:
        raise BadData(f"{path}: neither data.yaml nor classes.txt names the classes (yolo). Add one of them.")
    name = min(lists, key=lambda name: name.count("/"))
    return tuple(line.strip() for line in text_of(File(root / name, name)).rstrip().split("\n"))


def _yaml(file: File) -> tuple[str, ...]:
    """Read ``names``, a list or a mapping from indices."""
    import yaml  # only where names lie in YAML

    text = text_of(file)
    if len(text) > LONGEST or text.count("[") + text.count("{") > DEEPEST:
        raise BadData(f"{file.name}: it is longer, or nested deeper, than a list of names. Give a data.yaml.")
    try:
        # All scalars as text, and no merging, by which a few lines can ask for billions of keys.
        content = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader makes no objects
    except yaml.YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise BadData(f"{file.name}: it is not YAML: {reason}. Mend it.") from None
    except RecursionError:
        raise BadData(f"{file.name}: it is nested too deeply. Give a data.yaml.") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        order = {str(number): number for number in range(len(names))}
        names = [names[key] for key in order] if names.keys() == order.keys() else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadData(f"{file.name}: names is not a list of names, nor a mapping from 0, 1, 2 ... to names. Mend it.")
    return tuple(names)
