"""The data that a study trains on: the same images, labels and splits for every worker on every machine, or an error.

Not here: how data are read (mlc_core).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import cast

from mlc_core import DEFAULTS, BackboneName, Dataset, OnProgress, Problem, StemName, Value, digits, read_data
from search.declaration import Choice, Declaration, Range
from search.errors import DataChanged
from search.study import DATA, Study


@dataclass(frozen=True, slots=True)
class Source:
    """Where data lie on this machine."""

    path: Path
    format: str = "auto"
    skip_bad: bool = False
    corrections: Path | None = None  # a CSV file of labels that are laid over the data's own


def open_data(
    study: Study, asked: Source | None, *, on_progress: OnProgress | None = None
) -> tuple[Dataset, tuple[Problem, ...]]:
    """Read the data of a study; the first to do so decides for all what they are and how they are split.

    Parameters
    ----------
    asked : Source, optional
        Where they lie here; by default where they lay when the study was started.
    on_progress : callable, optional
        Called with the number of decoded images and of all.

    Returns
    -------
    Dataset, problems
        The second is what was left out because the source says to skip what is bad.

    Raises
    ------
    DataChanged
        The study was started with others, or they are not where they lay.
    BadData
        As `mlc_core.read_data`.
    """
    known = _remembered(study)
    source = asked or (known.source if known else None)
    if source is not None and source.corrections is None and known is not None and known.source is not None:
        source = replace(source, corrections=known.source.corrections)
    if asked is None and source is not None and not source.path.exists():
        problem = f"they lay in {source.path}, which is not there. Say each time where they are now: --data PATH"
        raise DataChanged(study.name, problem)
    problems: tuple[Problem, ...] = ()
    if source is None:
        data, splits = digits(), None
    else:
        loaded = read_data(
            source.path,
            format=source.format,
            image_size=largest_image(study.declaration),
            seed=study.declaration.seed,
            splits=known.splits if known else None,
            skip_bad=source.skip_bad,
            corrections=source.corrections,
            on_progress=on_progress,
        )
        data, splits, problems = loaded.dataset(), loaded.spelled_splits(), loaded.problems
    if known is None:
        known = _remember(study, _Known(source, data.fingerprint, splits))
    if data.fingerprint != known.fingerprint:
        started = known.source.path if known.source else "the embedded digit scenes"
        problem = f"it was started with {started} ({known.fingerprint}), these are {data.fingerprint}"
        hint = 'Name the data it was started with, or give the search a study of its own: name = "..." in its file'
        raise DataChanged(study.name, f"{problem}. {hint}")
    return data, problems


def largest_image(declaration: Declaration) -> int:
    """Pixels, both sides, at which the data are kept: the most that a trial of the study can ask for."""
    return max(int(size) for size in _ends(declaration, "image_size"))


def check_starts(declaration: Declaration) -> None:
    """Download and read whatever weights a trial of the study can start from, before one does.

    Raises
    ------
    BadParams, BadWeights
        As `mlc_core.check_weights`.
    """
    if set(_ends(declaration, "weights")) == {"none"}:
        return
    from mlc_core import check_weights  # imports torch

    for weights, backbone, stem in product(*(_ends(declaration, key) for key in ("weights", "backbone", "stem"))):
        check_weights(str(weights), backbone=cast("BackboneName", backbone), stem=cast("StemName", stem))


def _ends(declaration: Declaration, key: str) -> tuple[Value, ...]:
    """Values that a parameter can have; of a range its ends."""
    match declaration.space.get(key):
        case Choice(values=values):
            return values
        case Range(low=low, high=high):
            return low, high
        case None:
            return (declaration.fixed.get(key, DEFAULTS[key]),)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a study remembers of its data."""

    source: Source | None  # None: the embedded digit scenes
    fingerprint: str
    splits: str | None


def _remembered(study: Study) -> _Known | None:
    attributes = study.optuna.user_attrs
    return _read(attributes[DATA]) if DATA in attributes else None


def _remember(study: Study, known: _Known) -> _Known:
    source = known.source and {
        key: str(value.resolve()) if isinstance(value, Path) else value for key, value in asdict(known.source).items()
    }
    table = {"source": source, "fingerprint": known.fingerprint, "splits": known.splits}
    return _read(study.ledger.remember(DATA, json.dumps(table)))


def _read(text: str) -> _Known:
    table = json.loads(text)
    if (told := table["source"]) is None:
        return _Known(None, table["fingerprint"], table["splits"])
    corrections = told.get("corrections")
    told |= {"path": Path(told["path"]), "corrections": corrections and Path(corrections)}
    return _Known(Source(**told), table["fingerprint"], table["splits"])
