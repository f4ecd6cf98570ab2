"""From a claimed trial to a fit and back: the only file that knows both Optuna's trials and `mlc_core.fit`.

Not here: who claims and who writes the end (worker.py).
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

from optuna.trial import Trial

from mlc_core import BadCheckpoint, Dataset, Diverged, EpochReport, OnEpoch, Params, Stream, choose, fit, stream_seed
from search.artifacts import checkpoint_folder
from search.layout import shape_of
from search.ledger import Claim, ask
from search.notes import leave, picture
from search.signals import Stop
from search.space import suggest
from search.strategy import sampler
from search.study import (
    COMPUTE,
    DIVERGED,
    FIT,
    METRICS,
    PAPER,
    PRECISION,
    REPEATS,
    SECONDS,
    THREADS,
    Study,
    fit_spec,
)
from search.trials import together

log = logging.getLogger(__name__)

METRICS_OF_AN_EPOCH: Final = ("train_loss", "val_loss", "macro_f1", "mean_ap")  # fields of EpochReport


@dataclass(frozen=True, slots=True)
class Finished:
    """Trained to full length."""

    value: float  # the objective's best over the epochs


@dataclass(frozen=True, slots=True)
class Pruned:
    """Stopped early, by the pruner or because the loss diverged; the pruner's view of it is its last report."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The trial is another worker's by now; nothing of it may be written."""


Outcome = Finished | Pruned | Lost


def run_trial(
    study: Study, claim: Claim, *, data: Dataset, precision: str, root: Path, stop: Stop, lost: Event
) -> Outcome:
    """Train a claimed trial, going on from its checkpoint if it has one.

    Parameters
    ----------
    precision : str
        The study's, see `study_precision`.
    root : Path
        The artifact folder.
    stop : Stop
        Once asked, training ends at once; the checkpoint of the last whole epoch stays.
    lost : Event
        Set when the trial turns out to be no longer this worker's.

    Raises
    ------
    Interrupted
        The stop was asked.
    MlcError
        As `mlc_core.fit` does, but for a divergence or a damaged checkpoint, which are dealt with here.
    """
    checkpoint = checkpoint_folder(root, study, claim.number)
    trial, spec, replay = begin(study, claim, precision=precision)
    reporter = Reporter(study, trial, stop=stop, lost=lost, prune=not replay)

    def train() -> float:
        with stop.anywhere():
            return fit(
                Params.from_flat(spec["params"]),
                data,
                seed=spec["seed"],
                epochs=spec["epochs"],
                precision=precision,
                objective=study.declaration.objective,
                threads=study.threads,
                on_epoch=reporter,
                checkpoint=checkpoint,
            )

    try:
        try:
            value = train()
        except BadCheckpoint as error:
            log.warning("trial %d starts again: %s", claim.number, error)
            shutil.rmtree(checkpoint)
            value = train()
    except Diverged as error:
        reporter.note(root, ended=f"Diverged in epoch {error.epoch}, as {error.reason},")
        reason = f"epoch {error.epoch}: {error.reason}"
        trial.set_user_attr(DIVERGED, reason)
        return Pruned()
    if lost.is_set():
        return Lost()
    reporter.note(root, ended="Pruned" if reporter.pruned else "Complete")
    return Pruned() if reporter.pruned else Finished(value)


def begin(study: Study, claim: Claim, *, precision: str) -> tuple[Trial, dict[str, Any], bool]:
    """Draw what the claimed trial tries, unless an earlier attempt did or it brings everything along.

    Returns
    -------
    Trial
        It can report.
    dict
        What its fit is given, see `search.study.fit_spec`.
    bool
        Whether it replays or repeats another: then it is never pruned.
    """
    study.optuna.sampler = sampler(study.declaration, claim.number, earlier=study.optuna.sampler)
    trial = ask(study.optuna, claim)
    with together(study.storage):
        drawn = suggest(trial, study.declaration)
        replay = PAPER in trial.user_attrs or REPEATS in trial.user_attrs
        seed = stream_seed(study.declaration.seed, Stream.TRIAL, claim.number)
        spec = trial.user_attrs[FIT] if replay else fit_spec(study.declaration, drawn, seed=seed)
        trial.set_user_attr(FIT, spec)
        trial.set_user_attr(COMPUTE, {"precision": precision, "threads": study.threads})
    return trial, spec, replay


def study_precision(study: Study) -> str:
    """Read the precision in which all trials of the study compute; the first to ask measures it.

    A worker that somebody starts before any run has settled the threads settles them at one: it has nothing to tell how
    many others there will be beside it.
    """
    if study.declaration.threads is None:
        study.ledger.remember(THREADS, "1")
    if (known := study.optuna.user_attrs.get(PRECISION)) is not None:
        return str(known)
    measured = choose(threads=study.threads, shape=shape_of(study.declaration))
    return study.ledger.remember(PRECISION, measured.precision)


class Reporter(OnEpoch):
    """Tells the study of each epoch, and the fit whether to go on."""

    def __init__(self, study: Study, trial: Trial, *, stop: Stop, lost: Event, prune: bool) -> None:
        self._study, self._trial, self._stop, self._lost, self._prune = study, trial, stop, lost, prune
        frozen = study.optuna._storage.get_trial(trial._trial_id)
        self._known = frozenset(frozen.intermediate_values)  # reported by an earlier attempt
        self._reports: list[EpochReport] = []
        self._objective = study.declaration.objective
        self.pruned = False

    def __call__(self, report: EpochReport, /) -> bool:
        """Write the report; False once the pruner stops the trial, or it is another worker's."""
        with self._stop.nowhere():
            self._reports.append(report)
            if self._lost.is_set():
                return False
            if report.epoch not in self._known:
                self._trial.report(report.value(self._objective), step=report.epoch)
            # Epochs of an earlier attempt were judged then; the last epoch leaves nothing to save.
            if self._prune and max(self._known, default=0) <= report.epoch < report.epochs:
                self.pruned = self._trial.should_prune()
        if not self.pruned:  # else it is over anyway, and the pruner would not say it a second time
            self._stop.check()
        return not self.pruned

    def note(self, root: Path, *, ended: str) -> None:
        """Store what the study's reports have no room for."""
        metrics = {name: [getattr(report, name) for report in self._reports] for name in METRICS_OF_AN_EPOCH}
        # By itself: should the trial be another's by now, its file is not written at all.
        picture(root, self._study, self._trial, self._reports)
        with together(self._study.storage):
            self._trial.set_user_attr(METRICS, metrics)
            self._trial.set_user_attr(SECONDS, round(sum(report.seconds for report in self._reports), 3))
            leave(self._study, self._trial, self._reports, ended=ended)
