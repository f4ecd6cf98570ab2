"""Labels that a person found to be wrong, as a CSV file, laid over those that a data set says.

Not here: which labels may be wrong (mlc_core/label_errors.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mlc_core.data.listing import Listing, quoted
from mlc_core.data.readers.files import File
from mlc_core.data.readers.tables import Table, delimited
from mlc_core.errors import BadData, did_you_mean

PATH: Final = "path"
CLASS: Final = "class"
SUGGESTED: Final = "suggested"  # 1: the image carries the class, 0: it does not
COLUMNS: Final = (PATH, CLASS, SUGGESTED)  # that are read; others may be there


def corrected(listing: Listing, file: Path) -> Listing:
    """Lay the corrections of a file over a listing's labels; what is already as it says stays.

    Parameters
    ----------
    listing : Listing
    file : Path
        CSV with the columns of COLUMNS, one row an image and class.

    Raises
    ------
    BadData
        Naming the first row that is not of this data set or contradicts another one.
    """
    table = delimited(File(file, file.name), ",")
    if table.problems:
        raise BadData(str(table.problems[0]))
    places = _places(table)
    classes = {name: number for number, name in enumerate(listing.classes)}
    labels = {entry.path: set(entry.labels) for entry in listing.entries}
    said: dict[tuple[str, str], tuple[str, str]] = {}
    for where, cells in table.rows:
        path, name, word = (str(cells[place]) for place in places)
        if path not in labels:
            raise BadData(f"{where}: {quoted(path)} is no image of {listing.root}. Take the row out, or fix the path.")
        if name not in classes:
            raise BadData(
                f"{where}: {quoted(name)} is no class of {listing.root}. Take the row out, or fix the name."
                f"{did_you_mean(name, classes)}"
            )
        if word not in ("0", "1"):
            raise BadData(f"{where}: column {SUGGESTED} holds {quoted(word)}, which is not 0 or 1. Mend it.")
        before, first = said.setdefault((path, name), (word, where))
        if before != word:
            raise BadData(f"{where}: it contradicts {first}. Keep one of the rows.")
        (labels[path].add if word == "1" else labels[path].discard)(classes[name])
    entries = (replace(entry, labels=tuple(sorted(labels[entry.path]))) for entry in listing.entries)
    return replace(listing, entries=tuple(entries))


def _places(table: Table) -> list[int]:
    header: Mapping[str, int] = {name: place for place, name in enumerate(table.header)}
    if missing := [name for name in COLUMNS if name not in header]:
        raise BadData(
            f"{table.file.name}, row 1: there is no column {missing[0]}. Corrections have the columns "
            f"{', '.join(COLUMNS)}; mlc-search labels check --csv FILE writes them."
        )
    return [header[name] for name in COLUMNS]
