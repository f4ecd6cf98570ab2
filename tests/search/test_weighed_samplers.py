"""Every sampler draws in a study of two objectives that has all kinds of trials, and in one with limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial, TrialState, create_trial

from mlc_core import Footprint
from search.declaration import Choice, Declaration, built_in
from search.footprints import CONSTRAINTS, LATENCY, OVER, SIZE, Architecture, constraints, spelled
from search.options import SAMPLERS, Sampler
from search.options import Tpe as TpeOptions
from search.space import suggest
from search.strategy import sampler
from search.tpe import Tpe, Weighing

TAKES = {"resnet10": Footprint(latency=2.0, size=20.0), "resnet18": Footprint(latency=4.0, size=45.0)}
TAKES["resnet50"] = Footprint(latency=30.0, size=94.0)


def declared(name: str, **rest: Any) -> Declaration:
    default = built_in("default")
    kind: Any = SAMPLERS[name]
    made: Sampler = kind(startup=4) if name in ("tpe", "gp", "curves") else kind()
    return replace(
        default,
        sampler=made,
        space={**default.space, "backbone": Choice(tuple(TAKES))},
        fixed={key: value for key, value in default.fixed.items() if key != "backbone"},
        limits={"latency": 10.0},
        **rest,
    )


def studied(declaration: Declaration) -> optuna.Study:
    """Make a study with complete, pruned, paused and running trials, and with some that were over the limit."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * (2 if declaration.against else 1))
    for backbone, footprint in TAKES.items():
        study.set_user_attr(Architecture(backbone, "standard", 32).key, spelled(footprint))
    for number in range(16):
        study.sampler = optuna.samplers.RandomSampler(seed=number)
        trial = Trial(study, study._storage.create_new_trial(study._study_id))
        flat = suggest(trial, declaration)
        footprint = TAKES[str(flat["backbone"])]
        trial.set_user_attr(LATENCY, footprint.latency)
        trial.set_user_attr(SIZE, footprint.size)
        left = constraints(footprint, declaration.limits)
        study._storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, left)
        if max(left) > 0:
            trial.set_user_attr(OVER, "latency 30 ms is over the limit of 10 ms")
            study._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
            continue
        for epoch in (1, 2):
            study._storage.set_trial_intermediate_value(trial._trial_id, epoch, float(flat["lr"]) / epoch)
        match number % 4:
            case 0:
                study._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
            case 1:
                study._storage.set_trial_system_attr(trial._trial_id, "mlc:paused", 2)
            case _:
                values = [float(flat["lr"]) / 2, footprint.latency][: len(study.directions)]
                study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, values)
    states = {one.state for one in study.trials}
    assert states >= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
    assert any(OVER in one.user_attrs for one in study.trials)
    return study


@pytest.mark.parametrize("against", ["latency", None])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_it_draws_what_the_space_holds_twice_the_same(name: str, against: str | None) -> None:
    declaration = declared(name, against=against)
    drawn = []
    for _ in range(2):
        study = studied(declaration)
        study.sampler = sampler(declaration, 99)
        trial = Trial(study, study._storage.create_new_trial(study._study_id))
        drawn.append(suggest(trial, declaration))
    assert drawn[0] == drawn[1]
    assert drawn[0]["backbone"] in TAKES
    if name == "curves":
        assert drawn[0]["backbone"] != "resnet50"


def test_plain_optunas_tpe_fails_at_a_pruned_trial_of_two_objectives() -> None:
    """Which is why `Weighing` keeps them from it."""
    declaration = declared("tpe", against="latency")
    study = studied(declaration)
    study.sampler = optuna.samplers.TPESampler(seed=1, n_startup_trials=4)
    trial = Trial(study, study._storage.create_new_trial(study._study_id))
    with pytest.raises(RuntimeError, match="multi-objective"):
        suggest(trial, declaration)


def test_tpe_knows_limits_by_optunas_own_sampler_and_goes_without_where_there_are_none() -> None:
    assert isinstance(sampler(declared("tpe"), 0), Weighing)
    assert isinstance(sampler(declared("tpe", against="size"), 0), Weighing)
    assert isinstance(sampler(replace(declared("tpe"), limits={}), 0), Tpe)


def test_tpe_keeps_away_from_what_was_over_a_limit() -> None:
    declaration = declared("tpe", against="latency")
    study = studied(declaration)
    for _ in range(20):
        params = {"backbone": "resnet50"}
        distributions: dict[str, BaseDistribution] = {"backbone": CategoricalDistribution(tuple(TAKES))}
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED, params=params, distributions=distributions, system_attrs={CONSTRAINTS: [20.0]}
            )
        )
    found = []
    for number in range(12):
        made = sampler(replace(declaration, sampler=TpeOptions(startup=4, multivariate=False, group=False)), number)
        space = CategoricalDistribution(tuple(TAKES))
        trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        found.append(made.sample_independent(study, trial, "backbone", space))
    assert found.count("resnet50") <= 3
