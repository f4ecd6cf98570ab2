"""From a path to a Dataset: list the files, decode them, split them; the same on every machine.

Not here: the formats (readers/), the decoding (store.py), the stratification (split.py).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.data.corrections import corrected
from mlc_core.data.dataset import Dataset, Split, Uint8
from mlc_core.data.listing import SPLITS, Listing, Problem, first_of
from mlc_core.data.readers import read_listing
from mlc_core.data.split import assign
from mlc_core.data.store import OnProgress, Store, prepare
from mlc_core.errors import BadData
from mlc_core.params import check_image_size

IMAGE_SIZE: Final = 128  # pixels, both sides, of what nobody gave a size
_UNUSABLE: Final = -1  # in place of a split


@dataclass(frozen=True, eq=False)
class Loaded:
    """A data set with all that is known of where it came from.

    Attributes
    ----------
    splits : (n,), int8
        For each entry of the listing an index into SPLITS, or -1 where its image cannot be used.
    """

    listing: Listing
    store: Store
    splits: NDArray[np.int8]

    @property
    def labels(self) -> Uint8:
        """(n, classes), 0 or 1, one row an entry."""
        return multi_hot([entry.labels for entry in self.listing.entries], len(self.listing.classes))

    @property
    def groups(self) -> NDArray[np.int64]:
        """(n,), one row an entry: equal numbers for images that must stay together, whatever their splits."""
        return _groups(self.listing, self.store, np.full(len(self.listing.entries), -1, np.int8))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was left out: rows that cannot be used, then files."""
        return _problems(self.listing, self.store)

    def spelled_splits(self) -> str:
        """Spell the splits as a short text; `read_data` takes it back."""
        return base64.b85encode(zlib.compress(self.splits.tobytes(), 9)).decode()

    def dataset(self) -> Dataset:
        """Make the data set to train on.

        Raises
        ------
        BadData
            A split is empty.
        """
        labels = self.labels
        rows = [np.flatnonzero(self.splits == number) for number in range(len(SPLITS))]
        if empty := [name for name, chosen in zip(SPLITS, rows, strict=True) if not len(chosen)]:
            raise BadData(f"{self.listing.root}: no image is in the split {empty[0]}. Give it some, or name no splits.")
        train, val, test = (Split(self.store.images, labels[chosen], chosen) for chosen in rows)
        fingerprint = f"images:{self._digest(labels)[:16]}"
        return Dataset(self.listing.root.name, self.listing.classes, train, val, test, fingerprint)

    def _digest(self, labels: Uint8) -> str:
        """SHA-256 of what training sees, wherever the files lie and whatever they are called."""
        digest = hashlib.sha256(f"{self.store.images.shape}{self.listing.classes}".encode())
        digest.update("".join(self.store.digests).encode())
        digest.update(labels.tobytes())
        digest.update(self.splits.tobytes())
        return digest.hexdigest()


def load_dataset(
    path: Path | str,
    *,
    format: str = "auto",  # noqa: A002 - the word of the command line
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    skip_bad: bool = False,
    corrections: Path | str | None = None,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Read images with several labels each from disk, ready for `fit`.

    Parameters
    ----------
    path : Path or str
        A manifest, an annotation file or a folder.
    format : str
        One of FORMATS, or "auto": found out by looking.
    image_size : int
        Pixels, both sides, of the decoded images that are kept; `fit` resizes to its parameter's on the device.
    seed : int
        Of the splits, where the data set does not say them.
    skip_bad : bool
        Go on without what cannot be used, instead of raising.
    corrections : Path or str, optional
        A CSV file of labels to correct, as ``mlc-search labels check --csv`` writes it.
    on_progress : callable, optional
        Called with the number of decoded images and of all.

    Raises
    ------
    BadData
        Naming file and row of the first thing that cannot be used, and how many more there are.
    """
    loaded = read_data(
        Path(path),
        format=format,
        image_size=image_size,
        seed=seed,
        skip_bad=skip_bad,
        corrections=None if corrections is None else Path(corrections),
        on_progress=on_progress,
    )
    return loaded.dataset()


def read_data(
    path: Path,
    *,
    format: str = "auto",  # noqa: A002 - the word of the command line
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    splits: str | None = None,
    skip_bad: bool = False,
    corrections: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Loaded:
    """Do what `load_dataset` does, and keep all that was learnt on the way.

    Parameters
    ----------
    splits : str, optional
        From `Loaded.spelled_splits`, instead of making them.

    Raises
    ------
    BadData, BadParams
        As `load_dataset`, or where the splits are of another data set.
    """
    check_image_size(image_size)
    listing = read_listing(path, format=format, skip_bad=skip_bad)
    if corrections is not None:
        listing = corrected(listing, corrections)
    store = prepare(listing, image_size, on_progress=on_progress)
    if store.problems and not skip_bad:
        raise BadData(first_of(list(store.problems.values())))
    chosen = _make(listing, store, seed=seed) if splits is None else _read(splits, listing)
    return Loaded(listing, store, chosen)


def multi_hot(labels: Sequence[Sequence[int]], classes: int) -> Uint8:
    """Turn lists of class indices into (n, classes) of 0 and 1."""
    hot = np.zeros((len(labels), classes), np.uint8)
    for row, own in enumerate(labels):
        hot[row, list(own)] = 1
    return hot


def _read(splits: str, listing: Listing) -> NDArray[np.int8]:
    read = np.frombuffer(zlib.decompress(base64.b85decode(splits)), np.int8)
    if len(read) != len(listing.entries):
        raise BadData(
            f"{listing.root}: it lists {len(listing.entries)} images, the study was started with {len(read)}. "
            "Restore the data, or start another study."
        )
    return read


def _make(listing: Listing, store: Store, *, seed: int) -> NDArray[np.int8]:
    good = store.good
    if not len(good):
        raise BadData(f"{listing.root}: no image of it can be used.{_left_out(listing, store)}")
    given = np.array([-1 if entry.split is None else SPLITS.index(entry.split) for entry in listing.entries], np.int8)
    labels = multi_hot([listing.entries[row].labels for row in good], len(listing.classes))
    splits = np.full(len(listing.entries), _UNUSABLE, np.int8)
    try:
        groups = _groups(listing, store, given)
        splits[good] = assign(labels, given=given[good], groups=groups[good], seed=seed)
    except BadData as error:
        raise BadData(f"{error}{_left_out(listing, store)}") from None
    return splits


def _problems(listing: Listing, store: Store) -> tuple[Problem, ...]:
    return (*listing.problems, *store.problems.values())


def _left_out(listing: Listing, store: Store) -> str:
    """Say what was left out, where that may be why too little is there."""
    problems = _problems(listing, store)
    return f" Left out were {len(problems)} rows or images, the first: {problems[0]}" if problems else ""


def _groups(listing: Listing, store: Store, given: NDArray[np.int8]) -> NDArray[np.int64]:
    """Give one number to what must stay together: a group that the data set names, pictures all but the same."""
    union = _Union(given)
    first: dict[str, int] = {}
    for row in store.good.tolist():
        entry = listing.entries[row]
        if entry.group is None:
            continue
        other = first.setdefault(entry.group, row)
        if not union.join(other, row):
            raise BadData(
                f"{entry.where}: group {entry.group!r} is in the split {SPLITS[given[row]]} here and in "
                f"{SPLITS[given[other]]} elsewhere ({listing.entries[other].where}). Keep a group in one split."
            )
    # Duplicates that the data set itself puts into two splits stay there: the leak check reports them.
    for one, *others in (*store.copies, *store.likenesses):
        for other in others:
            union.join(one, other)
    return union.numbers()


class _Union:
    """Disjoint sets of numbers; sets that are given two splits are not joined."""

    def __init__(self, given: NDArray[np.int8]) -> None:
        self._parent = list(range(len(given)))
        self._split = given.tolist()

    def join(self, one: int, other: int) -> bool:
        """Make two sets one; False where their splits differ."""
        one, other = self._root(one), self._root(other)
        if one == other:
            return True
        first, second = self._split[one], self._split[other]
        if first >= 0 and second >= 0 and first != second:
            return False
        low, high = sorted((one, other))  # the smallest number names the set, whatever the order of joining
        self._parent[high], self._split[low] = low, max(first, second)
        return True

    def numbers(self) -> NDArray[np.int64]:
        """For each number the smallest of its set."""
        return np.array([self._root(number) for number in range(len(self._parent))], np.int64)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number
