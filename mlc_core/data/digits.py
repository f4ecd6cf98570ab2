"""The embedded digit scenes: several real handwritten digits a picture, classes imbalanced on purpose.

The digits are the 1,797 of scikit-learn (UCI Optical Recognition of Handwritten Digits, Alpaydin & Kaynak 1998).
A scene places 1 to 4 of them at random place, size and colour on a ground of random colour, graded and noisy.
All arithmetic is in integers, so that every machine makes the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from pathlib import Path
from typing import Final
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from mlc_core.cache import cache_dir, write_atomically
from mlc_core.data.dataset import Dataset, Split, Uint8
from mlc_core.errors import BadData

SIZE: Final = 32  # pixels, both sides of a scene
GLYPH_SIZES: Final = (13, 14, 15, 16)
SCENES: Final = {"train": 4000, "val": 1000, "test": 1000}
SOURCES: Final = {"train": 0.6, "val": 0.2, "test": 0.2}  # share of the source digits
DIGITS_A_SCENE: Final = (0.40, 0.35, 0.17, 0.08)  # chance of 1, 2, 3, 4
RARER: Final = 0.82  # each class is this much rarer than the one before
OVERLAP: Final = 1  # pixels by which the squares of two digits may overlap
PLACES: Final = 30  # tries to find room for a digit before the scene goes without it
GROUND: Final = (0, 100)  # levels of a channel; any hue, but dark
INK: Final = (155, 255)  # any hue, but light, so that every digit can be seen
GRADE: Final = 30  # levels by which the ground may change from its middle to its border
NOISE: Final = 8  # levels, uniform
CLASSES: Final = tuple(str(digit) for digit in range(10))
SEED: Final = 1
FINGERPRINT: Final = "b4fc4fd43036e5766271dae813ff2cf4c12528d868cdd2182a15c93ac89bf85f"  # SHA-256 of the arrays

_SPLITS: Final = tuple(SCENES)


def digits() -> Dataset:
    """Return the digit scenes, made on a machine's first call and read from its cache afterwards.

    Raises
    ------
    BadData
        Where the cache folder cannot be made, or this machine makes other bytes than the documented figures
        rest on.
    """
    path = cache_dir() / f"digits-{FINGERPRINT[:16]}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = _make()
        if fingerprint(arrays) != FINGERPRINT:
            raise BadData(
                f"The digit scenes made here have the fingerprint {fingerprint(arrays)}, not {FINGERPRINT}: "
                "this scikit-learn or numpy differs. Install the versions that mlc-search asks for."
            )
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        with suppress(OSError):  # a cache that cannot be written costs seconds the next time, no more
            write_atomically(path, buffer.getbuffer())
    splits = {name: Split(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in _SPLITS}
    return Dataset("digits", CLASSES, splits["train"], splits["val"], splits["test"], f"digits:{FINGERPRINT[:16]}")


def fingerprint(arrays: dict[str, Uint8]) -> str:
    """SHA-256 over names, shapes and bytes of all arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def source_digits() -> dict[str, NDArray[np.int64]]:
    """Return indices into scikit-learn's digits, by split; no digit is in two."""
    order = np.random.default_rng(SEED).permutation(1797)
    first = int(SOURCES["train"] * len(order))
    second = first + int(SOURCES["val"] * len(order))
    return {"train": order[:first], "val": order[first:second], "test": order[second:]}


def _read(path: Path) -> dict[str, Uint8] | None:
    """Read the cache; None where it is absent or not what was written, and must be made again."""
    try:
        with path.open("rb") as file, ZipFile(file) as archive:
            # zipfile compares checksums at the end of an array, numpy trips over its beginning before that.
            if archive.testzip() is not None:
                return None
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, RuntimeError, BadZipFile, EOFError):
        return None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        return None  # a member that is no array is given as bytes
    return arrays if fingerprint(arrays) == FINGERPRINT else None


def _make() -> dict[str, Uint8]:
    from sklearn.datasets import load_digits  # costs a second, needed once a machine

    bunch = load_digits()
    glyphs = {size: _enlarge(bunch.images.astype(np.int64), size) for size in GLYPH_SIZES}
    arrays: dict[str, Uint8] = {}
    for number, (split, sources) in enumerate(source_digits().items()):
        rng = np.random.default_rng([SEED, number])
        by_class = [sources[bunch.target[sources] == digit] for digit in range(len(CLASSES))]
        scenes = [_scene(rng, glyphs, by_class) for _ in range(SCENES[split])]
        arrays[f"{split}_images"] = np.stack([image for image, _ in scenes])
        arrays[f"{split}_labels"] = np.stack([labels for _, labels in scenes])
    return arrays


def _enlarge(images: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Bilinear, from (n, 8, 8) in [0, 16] to (n, size, size) in [0, 256], exact in integers."""
    source = images.shape[1]
    weights = np.zeros((size, source), np.int64)  # in units of 1 / (2 size)
    for i in range(size):
        low, part = divmod((2 * i + 1) * source - size, 2 * size)  # half-pixel centres
        weights[i, max(low, 0)] += 2 * size - part
        weights[i, min(low + 1, source - 1)] += part
    enlarged: NDArray[np.int64] = weights @ images @ weights.T * 16 // (2 * size) ** 2
    return enlarged


def _scene(
    rng: np.random.Generator, glyphs: dict[int, NDArray[np.int64]], by_class: list[NDArray[np.int64]]
) -> tuple[Uint8, Uint8]:
    """Draw one picture, (3, SIZE, SIZE), and its labels, (classes,)."""
    image = _ground(rng)
    labels = np.zeros(len(CLASSES), np.uint8)
    placed: list[tuple[int, int, int]] = []
    for _ in range(1 + _draw(rng, DIGITS_A_SCENE)):
        digit = _draw(rng, _CLASS_CHANCES)
        size = GLYPH_SIZES[rng.integers(len(GLYPH_SIZES))]
        place = _place(rng, size, placed)
        if place is None:
            continue
        placed.append((*place, size))
        alpha = glyphs[size][by_class[digit][rng.integers(len(by_class[digit]))]]
        window = image[:, place[0] : place[0] + size, place[1] : place[1] + size]
        colour = rng.integers(INK[0], INK[1] + 1, (3, 1, 1))
        window += (colour - window) * alpha // 256
        labels[digit] = 1
    return np.clip(image, 0, 255).astype(np.uint8), labels


def _ground(rng: np.random.Generator) -> NDArray[np.int64]:
    colour = rng.integers(GROUND[0], GROUND[1] + 1, (3, 1, 1))
    down, across = rng.integers(-GRADE, GRADE + 1, (2, 3, 1, 1))
    offset = np.arange(SIZE) - SIZE // 2
    graded = colour + (down * offset[:, None] + across * offset[None, :]) * 2 // SIZE
    noisy: NDArray[np.int64] = graded + rng.integers(-NOISE, NOISE + 1, (3, SIZE, SIZE))
    return noisy


def _place(rng: np.random.Generator, size: int, placed: list[tuple[int, int, int]]) -> tuple[int, int] | None:
    """Top left corner of a square that overlaps no other by more than OVERLAP, or None."""
    for _ in range(PLACES):
        y, x = (int(corner) for corner in rng.integers(0, SIZE - size + 1, 2))
        if all(
            min(y + size, top + side) - max(y, top) <= OVERLAP or min(x + size, left + side) - max(x, left) <= OVERLAP
            for top, left, side in placed
        ):
            return y, x
    return None


def _draw(rng: np.random.Generator, chances: tuple[float, ...]) -> int:
    """Draw an index by its chance, by one integer: exact on every machine."""
    at = int(rng.integers(1_000_000))
    for index, chance in enumerate(chances):
        at -= round(chance * 1_000_000)
        if at < 0:
            return index
    return len(chances) - 1


_CLASS_CHANCES: Final = tuple(RARER**digit * (1 - RARER) / (1 - RARER ** len(CLASSES)) for digit in range(len(CLASSES)))
