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

from mlc_core import (
    SMALLEST_MICRO_BATCH,
    BadCheckpoint,
    Dataset,
    Diverged,
    EpochReport,
    OnEpoch,
    Params,
    Stream,
    best_epoch,
    best_on_disk,
    choose,
    fit,
    stream_seed,
)
from search.artifacts import fetch, store
from search.extrapolation import forecast
from search.layout import shape_of
from search.ledger import FAILURE, OUT_OF_MEMORY, Claim, ask
from search.notes import leave, picture
from search.options import Promote
from search.promotion import goes_on, rung_epochs
from search.signals import Stop
from search.space import suggest
from search.strategy import sampler
from search.study import COMPUTE, DIVERGED, FIT, METRICS, PRECISION, SECONDS, THREADS, Study, fit_spec
from search.trials import PAUSED, is_replay, together
from search.weighing import weigh

log = logging.getLogger(__name__)

METRICS_OF_AN_EPOCH: Final = ("train_loss", "val_loss", "macro_f1", "mean_ap")  # fields of EpochReport


@dataclass(frozen=True, slots=True)
class Finished:
    """Trained to full length."""

    value: float  # the objective's best over the epochs
    second: float | None = None  # the second objective's, where there is one


@dataclass(frozen=True, slots=True)
class Pruned:
    """Stopped early, by the pruner or because the loss diverged; or never begun, as it is over a limit."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The trial is another worker's by now; nothing of it may be written."""


@dataclass(frozen=True, slots=True)
class Paused:
    """Stopped at a rung; it goes on from its checkpoint if it is promoted."""


Outcome = Finished | Pruned | Paused | Lost


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
    checkpoint = fetch(root, study, claim)
    trial, spec, replay = begin(study, claim, precision=precision)
    footprint, too_much = weigh(study, trial, spec["params"], classes=len(data.classes), precision=precision)
    if too_much:
        return Pruned()
    reporter = Reporter(study, trial, root, claim, stop=stop, lost=lost, prune=not replay)
    micro_batch = _micro_batch(trial, spec["params"]["batch_size"])

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
                micro_batch=micro_batch,
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
        if not (reporter.stopped or lost.is_set() or best_on_disk(checkpoint) == reporter.best.epoch):
            log.warning("trial %d: its best weights were overwritten by a worker that had fallen silent", claim.number)
            value = train()
    except Diverged as error:
        reporter.note(ended=f"Diverged in epoch {error.epoch}, as {error.reason},")
        reason = f"epoch {error.epoch}: {error.reason}"
        trial.set_user_attr(DIVERGED, reason)
        return Pruned()
    if lost.is_set():
        return Lost()
    if reporter.paused:
        reporter.note(ended="Paused")
        return Paused()
    reporter.note(ended="Pruned" if reporter.pruned else "Complete")
    against = study.declaration.against
    second = footprint.of(against) if footprint is not None and against is not None else None
    return Pruned() if reporter.pruned else Finished(value, second)


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
        replay = is_replay(trial)
        seed = stream_seed(study.declaration.seed, Stream.TRIAL, claim.number)
        spec = trial.user_attrs[FIT] if replay else fit_spec(study.declaration, drawn, seed=seed)
        trial.set_user_attr(FIT, spec)
        trial.set_user_attr(COMPUTE, {"precision": precision, "threads": study.threads})
    return trial, spec, replay


def _micro_batch(trial: Trial, batch_size: int) -> int | None:
    """Tell how many images to pass at once: half as many for each worker that the trial took with it by its memory.

    Where memory runs out without a worker's death, the fit itself sees to it, and its checkpoint knows.
    """
    deaths = sum(OUT_OF_MEMORY in reason for reason in trial.user_attrs.get(FAILURE, []))
    return max(SMALLEST_MICRO_BATCH, batch_size >> deaths) if deaths else None


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

    def __init__(
        self, study: Study, trial: Trial, root: Path, claim: Claim, *, stop: Stop, lost: Event, prune: bool
    ) -> None:
        self._study, self._trial, self._root, self._claim = study, trial, root, claim
        self._stop, self._lost, self._prune = stop, lost, prune
        frozen = study.optuna._storage.get_trial(trial._trial_id)
        self._known = dict(frozen.intermediate_values)
        self._judged = max(self._known, default=0)  # the last epoch of an earlier attempt
        if frozen.system_attrs.get(PAUSED) == self._judged:
            self._judged += 1  # it was promoted from there
        self._reports: list[EpochReport] = []
        self._objective = study.declaration.objective
        self.pruned = self.paused = False

    @property
    def stopped(self) -> bool:
        """Whether training ended before its last epoch."""
        return self.pruned or self.paused

    @property
    def best(self) -> EpochReport:
        """The best epoch so far."""
        return best_epoch(self._reports, self._objective)

    def __call__(self, report: EpochReport, /) -> bool:
        """Write the report; False once the pruner stops the trial, or it is another worker's."""
        with self._stop.nowhere():
            self._reports[report.epoch - 1 :] = [report]  # where memory ran out, the fit begins again
            if self._lost.is_set():
                return False
            store(self._root, self._study, self._claim)
            self._report(report.epoch, report.value(self._objective))
            # Epochs of an earlier attempt were judged then; the last epoch leaves nothing to save.
            if self._prune and self._judged <= report.epoch < report.epochs:
                # With two objectives Optuna's trials neither report nor prune.
                self.pruned = self._study.declaration.against is None and self._trial.should_prune()
                self._judge(report.epoch)
        if not self.stopped:  # else it is over anyway, and the pruner would not say it a second time
            self._stop.check()
        return not self.stopped

    def _judge(self, epoch: int) -> None:
        """Pause at a rung, or stop what its curve shows to be hopeless, where the study does that."""
        declaration, number = self._study.declaration, self._claim.number
        if not isinstance(declaration.pruner, Promote):
            return
        trials = self._study.optuna.get_trials(deepcopy=False)
        if epoch in rung_epochs(declaration):
            self.paused = not goes_on(trials, number, epoch, declaration)
        elif declaration.pruner.extrapolate:
            foretold = forecast(trials, number, declaration)
            self.pruned = foretold is not None and foretold.hopeless

    def _report(self, epoch: int, value: float) -> None:
        if epoch not in self._known and self._study.declaration.against is None:
            self._trial.report(value, step=epoch)
        elif self._known.get(epoch) != value:  # Optuna's trial would leave the earlier one: of a larger micro-batch
            self._study.optuna._storage.set_trial_intermediate_value(self._trial._trial_id, epoch, value)
        self._known[epoch] = value

    def note(self, *, ended: str) -> None:
        """Store what the study's reports have no room for."""
        metrics = {name: [getattr(report, name) for report in self._reports] for name in METRICS_OF_AN_EPOCH}
        # By itself: should the trial be another's by now, its file is not written at all.
        picture(self._root, self._study, self._trial, self._reports)
        with together(self._study.storage):
            if self._reports:
                compute = {**self._trial.user_attrs[COMPUTE], "micro_batch": self._reports[-1].micro_batch}
                self._trial.set_user_attr(COMPUTE, compute)
            self._trial.set_user_attr(METRICS, metrics)
            self._trial.set_user_attr(SECONDS, round(sum(report.seconds for report in self._reports), 3))
            leave(self._study, self._trial, self._reports, ended=ended)
