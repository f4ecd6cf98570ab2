"""Images to learn from without their labels: a data set's, or a mere folder's.

Not here: what is learnt from them (mlc_core/pretrain.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlc_core.data.dataset import Dataset, Split
from mlc_core.data.digits import digits
from mlc_core.data.listing import Problem, Row, first_of, listing
from mlc_core.data.load import read_data
from mlc_core.data.readers import folders
from mlc_core.data.readers.files import tree
from mlc_core.data.store import OnProgress, prepare
from mlc_core.errors import BadData

UNLABELLED: Final = "unlabelled"  # in place of a format

_LABEL_FILES: Final = frozenset({".csv", ".tsv", ".jsonl", ".parquet", ".json", ".xml", ".txt", ".yaml", ".yml"})


@dataclass(frozen=True, eq=False)
class Source:
    """Images to learn from, and where they come from.

    Attributes
    ----------
    images : Split
        Whose labels, if there are any, are not used.
    mean, std : (3,), float32
        As `Dataset.channel_stats`: of the data's training images, as a fit has them, or of these.
    fingerprint : str
        Equal for equal images.
    data : Dataset or None
        That the images are of; None where nothing is known but the images.
    problems : tuple of Problem
        What was left out.
    """

    name: str
    images: Split
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    fingerprint: str
    data: Dataset | None = None
    problems: tuple[Problem, ...] = ()


def gather(
    path: Path | None,
    *,
    format: str = "auto",  # noqa: A002 - the word of the command line
    image_size: int = 32,
    seed: int = 0,
    skip_bad: bool = False,
    on_progress: OnProgress | None = None,
) -> Source:
    """Find the images to learn from.

    Parameters
    ----------
    path : Path, optional
        A data set as `load_dataset` reads it, of which all images are taken but those of the test split; or a folder
        of images without labels, of which all are. By default the training images of the digit scenes.
    format : str
        As `load_dataset` takes it, or "unlabelled".
    image_size : int
        Pixels, both sides, of the decoded images.
    seed : int
        Of the splits, where the data set does not say them; as the study's, so that it has the same test split.
    skip_bad : bool
        Go on without what cannot be used, instead of raising.

    Raises
    ------
    BadData, BadParams
        As `load_dataset`.
    """
    if path is None:
        data = digits()
        return Source(data.name, data.train, *data.channel_stats, data.fingerprint, data)
    if format == UNLABELLED or (format == "auto" and _without_labels(path)):
        return _folder(path, image_size, skip_bad=skip_bad, on_progress=on_progress)
    loaded = read_data(
        path, format=format, image_size=image_size, seed=seed, skip_bad=skip_bad, on_progress=on_progress
    )
    data = loaded.dataset()
    rows = np.union1d(data.train.rows, data.val.rows)
    images = Split(loaded.store.images, loaded.labels[rows], rows)
    return Source(data.name, images, *data.channel_stats, data.fingerprint, data, loaded.problems)


def _without_labels(path: Path) -> bool:
    """Tell a mere folder of images: no file that could hold labels, no folders named for them."""
    if not path.is_dir():
        return False
    spoken = any(Path(file).suffix.lower() in _LABEL_FILES for file in tree(path).files)
    return not spoken and folders.which(path) is None


def _folder(path: Path, size: int, *, skip_bad: bool, on_progress: OnProgress | None) -> Source:
    if not path.is_dir():
        raise BadData(f"{path}: it is no folder of images ({UNLABELLED}). Give one.")
    below = tree(path)
    rows = [Row(path=image, labels=(), where=image) for image in below.images]
    # A listing has two classes at least; here no image carries either.
    listed = listing(
        path, rows, format=UNLABELLED, classes=(UNLABELLED, "labelled"), problems=below.problems, skip_bad=skip_bad
    )
    store = prepare(listed, size, on_progress=on_progress)
    if store.problems and not skip_bad:
        raise BadData(first_of(list(store.problems.values())))
    problems = (*listed.problems, *store.problems.values())
    if len(store.good) < 2:
        raise BadData(f"{path}: two images at least are needed to learn from, {len(store.good)} can be used.")
    images = Split(store.images, np.zeros((len(store.good), 1), np.uint8), store.good)
    digest = hashlib.sha256("".join(store.digests[row] for row in store.good).encode()).hexdigest()
    fingerprint = f"{UNLABELLED}:{digest[:16]}"
    stats = Dataset(listed.root.name, (UNLABELLED,), images, images, images, fingerprint).channel_stats
    return Source(listed.root.name, images, *stats, fingerprint, problems=problems)
