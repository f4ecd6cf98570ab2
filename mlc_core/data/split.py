"""Which image trains, which validates, which tests: stratified over all labels at once, whole groups, seeded.

Not here: what makes a group (load.py, duplicates.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.data.dataset import Uint8
from mlc_core.data.listing import SPLITS
from mlc_core.errors import BadData
from mlc_core.seeds import Stream, stream_seed

SHARES: Final = (0.7, 0.15, 0.15)  # train, val, test

_TRAIN: Final = 0
_WORK: Final = 10**9  # counts that are looked at to even out; what many images leave uneven does not show
_NEED: Final = (4, 2, 1)  # a class that cannot be everywhere is best in train, then in val

Shares = tuple[float, float, float]
Counts = NDArray[np.int32]
Floats = NDArray[np.float64]


def assign(
    labels: Uint8,
    *,
    given: NDArray[np.int8],
    groups: NDArray[np.int64],
    seed: int,
    shares: Shares = SHARES,
) -> NDArray[np.int8]:
    """Put every image into a split.

    Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, algorithm 1) over groups: the class with the
    fewest groups left is served first, each of its groups goes as a whole to the split that lacks most of that
    class. Then single groups move as long as that brings all classes nearer to their shares.

    Where no split was given, all three are made; where only some images have one, the others fill up; where all have
    one and a split is missing, it is carved out of train.

    Parameters
    ----------
    labels : (n, classes), uint8, 0 or 1
    given : (n,), int8
        An index into SPLITS, or -1 where nothing was said.
    groups : (n,), int64
        Images with the same number stay together.
    seed : int
        Decides between equals.
    shares : of train, val and test
        Of those that are made out of train they are shares among themselves: of images that are all in train, a
        missing test takes 0.15 / (0.7 + 0.15).

    Returns
    -------
    (n,), int8
        Indices into SPLITS.

    Raises
    ------
    BadData
        A group is given in two splits, train is given no image, or there are too few groups for three splits.

    Notes
    -----
    A class is in every split that takes new images if moving no single group could bring it to one more without
    taking a class away from another; with three groups and no other label on them it always is. The exact question
    is one of colouring a hypergraph, for which no fast answer is known.
    """
    starts, members, of_image = _members(groups)
    said = _said(given[members], starts, groups[members])
    fixed, open_splits = _task(said, given)
    free = np.flatnonzero(fixed < 0)
    if not len(free):
        return fixed[of_image]
    counts = _counts(labels, members, starts)
    placing = _Placing(counts, fixed, open_splits, np.asarray(shares))
    rng = np.random.default_rng(stream_seed(seed, Stream.SPLIT))
    placing.stratify(rng.permutation(free), rng.random(len(counts)))
    placing.even_out(free)
    placing.mend(free)
    empty = [SPLITS[split] for split in range(len(SPLITS)) if not (placing.where == split).any()]
    if empty:
        raise BadData(
            f"{len(free)} images, or groups that stay together, are too few: {' and '.join(empty)} would be empty. "
            "Training, validation and test need at least one each; add images."
        )
    return placing.where[of_image]


def _members(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each group starts in the images ordered by group, that order, and each image's group counted from 0."""
    if not len(groups):
        raise BadData("There is no image to put into a split.")
    _, of_image = np.unique(groups, return_inverse=True)
    members = np.argsort(of_image, kind="stable")
    starts = np.flatnonzero(np.diff(of_image[members], prepend=-1))
    return starts, members, of_image


def _said(given: NDArray[np.int8], starts: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int8]:
    """For each group the split that one of its images was given, or -1."""
    most = np.maximum.reduceat(given, starts)
    least = np.minimum.reduceat(np.where(given < 0, np.int8(len(SPLITS)), given), starts)
    for group in np.flatnonzero((most >= 0) & (least < most)):
        raise BadData(
            f"Group {groups[starts[group]]} is given in {SPLITS[least[group]]} and in {SPLITS[most[group]]}. "
            "Images of one group must stay in one split."
        )
    return most


def _task(said: NDArray[np.int8], given: NDArray[np.int8]) -> tuple[NDArray[np.int8], list[int]]:
    """Return what stays where it is (-1: free), and the splits into which free groups may go."""
    missing = [split for split in range(len(SPLITS)) if not (given == split).any()]
    if (given < 0).any() or not missing:
        return said, list(range(len(SPLITS)))
    if _TRAIN in missing:
        raise BadData("Every image is given to val or test, none to train. Give train some, or leave splits empty.")
    return np.where(said == _TRAIN, np.int8(-1), said), [_TRAIN, *missing]


def _counts(labels: Uint8, members: NDArray[np.int64], starts: NDArray[np.int64]) -> Counts:
    """Count in each group the images that carry each class, and in one more column all: to be an image is a class."""
    ones = np.ones((len(labels), 1), np.uint8)
    carried: Counts = np.add.reduceat(np.hstack([labels, ones])[members], starts, axis=0, dtype=np.int32)
    return carried


class _Placing:
    """Groups on their way into splits.

    Attributes
    ----------
    where : (groups,), int8
        Each group's split, -1 while it has none.
    """

    def __init__(self, counts: Counts, fixed: NDArray[np.int8], open_splits: Sequence[int], shares: Floats) -> None:
        self.where = fixed.copy()
        self._open = list(open_splits)
        self._counts = counts
        self._carries = (counts > 0).astype(np.int32)
        self._placed = self._sums(self._carries)  # (splits, classes + 1): groups there that carry the class
        there = self._sums(counts)[self._open]
        self._wanted = np.zeros((len(SPLITS), counts.shape[1]))  # images of the class that the split still lacks
        self._wanted[self._open] = _wanted(counts[fixed < 0].sum(axis=0), there, shares[self._open])
        self._goal = self._sums(counts) + np.rint(self._wanted).astype(np.int64)

    def stratify(self, order: NDArray[np.int64], chance: Floats) -> None:
        """Place the groups of `order`; where two splits lack as much, a group's chance in [0, 1) decides."""
        left = self._carries[order].sum(axis=0)
        while left.any():
            label = int(np.where(left > 0, left, np.iinfo(np.int32).max).argmin())
            carriers = order[(self.where[order] < 0) & (self._counts[order, label] > 0)]
            # The large ones first, so that the small ones can even out.
            carriers = carriers[np.argsort(-self._counts[carriers, label], kind="stable")]
            for number, group in enumerate(carriers.tolist()):
                split = self._choose(label, len(carriers) - number, chance[group])
                self.where[group] = split
                self._wanted[split] -= self._counts[group]
                self._placed[split] += self._carries[group]
                left -= self._carries[group]

    def _choose(self, label: int, left: int, chance: float) -> int:
        """Return the split for one of the `left` groups that carry the class and have none."""
        without = [split for split in self._open if not self._placed[split, label]]
        if 0 < len(without) >= left:
            return without[0]
        wanted = self._wanted[:, label].tolist()
        most = max(wanted[split] for split in self._open)
        best = [split for split in self._open if wanted[split] == most]
        if len(best) > 1:
            images = self._wanted[:, -1].tolist()
            most = max(images[split] for split in best)
            best = [split for split in best if images[split] == most]
        return best[int(chance * len(best))]

    def even_out(self, free: NDArray[np.int64]) -> None:
        """Move single groups, the one that helps most first, while none loses a split its only one of a class.

        Serving the rare classes leaves few groups to even out the common ones. What falls is the sum over splits and
        classes of (images - goal)^2 / goal, in integers: no order of summation can change them.
        """
        counts, carries = self._counts[free].astype(np.int64), self._carries[free]
        weights = 2**16 // np.maximum(self._goal, 1)
        own = counts**2 @ weights.T
        rows = np.arange(len(free))
        excess = self._sums(self._counts) - self._goal
        for _ in range(_WORK // counts.size):
            sources = self.where[free]
            over = counts @ (excess * weights).T
            gain = (2 * over - own)[rows, sources][:, None] - (2 * over + own)
            gain[(carries @ (self._placed == 1).T)[rows, sources] > 0] = 0
            gain[rows, sources] = 0
            gain = gain[:, self._open]
            best, target = divmod(int(gain.argmax()), len(self._open))
            if gain[best, target] <= 0:
                return
            excess[sources[best]] -= counts[best]
            excess[self._open[target]] += counts[best]
            self._move(int(free[best]), self._open[target])

    def mend(self, free: NDArray[np.int64]) -> None:
        """Move single groups while that brings more classes to splits without them than it takes away.

        Serving one class can use up all groups of another.
        """
        need = np.multiply.outer(_NEED, np.ones(self._counts.shape[1], np.int64))
        need[:, -1] *= 8 * self._counts.shape[1]  # a split without an image is worse than all other lacks together
        moved = True
        while moved:
            moved = False
            for split in self._open:
                for label in np.flatnonzero(self._placed[split] == 0):
                    carriers = free[(self._counts[free, label] > 0) & (self.where[free] != split)]
                    moved = self._move_best(carriers, split, need) or moved

    def _move_best(self, groups: NDArray[np.int64], split: int, need: NDArray[np.int64]) -> bool:
        if not len(groups):
            return False
        carries, sources = self._carries[groups], self.where[groups]
        brought = carries @ (need[split] * (self._placed[split] == 0))
        taken = (carries * need[sources] * (self._placed[sources] == 1)).sum(axis=1)
        gain = brought - taken
        size = self._counts[groups, -1]
        best = np.lexsort((groups, size, -gain))[0]
        if gain[best] <= 0:
            return False
        self._move(int(groups[best]), split)
        return True

    def _move(self, group: int, split: int) -> None:
        self._placed[self.where[group]] -= self._carries[group]
        self._placed[split] += self._carries[group]
        self.where[group] = split

    def _sums(self, values: Counts) -> NDArray[np.int64]:
        return np.stack([values[self.where == split].sum(axis=0) for split in range(len(SPLITS))])


def _wanted(free: NDArray[np.int64], there: NDArray[np.int64], shares: Floats) -> Floats:
    """How many more of each class the splits should get, so that all who get some end in the proportion of shares.

    Parameters
    ----------
    free : (classes,)
        To be given away.
    there : (splits, classes)
        Already in place; who has more than a fair share of the sum gets nothing.
    shares : (splits,)

    Returns
    -------
    (splits, classes), adding up to `free`
    """
    part = np.repeat(shares[:, None], there.shape[1], axis=1)
    for _ in range(len(shares)):  # each round leaves out at least one more, or changes nothing
        level = (free + (there * (part > 0)).sum(axis=0)) / part.sum(axis=0)
        # The margin: equal but for rounding is not more, and there must always be one left.
        part = np.where(there > part * level * (1 + 1e-12), 0.0, part)
    return np.where(part > 0, part * level - there, 0.0)
