"""Optuna's sampler and pruner as a declaration names them.

Not here: the options and their bounds (options.py).
"""

from __future__ import annotations

import math
import warnings
from typing import Any, assert_never, cast

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from mlc_core import Stream, stream_seed
from search.declaration import Declaration
from search.options import Asha, Curves, Gp, Hyperband, Median, NoPruner, Patient, Promote, Qmc, Random, Wilcoxon
from search.options import Tpe as TpeOptions
from search.tpe import History, Tpe, Weighing


def sampler(declaration: Declaration, number: int, *, earlier: BaseSampler | None = None) -> BaseSampler:
    """Make the sampler for one trial.

    Its seed is a function of the study's seed and the trial's number, never of the worker: several workers do
    not draw the same start, and what a trial draws does not depend on who draws it (QMC excepted:
    there the sequence's next point goes to whoever asks first).

    Parameters
    ----------
    earlier : BaseSampler, optional
        The same study's for another trial; what it knows of the trials need not be read again.
    """
    seed = stream_seed(declaration.seed, Stream.SAMPLER, number) % 2**32  # numpy's generators take 32 bits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match declaration.sampler:
            case TpeOptions(startup=startup, multivariate=multivariate, group=group, constant_liar=liar):
                options: dict[str, Any] = {
                    "seed": seed,
                    "n_startup_trials": startup,
                    "multivariate": multivariate,
                    "group": group,
                    "constant_liar": liar,
                }
                if declaration.weighs:  # ours knows neither two objectives nor constraints
                    return Weighing(**options)
                return Tpe(earlier.history if isinstance(earlier, Tpe) else History(), **options)
            case Curves(startup=startup):
                from search.curve_sampler import CurveSampler, Memory  # scipy: half a second, for workers alone

                memory = earlier.memory if isinstance(earlier, CurveSampler) else Memory()
                return CurveSampler(declaration, memory, seed=seed, startup=startup)
            case Gp(startup=startup):
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
            case Qmc():
                # One sequence for the whole study: here the seed must not change from trial to trial. What the
                # sequence has no place for, such as other schedulers' parameters, is drawn on the side.
                aside = optuna.samplers.RandomSampler(seed=seed)
                return optuna.samplers.QMCSampler(
                    seed=declaration.seed % 2**32, scramble=True, independent_sampler=aside
                )
            case Random():
                return optuna.samplers.RandomSampler(seed=seed)
            case other:
                assert_never(other)


def pruner(declaration: Declaration) -> BasePruner:
    """Make the pruner; the steps that it sees are epochs, counted from 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match declaration.pruner:
            case Hyperband(min_resource=first, reduction_factor=factor):
                # Left to "auto", nothing is pruned until a trial completes, and workers disagree on the brackets.
                return _Hyperband(min_resource=first, max_resource=declaration.epochs, reduction_factor=factor)
            case Asha(min_resource=first, reduction_factor=factor, min_early_stopping_rate=rate):
                return optuna.pruners.SuccessiveHalvingPruner(
                    min_resource=first, reduction_factor=factor, min_early_stopping_rate=rate
                )
            case Median(startup=startup, warmup=warmup, interval=interval):
                return optuna.pruners.MedianPruner(
                    n_startup_trials=startup, n_warmup_steps=warmup, interval_steps=interval
                )
            case Patient(patience=patience, min_delta=delta):
                return optuna.pruners.PatientPruner(None, patience=patience, min_delta=delta)
            case Wilcoxon(p_threshold=threshold, startup=startup):
                return optuna.pruners.WilcoxonPruner(p_threshold=threshold, n_startup_steps=startup)
            case NoPruner() | Promote():  # pauses are promotion.py's
                return optuna.pruners.NopPruner()
            case other:
                assert_never(other)


class _Hyperband(optuna.pruners.HyperbandPruner):
    """Optuna's brackets for one study; but at a rung a trial meets all that came as far, of whatever bracket.

    Optuna's meets those of its own bracket that were judged there: the first few of each bracket train to their end,
    however bad, and documented trials, which are never judged, are nobody's measure. Brackets still say at which
    epochs a trial is judged.
    """

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Tell whether the trial, at a rung of its bracket, is not among the best of 1 in `reduction_factor`."""
        if not self._pruners:
            self._try_initialization(study)
        epoch = trial.last_step
        if epoch is None or epoch not in self._rungs(self._get_bracket_id(study, trial)):
            return False
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
        own = sign * trial.intermediate_values[epoch]
        others = study.get_trials(deepcopy=False)
        reached = [sign * one.intermediate_values[epoch] for one in others if epoch in one.intermediate_values]
        better = sum(value < own for value in reached)
        return math.isnan(own) or better >= max(1, len(reached) // self._reduction_factor)

    def _rungs(self, bracket: int) -> list[int]:
        """List the epochs after which a trial of the bracket is judged; the last epoch leaves nothing to save."""
        epochs, factor = cast("int", self._max_resource), self._reduction_factor
        rungs = [self._min_resource * factor**bracket]
        while rungs[-1] * factor < epochs:
            rungs.append(rungs[-1] * factor)
        return rungs
