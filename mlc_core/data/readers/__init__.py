"""From a path to a listing: which format it is, told by content, and its reader.

Not here: how a format spells its labels (one file a format); whether an image can be used (mlc_core/data/listing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from mlc_core.data.listing import Listing, listing
from mlc_core.data.readers import coco, folders, manifest, openimages, voc, yolo
from mlc_core.data.readers.files import Found, files_in
from mlc_core.errors import BadData, did_you_mean

__all__ = ["FORMATS", "read_listing"]


@dataclass(frozen=True, slots=True)
class _Format:
    fits: Callable[[Path], bool] | None  # None: `folders.which` tells
    read: Callable[[Path], Found]
    looked_for: str


_READERS: Final[Mapping[str, _Format]] = {
    "csv": _Format(
        partial(manifest.fits, kind="csv"), partial(manifest.read, kind="csv"), "a CSV file with a column path"
    ),
    "tsv": _Format(
        partial(manifest.fits, kind="tsv"), partial(manifest.read, kind="tsv"), "a TSV file with a column path"
    ),
    "jsonl": _Format(
        partial(manifest.fits, kind="jsonl"), partial(manifest.read, kind="jsonl"), "JSON lines with a key path"
    ),
    "parquet": _Format(
        partial(manifest.fits, kind="parquet"), partial(manifest.read, kind="parquet"), "a Parquet file"
    ),
    "coco": _Format(coco.fits, coco.read, "JSON with images, annotations and categories"),
    "voc": _Format(voc.fits, voc.read, "Annotations/*.xml or ImageSets/Main/*.txt"),
    "openimages": _Format(
        openimages.fits, openimages.read, f"a CSV file with the columns {', '.join(openimages.COLUMNS)}"
    ),
    "yolo": _Format(yolo.fits, yolo.read, "labels/*.txt beside images/"),
    "label-folders": _Format(
        None,
        partial(folders.read, kind="label-folders"),
        "folders named for several labels, as black_jeans",
    ),
    "class-folders": _Format(
        None,
        partial(folders.read, kind="class-folders"),
        "a folder a class",
    ),
}
FORMATS: Final[tuple[str, ...]] = ("auto", *_READERS)


def read_listing(
    path: Path,
    *,
    format: str = "auto",  # noqa: A002 - the word of the command line
    skip_bad: bool = False,
) -> Listing:
    """List the images of a data set with their labels; no image is opened.

    Parameters
    ----------
    path : Path
        A manifest, an annotation file or a folder.
    format : str
        One of FORMATS; "auto" finds it out by looking.
    skip_bad : bool
        Leave out what cannot be used, and say so in `Listing.problems`, instead of raising.

    Raises
    ------
    BadData
        The format is unknown, not recognised or could be two; the file is not what its format says; an image cannot
        be used; fewer than two classes.
    """
    if format not in FORMATS:
        raise BadData(f"format {format!r} is not one of {', '.join(FORMATS)}.{did_you_mean(format, FORMATS)}")
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise BadData(f"{path}: it is not there. Fix the path.")
    chosen = _recognised(path) if format == "auto" else format
    found = _READERS[chosen].read(path)
    return listing(
        found.root, found.rows, format=chosen, classes=found.classes, problems=found.problems, skip_bad=skip_bad
    )


def _recognised(path: Path) -> str:
    """Find the one format that fits."""
    fitting = [name for name, reader in _READERS.items() if reader.fits is not None and reader.fits(path)]
    if not fitting and (kind := folders.which(path)):  # after all others, whose images may lie in folders as well
        fitting = [kind]
    fitting = fitting or _by_suffix(path)
    if not fitting:
        looked_for = "; ".join(f"{reader.looked_for} ({name})" for name, reader in _READERS.items())
        raise BadData(f"{path}: it is no data set that is known here. Looked for: {looked_for}.")
    if len(fitting) > 1:
        raise BadData(f"{path}: it could be {' or '.join(fitting)}. Say which by --format {fitting[0]}.")
    return fitting[0]


def _by_suffix(path: Path) -> list[str]:
    """Choose a format by the name of the only file that could be one: its reader says what is wrong with it."""
    kinds = {"csv": ".csv", "tsv": ".tsv", "jsonl": ".jsonl", "parquet": ".parquet", "coco": ".json"}
    named = [name for name, suffix in kinds.items() for file in files_in(path, (suffix,)) if file.path.suffix == suffix]
    return named if len(named) == 1 else []
