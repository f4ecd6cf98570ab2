"""Probabilities of every image of a data set by models that did not see it, trained fold by fold.

Not here: what they say of the labels (label_errors.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.cache import cache_dir, write_atomically
from mlc_core.data.dataset import Dataset, Split, Uint8
from mlc_core.data.listing import SPLITS
from mlc_core.data.load import Loaded
from mlc_core.device import Compute, Shape, choose, computing
from mlc_core.errors import BadData
from mlc_core.params import EPOCHS, Params, whole
from mlc_core.predict import Predictor, infer, read_member
from mlc_core.predictions import Floats, sigmoid
from mlc_core.pretrained import weights_digest
from mlc_core.records import BEST, EpochReport
from mlc_core.seeds import Stream, stream_seed
from mlc_core.training import fit

FOLDS: Final = 4
VALIDATION: Final = 10  # one in so many images of a fold's others chooses the epoch
LEAST: Final = 4  # groups of images a fold, below which nothing can be learnt

OnFold = Callable[[int, EpochReport], None]  # the fold, counted from 1, and its epoch


@dataclass(frozen=True, eq=False)
class Pool:
    """All usable images of a data set, whatever their splits.

    Attributes
    ----------
    images : (stored, 3, height, width), uint8
    rows : (n,), int64
        Where in `images` they are.
    labels : (n, classes), uint8, 0 or 1
    paths : tuple of str
        What each is called.
    groups : (n,), int64
        Images with the same number never help to judge each other.
    fingerprint : str
        Equal for equal images and labels.
    """

    classes: tuple[str, ...]
    images: Uint8
    rows: NDArray[np.int64]
    labels: Uint8
    paths: tuple[str, ...]
    groups: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, chosen: NDArray[np.bool_]) -> Split:
        """Take some of the images, by mask."""
        return Split(self.images, self.labels[chosen], self.rows[chosen])


def pool(data: Dataset | Loaded) -> Pool:
    """Put the splits of a data set together; images of one without files are called by split and number.

    Raises
    ------
    BadData
        No image can be used.
    """
    if isinstance(data, Loaded):
        rows = np.flatnonzero(data.splits >= 0)
        if not len(rows):
            raise BadData(f"{data.listing.root}: no image of it can be used.")
        paths = tuple(data.listing.entries[row].path for row in rows)
        print_ = hashlib.sha256(f"{data.store.images.shape}{data.listing.classes}".encode())
        print_.update("".join(data.store.digests[row] for row in rows).encode())
        labels = data.labels[rows]
        print_.update(labels.tobytes())
        return Pool(data.listing.classes, data.store.images, rows, labels, paths, data.groups[rows], print_.hexdigest())
    splits = {name: getattr(data, name) for name in SPLITS}
    images = np.concatenate([split.images[split.rows] for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values()])
    paths = tuple(f"{name} {number}" for name, split in splits.items() for number in range(len(split)))
    alone = np.arange(len(images))
    return Pool(data.classes, images, alone, labels, paths, alone, data.fingerprint)


def deal(labels: Uint8, groups: NDArray[np.int64], parts: int, *, seed: int) -> NDArray[np.int64]:
    """Deal images out, whole groups, so that each class is spread evenly over the parts.

    Groups lie in the order of the rarest class that they carry, shuffled among equals, and are dealt like cards.

    Returns
    -------
    (n,), int64
        A part, from 0.
    """
    numbers, of_image = np.unique(groups, return_inverse=True)
    carried = np.zeros((len(numbers), labels.shape[1]), bool)
    np.logical_or.at(carried, of_image, labels == 1)
    rarity = np.argsort(np.argsort(carried.sum(axis=0), kind="stable"))
    rarest = np.where(carried, rarity, labels.shape[1]).min(axis=1)
    shuffled = np.random.default_rng(stream_seed(seed, Stream.SPLIT, parts)).permutation(len(numbers))
    order = shuffled[np.argsort(rarest[shuffled], kind="stable")]
    part = np.empty(len(numbers), np.int64)
    part[order] = np.arange(len(numbers)) % parts
    return part[of_image]


def out_of_fold(
    images: Pool,
    params: Params,
    *,
    folds: int = FOLDS,
    epochs: int = EPOCHS,
    seed: int = 0,
    on_epoch: OnFold | None = None,
) -> Floats:
    """Predict every image by a model that was trained without it and its group.

    Each fold is predicted by the best epoch of a fit to the others, of which one image in ten validates. What is done
    is kept in the cache folder: an interrupted call, made again, goes on from the fold's last epoch.

    Returns
    -------
    (n, classes), float64, probabilities

    Raises
    ------
    BadParams, BadData, BadWeights, Diverged
        As `fit`; or too few images for so many folds.
    """
    whole("folds", folds, "a whole number from 2 to 100", low=2, high=100)
    if (different := len(np.unique(images.groups))) < LEAST * folds:
        raise BadData(
            f"{different} different images are too few for {folds} folds; {LEAST * folds} are the least. Add images, "
            "or ask for fewer folds."
        )
    compute = choose(shape=Shape.of(params))
    home = _home(images, params, compute, folds=folds, epochs=epochs, seed=seed)
    part = deal(images.labels, images.groups, folds, seed=seed)
    probabilities = np.empty(images.labels.shape)
    for fold in range(folds):
        inside = part == fold
        probabilities[inside] = _told(
            _dataset(images, inside, f"{home.name}:{fold}", seed=seed),
            params,
            compute,
            home / f"{fold}",
            epochs=epochs,
            seed=seed,
            on_epoch=_numbered(on_epoch, fold + 1),
        )
    return probabilities


def _home(images: Pool, params: Params, compute: Compute, *, folds: int, epochs: int, seed: int) -> Path:
    """Return the folder of the folds of this very call."""
    asked = {
        "data": images.fingerprint,
        "params": params.to_flat(),
        "start": weights_digest(params.weights, params.backbone),
        "compute": asdict(compute),
        "folds": folds,
        "epochs": epochs,
        "seed": seed,
    }
    home = cache_dir() / "folds" / hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(
            f"The folds cannot be kept in {home}: {error.strerror}. Set MLC_CACHE to a folder one can write to."
        ) from None
    return home


def _dataset(images: Pool, inside: NDArray[np.bool_], name: str, *, seed: int) -> Dataset:
    outside = np.flatnonzero(~inside)
    validates = np.zeros(len(images), bool)
    validates[outside] = deal(images.labels[outside], images.groups[outside], VALIDATION, seed=seed) == 0
    train, val, test = (images.split(chosen) for chosen in (~inside & ~validates, validates, inside))
    return Dataset("fold", images.classes, train, val, test, f"fold:{name}")


def _numbered(on_epoch: OnFold | None, fold: int) -> Callable[[EpochReport], bool]:
    def report(told: EpochReport, /) -> bool:
        if on_epoch is not None:
            on_epoch(fold, told)
        return True

    return report


def _told(
    data: Dataset,
    params: Params,
    compute: Compute,
    place: Path,
    *,
    epochs: int,
    seed: int,
    on_epoch: Callable[[EpochReport], bool],
) -> Floats:
    """(n, classes): probabilities of a data set's test images; kept, while the fit's own state is dropped."""
    file = place.with_suffix(".npy")
    known = _read(file, data.test.labels.shape)
    if known is not None:
        return known
    fit(
        params,
        data,
        seed=seed,
        epochs=epochs,
        device=compute.device,
        precision=compute.precision,
        threads=compute.threads,
        on_epoch=on_epoch,
        checkpoint=place,
    )
    with computing(compute):
        predictor = Predictor([read_member(place / BEST)]).to(compute.device)
        told = sigmoid(infer(predictor, data.test.images, data.test.rows))
    content = io.BytesIO()
    np.save(content, told, allow_pickle=False)
    write_atomically(file, content.getbuffer())
    shutil.rmtree(place)
    return told


def _read(file: Path, shape: tuple[int, ...]) -> Floats | None:
    """Read what a fold told; None where it is absent or damaged, and must be told again."""
    try:
        told = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(told, np.ndarray):
        return None  # an archive of several
    return told if told.shape == shape and told.dtype == np.float64 else None
