"""Pascal VOC: an XML file an image, or the class files of ImageSets/Main.

Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge", and its development kit.

An object that is marked difficult is there, so it is a label: in XML, and as 0 in a class file. (The challenge left
such pairs of image and class out of its score; a label here is there or not.) Where ImageSets/Main names splits, an
image that it does not list belongs to another task and is left out; ``trainval`` trains where there is no ``val``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import ParseError, fromstring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring as defused

from mlc_core.data.listing import SPELLINGS, Problem, Row, quoted
from mlc_core.data.readers.files import BadFile, File, Found, Tree, head_of, placed, split_above, text_of, tree
from mlc_core.errors import BadData

LISTS: Final[dict[str, str]] = {**SPELLINGS, "trainval": "train"}
PRESENT: Final = {"1": True, "0": True, "-1": False}  # 0: all of its objects are difficult


@dataclass(frozen=True, slots=True)
class _List:
    """A file of ImageSets/Main."""

    path: str
    name: str  # the class; empty in a list of a split
    split: str


def fits(path: Path) -> bool:
    """Tell by content whether a folder holds Pascal VOC."""
    if not path.is_dir():
        return False
    root = _root(path)
    below = tree(root)
    return bool(_lists(below)) or any("<annotation" in head_of(root / xml) for xml in _xmls(below)[:1])


def read(path: Path) -> Found:
    """Read a folder, or the one above a given ``Annotations``.

    Raises
    ------
    BadData
        It holds neither annotations nor class files.
    """
    root = _root(path)
    below = tree(root)
    lists, xmls = _lists(below), _xmls(below)
    named = tuple(sorted({one.name for one in lists} - {""}))
    problems: list[Problem] = []
    if xmls:
        rows = list(_by_xml(root, xmls, [one for one in lists if not one.name], problems))
    elif named:
        rows = list(_by_class_file(root, lists, problems))
    else:
        raise BadData(f"{path}: it holds neither Annotations/*.xml nor ImageSets/Main/<class>_<split>.txt (voc).")
    images = [image for image in below.images if "JPEGImages" in image.split("/")] or below.images
    rows, lost = placed(rows, images)
    return Found(root=root, rows=rows, classes=named or None, problems=(*problems, *lost))


def _root(path: Path) -> Path:
    return path.parent if path.name == "Annotations" else path


def _stem(xml: str) -> str:
    return xml.rpartition("/")[2][:-4]


def _xmls(below: Tree) -> list[str]:
    return [file for file in below.files if file.lower().endswith(".xml")]


def _lists(below: Tree) -> list[_List]:
    found = []
    for file in below.files:
        parent, _, name = file.rpartition("/")
        if f"/{parent}".endswith("/ImageSets/Main") and name.endswith(".txt"):
            cls, _, split = name[:-4].rpartition("_")
            if split in LISTS:
                found.append(_List(file, cls, split))
    if {"train", "val"} <= {LISTS[one.split] for one in found if one.split != "trainval"}:
        return [one for one in found if one.split != "trainval"]  # it is these two together
    return found


def _by_xml(root: Path, xmls: Sequence[str], lists: Sequence[_List], problems: list[Problem]) -> Iterator[Row]:
    """Take labels from XML, splits from lists where there are some, else from folders."""
    of_image = {_stem(xml): xml for xml in xmls}
    wanted: Iterable[tuple[str, str, str]]  # XML, split, where
    if lists:
        wanted = []
        for one in lists:
            for where, words in _lines(root, one.path):
                if words[0] in of_image:
                    wanted.append((of_image[words[0]], LISTS[one.split], where))
                else:
                    problems.append(Problem(where, f"{quoted(words[0])} has no XML file in Annotations. Add it."))
    else:
        wanted = [(xml, split_above(xml), xml) for xml in xmls]
    for xml, split, where in wanted:
        try:
            labels = _labels(File(root / xml, xml))
        except BadFile as error:
            problems.append(error.problem)
        else:
            yield Row(path=_stem(xml), labels=labels, where=where, split=split)


def _labels(file: File) -> tuple[str, ...]:
    text = text_of(file)
    try:
        # Without a declaration there is no entity to expand or to fetch, and the parser in C takes a third of the time.
        top = defused(text, forbid_dtd=True) if "<!" in text else fromstring(text)  # noqa: S314
    except ParseError as error:
        raise BadFile(file.name, f"it is not XML: {error}. Mend it, or copy it again.") from None
    except DefusedXmlException:
        raise BadFile(file.name, "it declares a document type or entities, which is refused. Take them out.") from None
    if top.tag != "annotation":
        raise BadFile(file.name, f"its root is {quoted(top.tag)}, not annotation: no Pascal VOC. Take it out.")
    names = [(found.findtext("name") or "").strip() for found in top.findall("object")]
    if "" in names:
        raise BadFile(file.name, f"its object {names.index('') + 1} has no name. Write one.")
    return tuple(sorted(set(names)))


def _by_class_file(root: Path, lists: Sequence[_List], problems: list[Problem]) -> Iterator[Row]:
    """Take labels and splits from class files; an image that a class file does not list does not show the class."""
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)  # by split and image
    first: dict[tuple[str, str], str] = {}
    bad: set[tuple[str, str]] = set()
    for one in lists:
        for where, words in _lines(root, one.path):
            key = LISTS[one.split], words[0]
            first.setdefault(key, where)
            if not one.name:
                continue
            if len(words) != 2 or words[1] not in PRESENT:
                problems.append(Problem(where, f"{quoted(' '.join(words))} is not an image with -1, 0 or 1. Mend it."))
                bad.add(key)
            elif PRESENT[words[1]]:
                labels[key].add(one.name)
    for key, where in first.items():
        if key not in bad:
            yield Row(path=key[1], labels=tuple(sorted(labels[key])), where=where, split=key[0])


def _lines(root: Path, path: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text_of(File(root / path, path), empty=True).split("\n"), start=1):
        if words := line.split():
            yield f"{path}, row {number}", words
