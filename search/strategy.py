"""Optuna's sampler and pruner as a declaration names them.

Not here: the options and their bounds (options.py).
"""

from __future__ import annotations

import warnings
from typing import assert_never

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from mlc_core import Stream, stream_seed
from search.declaration import Declaration
from search.options import Asha, Gp, Hyperband, Median, NoPruner, Patient, Qmc, Random, Tpe, Wilcoxon


def sampler(declaration: Declaration, number: int) -> BaseSampler:
    """Make the sampler for one trial.

    Its seed is a function of the study's seed and the trial's number, never of the worker: several workers do
    not draw the same start, and what a trial draws does not depend on who draws it (QMC excepted:
    there the sequence's next point goes to whoever asks first).
    """
    seed = stream_seed(declaration.seed, Stream.SAMPLER, number) % 2**32  # numpy's generators take 32 bits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match declaration.sampler:
            case Tpe(startup=startup, multivariate=multivariate, group=group, constant_liar=liar):
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=startup,
                    multivariate=multivariate,
                    group=group,
                    constant_liar=liar,
                )
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
                return optuna.pruners.HyperbandPruner(
                    min_resource=first, max_resource=declaration.epochs, reduction_factor=factor
                )
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
            case NoPruner():
                return optuna.pruners.NopPruner()
            case other:
                assert_never(other)
