"""Which parameters decided how good a trial became, and which of that could be chance.

Not here: the order of the trials (evidence.py); how it is drawn (advice_tables.py).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, assert_never

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

from search.evidence import GROUP, LEAST, standing
from search.study import Study
from search.views import TrialRow, trial_rows

_TOP: Final = 0.1  # of the trials are the good ones, but GROUP at least
_SEED: Final = 0


class Method(StrEnum):
    """How importance is told."""

    PED_ANOVA = "ped-anova"
    FANOVA = "fanova"


_SHUFFLES: Final = {Method.PED_ANOVA: 100, Method.FANOVA: 0}  # a forest takes too long to grow that often


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Of one parameter."""

    key: str
    share: float  # of all parameters together
    chance: float | None  # what 19 of 20 shuffles stay below, on the same scale; None of fANOVA
    p: float | None  # how often a shuffle gives as much
    trials: int  # that have the parameter

    @property
    def told(self) -> bool | None:
        """Whether it is more than chance gives; None where that is not known."""
        return None if self.chance is None else self.share > self.chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Importances:
    """Of all parameters of a study, the most important first; none where there are too few trials."""

    method: Method
    rows: tuple[Importance, ...]
    trials: int  # behind them
    complete: int  # of these
    top: int  # of these that count as good, by PED-ANOVA
    paper: int  # replays of documented trials, which are left out
    untold: tuple[str, ...]  # parameters that the method has no figure for

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return asdict(self) | {"rows": [asdict(row) | {"told": row.told} for row in self.rows]}


def importances(study: Study, method: Method = Method.PED_ANOVA) -> Importances:
    """Say how much each parameter decides.

    Complete trials alone would hide what matters most: those that it made hopeless were pruned. And values of pruned
    trials, of early epochs, must not stand beside those of complete ones. So what is explained is the place in one
    order of all trials, see `search.evidence.standing`, and no value.

    Parameters
    ----------
    method : Method
        PED-ANOVA (Watanabe et al., IJCAI 2023; its conditional form, KDD 2026): how far the good trials keep to a part
        of a parameter's range in which the trials at large do not. It knows the schedulers' own parameters. Good are
        the best tenth, five trials at least. fANOVA (Hutter et al., ICML 2014): the share of a random forest's variance
        that a parameter explains over its whole range; of parameters that only some trials have it says nothing.

    Notes
    -----
    Both give some importance to everything. So, for PED-ANOVA, the places are dealt out to the trials anew, many times,
    and `chance` is what 19 of 20 of these stay below. Both tell what goes with good trials; a parameter that the
    sampler moved together with a decisive one takes part in its share.
    """
    rows = trial_rows(study)
    ranked = standing(rows)
    top = max(math.ceil(_TOP * len(ranked)), GROUP) if method is Method.PED_ANOVA else 0
    facts = Importances(
        method=method,
        rows=(),
        trials=len(ranked),
        complete=sum(row.state == "complete" for row in ranked),
        top=top,
        paper=sum(row.paper is not None for row in rows),
        untold=(),
    )
    if len(ranked) < LEAST:
        return facts
    known = _known(study, ranked)
    keys = sorted({key for trial in known.get_trials(deepcopy=False) for key in trial.params})
    having = {key: sum(key in row.params for row in ranked) for key in keys}
    evaluator = _evaluator(method, top / len(ranked))
    places = np.arange(len(ranked), dtype=float)
    seen = _evaluate(known, evaluator, places)
    random = np.random.default_rng(_SEED)
    shuffled = [_evaluate(known, evaluator, random.permutation(places)) for _ in range(_SHUFFLES[method])]
    total = float(sum(seen.values())) or 1.0
    found = [
        Importance(
            key=key,
            share=float(value / total),
            chance=float(np.quantile([one[key] for one in shuffled], 0.95)) / total if shuffled else None,
            p=(1 + sum(one[key] >= value for one in shuffled)) / (len(shuffled) + 1) if shuffled else None,
            trials=having[key],
        )
        for key, value in seen.items()
    ]
    return replace(
        facts,
        rows=tuple(sorted(found, key=lambda row: (-row.share, row.key))),
        untold=tuple(key for key in keys if key not in seen),
    )


def _known(study: Study, ranked: Sequence[TrialRow]) -> optuna.Study:
    """Put trials into a study of their own, in memory, each valued by its place; Optuna's evaluators ask a study."""
    frozen = {trial.number: trial for trial in study.optuna.get_trials(deepcopy=False)}
    known = optuna.create_study()
    for at, row in enumerate(ranked):
        trial = frozen[row.number]
        known.add_trial(
            optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=float(at))
        )
    return known


def _evaluator(method: Method, top: float) -> BaseImportanceEvaluator:
    match method:
        case Method.PED_ANOVA:
            return PedAnovaImportanceEvaluator(target_quantile=top)
        case Method.FANOVA:
            return FanovaImportanceEvaluator(seed=_SEED)
        case other:
            assert_never(other)


def _evaluate(known: optuna.Study, evaluator: BaseImportanceEvaluator, places: NDArray[np.float64]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # normalize is marked so
        warnings.simplefilter("ignore", UserWarning)  # a scheduler of one trial; that low values are better: they are
        return optuna.importance.get_param_importances(
            known, evaluator=evaluator, target=lambda trial: float(places[trial.number]), normalize=False
        )
