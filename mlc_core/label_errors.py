"""Labels that are likely wrong: what models that never saw an image say of it, against what it carries.

Not here: the models (folds.py); the pictures (search/label_page.py); how corrections are laid over a data set
(data/corrections.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from mlc_core.data.corrections import CLASS, PATH, SUGGESTED
from mlc_core.errors import MissingExtra
from mlc_core.folds import FOLDS, Pool
from mlc_core.predictions import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """One label of one image that is likely wrong."""

    path: str
    name: str  # of the class
    given: int  # 1: the image carries it, 0: it does not
    suggested: int  # the other one
    probability: float  # out of fold, that the image carries it
    score: float  # how sure the model is that the label is wrong: 1 minus the probability of the given one


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCheck:
    """What was found in a data set's labels."""

    images: int
    classes: tuple[str, ...]
    positives: tuple[int, ...]  # images of each class
    unchecked: tuple[str, ...]  # classes that too few images carry, or too few do not, to learn them in every fold
    found: tuple[Suspicion, ...]  # the surest first

    def of(self, name: str) -> tuple[Suspicion, ...]:
        """Those of one class."""
        return tuple(each for each in self.found if each.name == name)

    def to_table(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)

    def to_csv(self) -> str:
        """One row a suspicion, which ``read_data(..., corrections=...)`` takes back once a person took out some."""
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")  # keeps a name's outer spaces
        writer.writerow((PATH, CLASS, "given", SUGGESTED, "probability", "score"))
        writer.writerows(
            (each.path, each.name, each.given, each.suggested, round(each.probability, 6), round(each.score, 6))
            for each in self.found
        )
        return text.getvalue()


def require_cleanlab() -> None:
    """Refuse, before models are trained, what could not be told from them.

    Raises
    ------
    MissingExtra
        cleanlab is not installed.
    """
    if find_spec("cleanlab") is None:
        raise MissingExtra("Looking for label errors", "labels")


def suspicious(images: Pool, probabilities: Floats, *, folds: int = FOLDS) -> LabelCheck:
    """Tell the labels that are likely wrong by confident learning, a class at a time.

    How many labels of a class are wrong is estimated from how many images lie beyond the mean confidence of the other
    label (Northcutt, Jiang & Chuang 2021, eq. 1 and 3; for many labels Thyagarajan et al. 2022); they are those whose
    given label has the lowest probability.

    Parameters
    ----------
    images : Pool
    probabilities : (n, classes), float64
        From `out_of_fold`.
    folds : int
        A class is left out that fewer images carry, or do not.

    Raises
    ------
    MissingExtra
        cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    positives = images.labels.sum(axis=0, dtype=np.int64)
    checked = np.flatnonzero((positives >= folds) & (len(images) - positives >= folds))
    found = np.zeros(images.labels.shape, bool)
    if len(checked):
        given = [np.flatnonzero(row).tolist() for row in images.labels[:, checked]]
        found[:, checked] = find_multilabel_issues_per_class(
            given, probabilities[:, checked], filter_by="low_self_confidence", n_jobs=1
        )
    places: Iterable[tuple[int, int]] = zip(*map(np.ndarray.tolist, np.nonzero(found)), strict=True)
    told = [_suspicion(images, probabilities, row, at) for row, at in places]
    return LabelCheck(
        images=len(images),
        classes=images.classes,
        positives=tuple(positives.tolist()),
        unchecked=tuple(name for at, name in enumerate(images.classes) if at not in checked),
        found=tuple(sorted(told, key=lambda each: (-each.score, each.path, each.name))),
    )


def _suspicion(images: Pool, probabilities: Floats, row: int, at: int) -> Suspicion:
    given, probability = int(images.labels[row, at]), float(probabilities[row, at])
    return Suspicion(
        path=images.paths[row],
        name=images.classes[at],
        given=given,
        suggested=1 - given,
        probability=probability,
        score=1 - probability if given else probability,
    )
