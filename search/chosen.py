"""The model that comes out of a study: one trial's weights or an ensemble, calibrated, with thresholds, and scored.

Nothing of it is stored: the weights are kept, and the rest follows from them and the validation split in seconds.
Not here: how it is printed (drawing.py), drawn (figures.py) or shipped (mlc_core).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from mlc_core import (
    Blend,
    Calibration,
    Dataset,
    Goal,
    Member,
    Predictions,
    Predictor,
    Scores,
    Thresholds,
    blend,
    calibrate,
    infer,
    one_for_all,
    per_class,
    predict_split,
    read_member,
    score,
    seconds_of,
    select,
    tune_with_evidence,
)
from search.artifacts import weights_path
from search.confirm import verdicts
from search.errors import SearchError, TrialNotFound
from search.study import Study
from search.views import TrialRow, leaderboard, trial_rows

Which = int | Literal["best", "ensemble"]
Way = Literal["0.5", "global", "per class", "tuned"]

TIMED: Final = 250  # images, over which a latency is measured
REPEATS: Final = 3


class NoWeights(SearchError):
    """The weights of the trial that is asked for were not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trial whose weights are kept."""

    row: TrialRow
    study: str
    weights: Path

    @property
    def name(self) -> str:
        """Name it in a sentence."""
        if self.row.repeats is not None:
            return f"trial {self.row.repeats} with seed {self.row.seed}"
        return f"trial {self.row.number}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """A model of a study with all that was found out about it."""

    name: str  # "trial 5" or "ensemble of 4 models"
    why: str  # in a sentence
    candidates: tuple[Candidate, ...]  # its members
    members: tuple[Member, ...]
    shares: tuple[float, ...]  # of the members
    average: Blend
    calibration: Calibration  # fitted on validation
    thresholds: Thresholds  # tuned on validation
    val: Predictions  # calibrated
    test: Predictions
    plain_val: Predictions  # as the network says them
    plain_test: Predictions

    def predictor(self) -> Predictor:
        """Put it together as one network."""
        scale, shift = self.calibration.scale, self.calibration.shift
        return Predictor(self.members, self.shares, average=self.average, scale=scale, shift=shift)

    @cached_property
    def scores(self) -> Scores:
        """How good it is on the test split at the tuned thresholds; a bootstrap, so once."""
        return score(self.test, self.thresholds.values)

    def by_way(self) -> dict[Way, Scores]:
        """Score the test split with each way of finding thresholds, all of them on validation."""
        goal, classes = self.thresholds.goal, len(self.test.classes)
        return {
            "0.5": score(self.plain_test, [0.5] * classes),
            "global": score(self.test, [one_for_all(self.val, goal)] * classes),
            "per class": score(self.test, per_class(self.val, goal)),
            "tuned": self.scores,
        }

    def latency(self, data: Dataset) -> float:
        """Milliseconds an image on this machine, in batches; the fastest of a few goes."""
        predictor, rows = self.predictor(), data.test.rows[:TIMED]
        seconds = seconds_of(lambda: infer(predictor, data.test.images, rows), fewest=REPEATS, most=REPEATS)
        return 1000 * min(seconds) / len(rows)


def candidates(study: Study, confirmation: Study | None, root: Path) -> list[Candidate]:
    """List the trials of a study and its confirmation whose weights are there, best first."""
    found: list[Candidate] = []
    for one in (study, confirmation):
        if one is None:
            continue
        trials = {trial.number: trial for trial in one.optuna.get_trials(deepcopy=False)}
        paths = ((row, weights_path(root, trials[row.number])) for row in leaderboard(trial_rows(one)))
        found += [Candidate(row=row, study=one.name, weights=weights) for row, weights in paths if weights is not None]
    return sorted(found, key=lambda candidate: (bool(candidate.row.over), candidate.row.rank))


def choose(study: Study, confirmation: Study | None, root: Path, data: Dataset, *, which: Which, goal: Goal) -> Chosen:
    """Choose a model on the validation split, calibrate it and tune its thresholds there; predict the test split.

    Parameters
    ----------
    which : trial number, "best" or "ensemble"
        "best" is the trial that was confirmed as the best, by its best seed; without a confirmation the one with
        the best value. "ensemble" is selected from all kept weights.

    Raises
    ------
    NoWeights
    """
    kept = candidates(study, confirmation, root)
    if not kept:
        hint = "Run the search first, or name its folder with --artifacts."
        raise NoWeights(f"No weights of study {study.name!r} are kept in {root}. {hint}")
    if which == "ensemble":
        return _ensemble(kept, data, goal)
    if which == "best":
        best, why = _best(study, confirmation, kept)
    else:
        best, why = _asked(study, kept, which), "asked for"
    member = read_member(best.weights)
    told = predict_split([member], data.val)
    return _finish([best], [member], told, [1.0], "probabilities", data, goal, name=best.name, why=why)


def _best(study: Study, confirmation: Study | None, kept: Sequence[Candidate]) -> tuple[Candidate, str]:
    first = next(iter(verdicts(study, confirmation)), None) if confirmation is not None else None
    if first is not None:
        own = [one for one in kept if one.row.repeats == first.row.trial.number]
        if own:
            runs = len(first.row.values)
            return own[0], f"trial {first.row.trial.number} was confirmed as the best over {runs} seeds"
    own = [one for one in kept if one.row.repeats is None] or [*kept]
    if own[0].row.against is not None:
        return own[0], "of the front the best by the first objective"
    return own[0], f"the best {'of the search' if own[0].row.repeats is None else 'whose weights are kept'}"


def _asked(study: Study, kept: Sequence[Candidate], number: int) -> Candidate:
    for one in kept:
        if one.row.repeats is None and one.row.number == number:
            return one
    if number >= (trials := len(trial_rows(study))):
        raise TrialNotFound(study.name, number, trials)
    there = ", ".join(str(one.row.number) for one in kept if one.row.repeats is None)
    raise NoWeights(f"The weights of trial {number} of study {study.name!r} are not kept; there are those of: {there}.")


def _ensemble(kept: Sequence[Candidate], data: Dataset, goal: Goal) -> Chosen:
    members = [read_member(one.weights) for one in kept]
    told = predict_split(members, data.val)
    chosen = select(told)
    places = sorted((at for at, share in enumerate(chosen.weights) if share), key=lambda at: -chosen.weights[at])
    return _finish(
        [kept[at] for at in places],
        [members[at] for at in places],
        [told[at] for at in places],
        [chosen.weights[at] for at in places],
        chosen.average,
        data,
        goal,
        name=f"ensemble of {len(places)} models",
        why=f"selected greedily from {len(kept)} kept models on the validation split",
    )


def _finish(
    own: Sequence[Candidate],
    members: Sequence[Member],
    told: Sequence[Predictions],
    shares: Sequence[float],
    average: Blend,
    data: Dataset,
    goal: Goal,
    *,
    name: str,
    why: str,
) -> Chosen:
    plain_val, plain_test = (blend(each, shares, average) for each in (told, predict_split(members, data.test)))
    calibration = calibrate(plain_val)
    val = calibration(plain_val)
    return Chosen(
        name=name,
        why=why,
        candidates=tuple(own),
        members=tuple(members),
        shares=tuple(shares),
        average=average,
        calibration=calibration,
        thresholds=tune_with_evidence(val, calibration.half, goal),
        val=val,
        test=calibration(plain_test),
        plain_val=plain_val,
        plain_test=plain_test,
    )
