"""What is worth knowing of a data set before it costs a night, and what of it would harm training.

Not here: how it is shown (search/drawing.py, search/data_page.py); reading and decoding (load.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.data.dataset import Dataset, Split, Uint8
from mlc_core.data.duplicates import groups
from mlc_core.data.listing import SPLITS, Problem, SplitName
from mlc_core.data.load import Loaded
from mlc_core.data.names import suspicious

HANDFUL: Final = 5  # with fewer positives in a split a class's figures there are chance

_NAMED: Final = 3  # examples in a sentence

_USES: Final[Mapping[SplitName, str]] = {"train": "cannot be learnt", "val": "cannot be measured"}

Three = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Images that show the same picture, connected by likeness to another of them."""

    paths: tuple[str, ...]  # at least two
    splits: tuple[SplitName | None, ...]  # of each
    identical: bool  # to the byte; else scaled, re-encoded or slightly changed
    one_label_set: bool

    @property
    def leaks(self) -> bool:
        """Whether they lie in different splits, so that a model is measured on what it was trained on."""
        return len(set(self.splits) - {None}) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck:
    """What `check` found."""

    root: str
    format: str
    classes: tuple[str, ...]
    images: Mapping[SplitName, int]  # usable ones
    made: int  # usable images that the data set did not put where they are
    positives: Mapping[SplitName, tuple[int, ...]]  # images of each class
    together: tuple[tuple[int, ...], ...]  # (classes, classes): images that carry both; the diagonal: that carry one
    labels_per_image: tuple[int, ...]  # how many images carry 0, 1, 2, ... labels
    unlabelled: tuple[str, ...]  # paths
    width: tuple[int, int, int]  # smallest, median, largest; pixels, as displayed
    height: tuple[int, int, int]
    sizes: int  # different ones
    mean: Three | None  # of the training images' channels, in [0, 255]; None for fewer than two images
    std: Three | None
    problems: tuple[Problem, ...]  # rows and files that cannot be used
    alike: tuple[Alike, ...]
    contradictions: tuple[tuple[str, ...], ...]  # paths of files with the same bytes and different labels
    same_names: tuple[tuple[str, ...], ...]  # classes that differ only in case, spaces or other trifles
    similar_names: tuple[tuple[str, str], ...]  # plural or one letter, perhaps a slip
    harms: tuple[str, ...]  # sentences; with any of them a search is wasted
    hints: tuple[str, ...]

    @property
    def mean_labels(self) -> float:
        """Labels an image, on average."""
        images = sum(self.labels_per_image)
        return sum(number * count for number, count in enumerate(self.labels_per_image)) / max(images, 1)

    @property
    def common_first(self) -> tuple[int, ...]:
        """Classes by how many images carry them; of equal ones the earlier."""
        return tuple(sorted(range(len(self.classes)), key=lambda at: -self.together[at][at]))

    @property
    def leaks(self) -> tuple[Alike, ...]:
        """Those alike in different splits."""
        return tuple(group for group in self.alike if group.leaks)

    def to_table(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "root": self.root,
            "format": self.format,
            "classes": list(self.classes),
            "images": dict(self.images),
            "made": self.made,
            "positives": {split: list(counts) for split, counts in self.positives.items()},
            "together": [list(row) for row in self.together],
            "labels_per_image": list(self.labels_per_image),
            "mean_labels": self.mean_labels,
            "unlabelled": list(self.unlabelled),
            "width": dict(zip(("min", "median", "max"), self.width, strict=True)),
            "height": dict(zip(("min", "median", "max"), self.height, strict=True)),
            "sizes": self.sizes,
            "mean": self.mean and list(self.mean),
            "std": self.std and list(self.std),
            "problems": [{"where": problem.where, "reason": problem.reason} for problem in self.problems],
            "alike": [
                {
                    "paths": list(group.paths),
                    "splits": list(group.splits),
                    "identical": group.identical,
                    "one_label_set": group.one_label_set,
                    "leaks": group.leaks,
                }
                for group in self.alike
            ],
            "contradictions": [list(paths) for paths in self.contradictions],
            "same_names": [list(names) for names in self.same_names],
            "similar_names": [list(names) for names in self.similar_names],
            "harms": list(self.harms),
            "hints": list(self.hints),
        }


def check(loaded: Loaded) -> DataCheck:
    """Look for what a night of training would otherwise find."""
    listing, store, splits, labels = loaded.listing, loaded.store, loaded.splits, loaded.labels
    good = store.good
    usable = labels[good]
    rows = {name: good[splits[good] == number] for number, name in enumerate(SPLITS)}
    counts = usable.astype(np.int64)
    carried = usable.sum(axis=1, dtype=np.int64)
    alike, contradictions = _alike(loaded)
    same, similar = suspicious(listing.classes)
    mean, std = _channels(loaded, labels, rows["train"])
    facts: dict[str, Any] = {
        "root": str(listing.root),
        "format": listing.format,
        "classes": listing.classes,
        "images": MappingProxyType({name: len(own) for name, own in rows.items()}),
        "made": sum(listing.entries[row].split != SPLITS[splits[row]] for row in good),
        "positives": MappingProxyType({name: _ints(labels[own].sum(axis=0, dtype=int)) for name, own in rows.items()}),
        "together": tuple(_ints(row) for row in counts.T @ counts),
        "labels_per_image": _ints(np.bincount(carried, minlength=1)),
        "unlabelled": tuple(listing.entries[row].path for row in good[carried == 0]),
        "width": _spread(store.sizes[good, 0]),
        "height": _spread(store.sizes[good, 1]),
        "sizes": len(np.unique(store.sizes[good], axis=0)),
        "mean": mean,
        "std": std,
        "problems": loaded.problems,
        "alike": alike,
        "contradictions": contradictions,
        "same_names": same,
        "similar_names": similar,
    }
    found = DataCheck(**facts, harms=(), hints=())
    return DataCheck(**facts, harms=tuple(_harms(found)), hints=tuple(_hints(found)))


def _alike(loaded: Loaded) -> tuple[tuple[Alike, ...], tuple[tuple[str, ...], ...]]:
    listing, store, splits = loaded.listing, loaded.store, loaded.splits
    alike = []
    for own in groups([*store.copies, *store.likenesses]):
        entries = [listing.entries[row] for row in own]
        alike.append(
            Alike(
                paths=tuple(entry.path for entry in entries),
                splits=tuple(SPLITS[splits[row]] if splits[row] >= 0 else None for row in own),
                identical=len({store.digests[row] for row in own}) == 1,
                one_label_set=len({entry.labels for entry in entries}) == 1,
            )
        )
    contradictions = [own for own in store.copies if len({listing.entries[row].labels for row in own}) > 1]
    return tuple(alike), tuple(tuple(listing.entries[row].path for row in own) for own in contradictions)


def _channels(loaded: Loaded, labels: Uint8, rows: NDArray[np.int64]) -> tuple[Three | None, Three | None]:
    """Return what `fit` will normalize by."""
    if len(rows) < 2:
        return None, None
    train = Split(loaded.store.images, labels[rows], rows)
    mean, std = Dataset(loaded.listing.root.name, loaded.listing.classes, train, train, train, "").channel_stats
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def _harms(found: DataCheck) -> Iterator[str]:
    if found.problems:
        yield f"{_many(len(found.problems), 'row or file', 'rows or files')} cannot be used: {found.problems[0]}"
    for name in SPLITS:
        if not found.images[name]:
            yield f"No image is in {name}. Training, validation and test need images of their own."
    if found.leaks:
        first = found.leaks[0]
        other = next(at for at, split in enumerate(first.splits) if split not in (None, _first_split(first)))
        one = first.splits.index(_first_split(first))
        yield (
            f"{_many(len(found.leaks), 'picture is', 'pictures are')} in more than one split, so what is measured "
            f"there was seen in training or selection: {first.paths[one]!r} in {first.splits[one]} and "
            f"{first.paths[other]!r} in {first.splits[other]}. Keep each in one split, or remove all but one file."
        )
    for name, use in _USES.items():
        if found.images[name] and (missing := _below(found, name, 1)):
            yield f"No image in {name} carries {_some(missing)}, which {use}. Add images, or leave the class out."
    if found.contradictions:
        yield (
            f"{_many(len(found.contradictions), 'file occurs', 'files occur')} several times with different labels: "
            f"{_some(found.contradictions[0])}. Correct the labels, or remove all but one."
        )
    for names in found.same_names:
        yield f"The classes {_some(names)} look like one class in several spellings. Give it one name."


def _hints(found: DataCheck) -> Iterator[str]:
    if found.images["test"] and (missing := _below(found, "test", 1)):
        yield f"No image in test carries {_some(missing)}, so nothing will be known of it there."
    for name in SPLITS:
        if few := [name_ for name_ in _below(found, name, HANDFUL) if name_ not in _below(found, name, 1)]:
            yield f"Fewer than {HANDFUL} images in {name} carry {_some(few)}; their figures there are chance."
        everywhere = [
            cls for cls, count in zip(found.classes, found.positives[name], strict=True) if count == found.images[name]
        ]
        if found.images[name] and everywhere:
            yield f"All images in {name} carry {_some(everywhere)}; there is nothing to tell apart."
    if found.unlabelled:
        yield (
            f"{_many(len(found.unlabelled), 'image carries', 'images carry')} no label: {_some(found.unlabelled)}. "
            "They train as examples of no class; leave them out if they were only never labelled."
        )
    if inside := [group for group in found.alike if not group.leaks]:
        spare = sum(len(group.paths) - 1 for group in inside)
        yield (
            f"{_many(len(inside), 'picture occurs', 'pictures occur')} more than once within a split, in "
            f"{_many(spare, 'image', 'images')} too many: {_some(inside[0].paths)}."
        )
    if differ := [group for group in found.alike if not (group.one_label_set or group.identical)]:
        yield (
            f"{_many(len(differ), 'picture has', 'pictures have')} different labels in versions that look the same: "
            f"{_some(differ[0].paths)}."
        )
    if spaced := [name for name in found.classes if name != " ".join(name.split())]:
        yield f"Spaces at the end or in a row, in the classes {_some(spaced)}."
    for one, other in found.similar_names:
        yield f"The classes {one!r} and {other!r} are spelt almost alike; if they are one, give it one name."


def _first_split(group: Alike) -> SplitName | None:
    return next(split for split in group.splits if split is not None)


def _below(found: DataCheck, name: SplitName, least: int) -> list[str]:
    """Classes with fewer positives than `least` in a split."""
    return [cls for cls, count in zip(found.classes, found.positives[name], strict=True) if count < least]


def _some(names: Sequence[str]) -> str:
    """Quote the first names, and say how many more there are."""
    named = [repr(name) for name in names[:_NAMED]]
    if len(names) > _NAMED:
        named.append(f"{len(names) - _NAMED} more")
    return " and ".join(([", ".join(named[:-1])] if len(named) > 1 else []) + named[-1:])


def _many(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _ints(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _spread(values: NDArray[np.int32]) -> tuple[int, int, int]:
    """Smallest, median (the lower of two) and largest; zeros where there is none."""
    if not len(values):
        return 0, 0, 0
    ordered = np.sort(values)
    return int(ordered[0]), int(ordered[(len(ordered) - 1) // 2]), int(ordered[-1])
