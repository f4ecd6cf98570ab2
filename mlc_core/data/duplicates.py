"""Which images are the same picture: to the byte, or to the eye.

Not here: the digests and hashes themselves (images.py); which of them lie in different splits (check.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.data.dataset import Uint8

# Found by experiment: 24 photographs and their 696 crops, 6,000 digit scenes and the 1,797 digits they are made of,
# against themselves re-encoded (JPEG 30 and 60) and scaled (0.5 to 2). Scaled by 0.7 and saved as JPEG 60, 96 of 100
# photographs are found again, 87 to 95 of 100 scenes of 128 to 384 pixels. No two different photographs, crops or
# scenes are taken for one, of the plain digits 3 pairs; by hashes alone it would be thousands of pairs of these.
BITS: Final = 36  # of 256 in which two hashes of one picture may differ
PART: Final = 0.28  # and of the bits set in either: a small thing on a white ground sets few, and little tells it apart
DIFFERENCE: Final = 0.07  # mean difference of two thumbnails of one picture, in standard deviations of its levels
PLAIN: Final = 12  # a hash with fewer bits set, or not set, is that of an empty picture, and says nothing
FEW: Final = 1000  # so many hashes are all compared with each other
BANDS: Final = 24
BAND: Final = 13  # bits; two hashes that differ in 36 of 256 share one of the bands in 97 of 100 cases
CROWD: Final = 64  # of many that share a band, each is compared with so many that follow it in order

_LENGTH: Final = 256  # bits of a hash
_SIDE: Final = 16  # cells of a thumbnail, both sides
_CHUNK: Final = 16_384  # pairs of thumbnails in memory at a time

Ints = NDArray[np.int64]
Pair = tuple[int, int, int]


def exact(digests: Sequence[str]) -> list[tuple[int, ...]]:
    """Group files with the same bytes.

    Parameters
    ----------
    digests : sequence of str
        One a file; empty where it could not be read.

    Returns
    -------
    list of tuple of int
        Positions of at least two files each, ascending, in order of the first.
    """
    files: dict[str, list[int]] = {}
    for number, digest in enumerate(digests):
        if digest:
            files.setdefault(digest, []).append(number)
    return [tuple(group) for group in files.values() if len(group) > 1]


def near(hashes: NDArray[np.uint64], images: Uint8, rows: Ints | None = None) -> list[Pair]:
    """Find pictures that were scaled, re-encoded or slightly changed; exact copies are among them.

    Two pictures are the same if their hashes differ in at most BITS bits, these are at most PART of the bits set in
    either, and their thumbnails differ by at most DIFFERENCE.

    Parameters
    ----------
    hashes : (n, 4), uint64
        Difference hashes of 256 bits.
    images : (stored, 3, height, width), uint8
        The pictures, resized.
    rows : (n,), int64, optional
        Where the picture of each hash is in `images`; by default in order.

    Returns
    -------
    list of (first, second, bits)
        Positions in `hashes`, ascending, and in how many bits they differ. Of a group of k alike these are the k - 1
        closest pairs that connect it (a minimum spanning tree), so that ten thousand frames of one camera stay ten
        thousand pairs.

    Notes
    -----
    Of more than FEW hashes only those are compared that agree in a band: BAND bits, drawn from those that are not,
    compared with others, the same in all pictures (locality-sensitive hashing by sampled bits, Indyk & Motwani 1998).
    """
    where = np.arange(len(hashes)) if rows is None else rows
    set_bits = np.bitwise_count(hashes).sum(axis=1, dtype=np.int64)
    telling = np.flatnonzero((set_bits >= PLAIN) & (set_bits <= _LENGTH - PLAIN))
    telling = telling[np.lexsort(hashes[telling].T)]  # so that in a band those most alike are neighbours
    first, second = _candidates(hashes[telling])
    first, second = telling[first], telling[second]
    alike = _alike(first, second, images, where)
    return _tree(*_ascending(first[alike], second[alike]), hashes)


def groups(pairs: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Join what is connected by pairs, or by groups that share a member.

    Parameters
    ----------
    pairs : iterable of tuple of int
        Sets of positions that belong together.

    Returns
    -------
    list of tuple of int
        Positions of at least two each, ascending, in order of the first.
    """
    links = np.array([(own[0], other) for own in pairs for other in own[1:]], np.int64).reshape(-1, 2)
    if not len(links):
        return []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, ends = np.unique(links, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    found: dict[int, list[int]] = {}
    for name, number in zip(names.tolist(), component.tolist(), strict=True):
        found.setdefault(number, []).append(name)
    return [tuple(group) for group in found.values()]


def _candidates(hashes: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Positions of all pairs that share a band and differ in few enough bits."""
    found = np.empty(0, np.int64)
    all_pairs = len(hashes) <= FEW
    for keys in [np.zeros(len(hashes), np.int64)] if all_pairs else _bands(hashes):
        order = np.argsort(keys, kind="stable")
        words = np.ascontiguousarray(hashes[order].T[[1, 2, 0, 3]])  # the middle of a picture tells most
        pairs = [found]
        for one, other in _neighbours(keys[order], words, reach=FEW if all_pairs else CROWD):
            low, high = _ascending(order[one], order[other])
            pairs.append(low * len(hashes) + high)
        found = np.sort(np.concatenate(pairs))  # numpy.unique goes by hashes of its own, a hundred times as slowly
        found = found[np.diff(found, prepend=-1) > 0]
    return found // max(len(hashes), 1), found % max(len(hashes), 1)


def _bands(hashes: NDArray[np.uint64]) -> Iterator[Ints]:
    """Yield for each band the bits of all hashes in it, as one number."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8), axis=1)
    rarer = bits.sum(axis=0, dtype=np.int64)  # of set and not set
    rarer = np.minimum(rarer, len(bits) - rarer)
    telling = np.flatnonzero(4 * rarer >= rarer.max())
    for band in range(BANDS):
        key = np.zeros(len(bits), np.int64)
        for bit in np.random.default_rng(band).permutation(telling)[:BAND]:
            key = 2 * key + bits[:, bit]
        yield key


def _neighbours(keys: Ints, words: NDArray[np.uint64], *, reach: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield positions of equal keys, at most `reach` apart, whose words differ in few enough bits; keys ascend."""
    held = np.bitwise_count(words).sum(axis=0, dtype=np.int64)
    at = np.arange(len(keys))
    for step in range(1, min(reach, len(keys) - 1) + 1):
        at = at[: np.searchsorted(at, len(keys) - step)]
        at = at[keys[at] == keys[at + step]]
        if not len(at):
            return
        kept, bits = at, np.zeros(len(at), np.int64)
        for word in words:  # after the first one few are left
            bits += np.bitwise_count(word[kept] ^ word[kept + step])
            kept, bits = kept[bits <= BITS], bits[bits <= BITS]
        kept = kept[2 * bits <= PART * (held[kept] + held[kept + step] + bits)]
        yield kept, kept + step


def _alike(first: Ints, second: Ints, images: Uint8, where: Ints) -> NDArray[np.bool_]:
    """Whether the pictures of each pair agree in brightness and colour as well."""
    shown, ends = np.unique(np.stack([first, second]), return_inverse=True)
    ends = ends.reshape(2, -1)
    thumbs = np.stack([_thumbnail(images[row]) for row in where[shown]]) if len(shown) else np.empty((0, 0), np.int16)
    spread = np.maximum(thumbs.std(axis=1), 16.0) if len(shown) else np.empty(0)
    agree = np.empty(len(first), np.bool_)
    for start in range(0, len(first), _CHUNK):
        one, other = ends[:, start : start + _CHUNK]
        difference = np.abs(thumbs[one] - thumbs[other]).mean(axis=1)
        agree[start : start + _CHUNK] = difference <= DIFFERENCE * np.minimum(spread[one], spread[other])
    return agree


def _thumbnail(image: Uint8) -> NDArray[np.int16]:
    """Mean level of each channel over each cell of a grid, in sixteenths."""
    sums = image.astype(np.int64)
    cells = np.ones((1, 1), np.int64)  # pixels in each
    for axis in (1, 2):
        size = image.shape[axis]
        edges = np.arange(min(size, _SIDE)) * size // min(size, _SIDE)
        sums = np.add.reduceat(sums, edges, axis=axis)
        cells = cells * np.diff(edges, append=size).reshape((-1, 1) if axis == 1 else (1, -1))
    return (sums * 16 // cells).ravel().astype(np.int16)


def _tree(first: Ints, second: Ints, hashes: NDArray[np.uint64]) -> list[Pair]:
    if not len(first):
        return []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    bits = _distance(hashes[first], hashes[second])
    graph = coo_array((bits + 1, (first, second)), shape=(len(hashes), len(hashes)))  # 0 would be no edge
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    rows, columns = (np.asarray(end, np.int64) for end in (tree.row, tree.col))
    low, high = _ascending(rows, columns)
    order = np.lexsort((high, low))
    distances = tree.data[order].astype(np.int64) - 1
    return list(zip(low[order].tolist(), high[order].tolist(), distances.tolist(), strict=True))


def _ascending(one: Ints, other: Ints) -> tuple[Ints, Ints]:
    return np.minimum(one, other), np.maximum(one, other)


def _distance(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> Ints:
    bits: Ints = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    return bits
