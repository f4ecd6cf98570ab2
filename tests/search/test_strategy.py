"""Samplers and pruners do what the declaration says; and what Optuna 5 really does where its documentation errs."""

from __future__ import annotations

import copy
import math
from binascii import crc32
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from mlc_core import OBJECTIVES, Stream, Value, stream_seed
from search.curve_sampler import CurveSampler, Memory, believe, propose
from search.declaration import Declaration, built_in, from_table
from search.encoding import Encoding
from search.options import Hyperband, Tpe
from search.promotion import rung_epochs
from search.space import suggest
from search.strategy import pruner, sampler
from search.trials import PAPER
from tests.search.test_declaration import DECLARATIONS, DEFAULT, UNHURRIED

EPOCHS = 12  # of a trial, as studies/default.toml says
NAME = "hyperband"
SEED = 0  # whatever it is
SHARED = {"optimizer", "lr", "weight_decay", "dropout", "batch_size", "scheduler"}
BRANCHES = {"step_size", "gamma", "factor", "patience", "t_max"}
TPE_AND_HYPERBAND = replace(built_in("default"), sampler=Tpe(), pruner=Hyperband())


def declared(**tables: object) -> Declaration:
    """Make the default study, but for these tables."""
    return from_table({**DEFAULT, **tables}, where="x")


def options(made: BaseSampler | BasePruner) -> dict[str, object]:
    """All that its constructor kept, random generators and functions aside."""
    return {key: value for key, value in vars(made).items() if isinstance(value, int | float | str | None)}


def finished(study: optuna.Study, declaration: Declaration, trials: int) -> None:
    """Finish that many random trials, the better the lower their learning rate."""
    for _ in range(trials):
        study.sampler = optuna.samplers.RandomSampler(seed=len(study.trials))
        trial = study.ask()
        drawn = suggest(trial, declaration)
        study.tell(trial, float(drawn["lr"]))


def proposal(declaration: Declaration, number: int, *, history: int = 0) -> dict[str, Value]:
    """Ask as trial `number` of a study of its own, which has so many finished trials."""
    study = optuna.create_study()
    finished(study, declaration, history)
    study.sampler = sampler(declaration, number)
    return suggest(study.ask(), declaration)


@pytest.mark.parametrize(
    ("table", "by_hand"),
    [
        (
            {"name": "tpe", "startup": 7, "multivariate": True, "group": True, "constant_liar": False},
            optuna.samplers.TPESampler(
                seed=SEED, n_startup_trials=7, multivariate=True, group=True, constant_liar=False
            ),
        ),
        (
            {"name": "tpe", "startup": 0, "multivariate": False, "group": False, "constant_liar": True},
            optuna.samplers.TPESampler(
                seed=SEED, n_startup_trials=0, multivariate=False, group=False, constant_liar=True
            ),
        ),
        ({"name": "gp", "startup": 7}, optuna.samplers.GPSampler(seed=SEED, n_startup_trials=7)),
        ({"name": "qmc"}, optuna.samplers.QMCSampler(seed=SEED, scramble=True)),
        ({"name": "random"}, optuna.samplers.RandomSampler(seed=SEED)),
    ],
)
def test_a_sampler_is_optunas_own_with_the_declared_options(table: dict[str, Any], by_hand: BaseSampler) -> None:
    made = sampler(declared(sampler=table, seed=SEED), 0)
    assert isinstance(made, type(by_hand))  # ours does Optuna's work with less: see below
    assert options(made) == options(by_hand)


@pytest.mark.parametrize(
    ("table", "by_hand"),
    [
        (
            {"name": "hyperband", "min_resource": 2, "reduction_factor": 4},
            optuna.pruners.HyperbandPruner(min_resource=2, max_resource=EPOCHS, reduction_factor=4),
        ),
        (
            {"name": "asha", "min_resource": 2, "reduction_factor": 3, "min_early_stopping_rate": 1},
            optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3, min_early_stopping_rate=1),
        ),
        (
            {"name": "median", "startup": 7, "warmup": 2, "interval": 3},
            optuna.pruners.MedianPruner(n_startup_trials=7, n_warmup_steps=2, interval_steps=3),
        ),
        (
            {"name": "patient", "patience": 4, "min_delta": 0.01},
            optuna.pruners.PatientPruner(None, patience=4, min_delta=0.01),
        ),
        (
            {"name": "wilcoxon", "p_threshold": 0.2, "startup": 4},
            optuna.pruners.WilcoxonPruner(p_threshold=0.2, n_startup_steps=4),
        ),
        ({"name": "none"}, optuna.pruners.NopPruner()),
        ({"name": "promote", "min_resource": 2, "reduction_factor": 3}, optuna.pruners.NopPruner()),  # trials pause
    ],
)
def test_a_pruner_is_optunas_own_with_the_declared_options(table: dict[str, Any], by_hand: BasePruner) -> None:
    made = pruner(declared(pruner=table))
    assert isinstance(made, type(by_hand))
    assert options(made) == options(by_hand)


def test_the_sampler_of_curves_draws_at_random_until_so_many_trials_as_declared_have_told() -> None:
    declaration = declared(sampler={"name": "curves", "startup": 5}, seed=3)
    study, space = optuna.create_study(), Encoding.of(declaration)
    drawn = []
    for number in range(6):
        study.sampler = sampler(declaration, number)
        assert isinstance(study.sampler, CurveSampler)
        before, trial = study.get_trials(), study.ask()
        rng = np.random.default_rng(stream_seed(3, Stream.SAMPLER, number) % 2**32)
        if number == 5:
            by_hand = propose(believe(before, declaration, space, Memory()), rng)
        else:
            by_hand = space.draw(rng) if number else space.near_default()
        drawn.append(suggest(trial, declaration))
        assert drawn[-1].items() >= by_hand.items()
        trial.report(1 + float(drawn[-1]["lr"]), step=1)
        study.tell(trial, state=TrialState.PRUNED)
    rng = np.random.default_rng(stream_seed(3, Stream.SAMPLER, 5) % 2**32)
    assert not drawn[5].items() >= space.draw(rng).items()


def test_a_study_that_promotes_pauses_trials_at_the_declared_epochs_and_prunes_none() -> None:
    declaration = declared(pruner={"name": "promote", "min_resource": 2, "reduction_factor": 3})
    assert rung_epochs(declaration) == [2, 6]
    study = optuna.create_study(pruner=pruner(declaration))
    assert [trained(study, value) for value in range(20)] == [None] * 20
    assert rung_epochs(TPE_AND_HYPERBAND) == []


@UNHURRIED
@given(DECLARATIONS, st.integers(0, 10_000))
def test_optuna_takes_the_options_of_any_declaration(declaration: Declaration, number: int) -> None:
    assert isinstance(sampler(declaration, number), BaseSampler)
    assert isinstance(pruner(declaration), BasePruner)


@pytest.mark.parametrize("name", ["curves", "tpe", "gp", "random"])
def test_a_trials_first_draw_depends_on_its_number_and_the_seed_alone(name: str) -> None:
    here, other = declared(sampler={"name": name}), declared(sampler={"name": name}, seed=1)
    assert proposal(here, 7, history=1) == proposal(here, 7, history=1)
    assert (
        proposal(here, 8, history=1)["lr"] != proposal(here, 7, history=1)["lr"] != proposal(other, 7, history=1)["lr"]
    )


def test_no_two_of_a_hundred_trials_start_alike() -> None:
    default = built_in("default")
    assert len({proposal(default, number, history=1)["lr"] for number in range(100)}) == 100


def test_the_sampler_of_curves_begins_with_the_default_configuration_even_behind_documented_trials() -> None:
    study, declaration = optuna.create_study(), built_in("default")
    study.enqueue_trial({"lr": 1e-4}, user_attrs={PAPER: 1})
    study.ask()
    study.sampler = sampler(declaration, 1)
    drawn = suggest(study.ask(), declaration)
    assert drawn == {**drawn, "optimizer": "adamw", "batch_size": 64, "scheduler": "cosine", "t_max": 12}
    assert [drawn[key] for key in ("lr", "weight_decay", "dropout")] == pytest.approx([1e-3, 1e-4, 0.2])
    assert proposal(declaration, 0) == drawn


def test_what_tpe_proposes_depends_on_number_seed_and_history_alone() -> None:
    known = proposal(TPE_AND_HYPERBAND, 20, history=20)
    assert proposal(TPE_AND_HYPERBAND, 20, history=20) == known
    assert proposal(TPE_AND_HYPERBAND, 21, history=20)["lr"] != known["lr"]
    assert proposal(TPE_AND_HYPERBAND, 20, history=19)["lr"] != known["lr"]


def ended(study: optuna.Study, trial: Trial, how: int) -> None:
    """End a trial in one of the ways there are, or leave it running."""
    lr = float(trial.params["lr"])
    for epoch in range(1, how):
        trial.report(math.nan if how == 5 else lr / epoch, step=epoch)
    match how:
        case 0:
            study.tell(trial, state=TrialState.FAIL)
        case 1 | 2 | 3 | 5:
            study.tell(trial, state=TrialState.PRUNED)
        case 4:
            pass
        case _:
            study.tell(trial, round(lr, 3))  # several are equal


@pytest.mark.parametrize("table", [{}, {"group": False}, {"constant_liar": False}, {"multivariate": False}])
@pytest.mark.parametrize("objective", ["bce", "macro_f1"])
def test_ours_draws_what_optunas_tpe_draws_from_the_same_trials(table: dict[str, bool], objective: str) -> None:
    table = {"group": False, **table} if "multivariate" in table else table
    declaration = declared(sampler={"name": "tpe", **table}, pruner={"name": "hyperband"}, objective=objective)
    study = optuna.create_study(direction=OBJECTIVES[declaration.objective], pruner=pruner(declaration))
    rng = np.random.default_rng(0)
    before, late = sampler(declaration, 0), []
    for number in range(60):
        ours = before = sampler(declaration, number, earlier=before)
        options: dict[str, Any] = {"multivariate": True, "group": True, "constant_liar": True, **table}
        theirs = optuna.samplers.TPESampler(**options)
        theirs._rng.rng.set_state(ours._rng.rng.get_state())  # type: ignore[attr-defined]
        theirs._random_sampler = copy.deepcopy(ours._random_sampler)  # type: ignore[attr-defined]
        drawn, trials = [], []
        for one in (theirs, ours):
            study.sampler = one
            trials.append(study.ask())
            drawn.append(suggest(trials[-1], declaration))
            if one is theirs:  # as if it had never been: neither finished nor running
                study.tell(trials[-1], state=TrialState.FAIL)
        assert drawn[0] == drawn[1], number
        assert trials[0].relative_params == trials[1].relative_params
        late.append((trials[1], int(rng.integers(8))))
        while len(late) > 3:  # they finish in another order than they began
            ended(study, *late.pop(int(rng.integers(len(late)))))


def test_a_seed_beyond_32_bits_makes_every_sampler() -> None:
    for name in ("curves", "tpe", "gp", "qmc", "random"):
        assert proposal(declared(sampler={"name": name}, seed=2**63 - 1), 5).keys() > SHARED


def test_quasi_monte_carlo_repeats_no_value_not_even_of_another_scheduler() -> None:
    declaration = declared(sampler={"name": "qmc"})
    study = optuna.create_study()
    trials = []
    for number in range(32):
        study.sampler = sampler(declaration, number)
        trials.append(study.ask())
        suggest(trials[-1], declaration)
        study.tell(trials[-1], 0.5)
    for key in ("lr", "gamma", "factor"):
        values = [trial.params[key] for trial in trials if key in trial.params]
        assert len(set(values)) == len(values) >= 3


def test_quasi_monte_carlo_is_one_sequence_whoever_asks() -> None:
    # Of the first 16 points of a Sobol sequence, each sixteenth of the axis holds one.
    space = {"dropout": {"low": 0.0, "high": 0.5}}
    declaration = from_table({"name": "x", "sampler": {"name": "qmc"}, "space": space}, where="x")
    study = optuna.create_study()
    values = []
    for number in range(17):
        study.sampler = sampler(declaration, number)
        trial = study.ask()
        values.append(float(suggest(trial, declaration)["dropout"]))
        study.tell(trial, 0.5)
    assert sorted(int(32 * value) for value in values[1:]) == list(range(16))  # the first trial is drawn at random


def bracket(number: int) -> int:
    """Hyperband's, by hand: 12 epochs by fours make floor(log4(12)) + 1 = 2 brackets, of 2 * 4 / 2 and 2 / 1 shares."""
    return 0 if crc32(f"{NAME}_{number}".encode()) % (4 + 2) < 4 else 1


def hyperband_study() -> optuna.Study:
    return optuna.create_study(study_name=NAME, pruner=pruner(TPE_AND_HYPERBAND))


def trained(study: optuna.Study, value: float) -> int | None:
    """Run a trial of one value throughout: the epoch after which it is pruned."""
    trial = study.ask()
    for epoch in range(1, EPOCHS + 1):
        trial.report(value, step=epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, value)
    return None


def test_hyperband_judges_after_epochs_1_and_4_by_bracket() -> None:
    study = hyperband_study()
    stopped = [trained(study, number) for number in range(40)]  # each is worse than all before it
    assert stopped == [None, *([1, 4][bracket(number)] for number in range(1, 40))]
    assert {bracket(number) for number in range(1, 40)} == {0, 1}


def test_hyperband_lets_the_best_of_1_in_4_go_on_among_all_that_came_as_far() -> None:
    for direction, sign in ((StudyDirection.MINIMIZE, 1), (StudyDirection.MAXIMIZE, -1)):
        study = optuna.create_study(study_name=NAME, pruner=pruner(TPE_AND_HYPERBAND), direction=direction)
        for value in range(11):  # they never ask, as documented trials do not
            told = study.ask()
            for epoch in range(1, EPOCHS + 1):
                told.report(sign * value, step=epoch)
            study.tell(told, sign * value)

        assert trained(study, sign * 1.5) is None  # the third of twelve
        assert trained(study, sign * 2.5) in (1, 4)  # the fourth of thirteen


def test_hyperband_stops_what_became_nan() -> None:
    study = hyperband_study()
    for number in range(5):
        assert trained(study, -number) is None
    assert trained(study, math.nan) in (1, 4)


def test_a_trials_bracket_is_the_same_for_every_worker() -> None:
    study = hyperband_study()
    trained(study, -1)
    for number in range(1, 20):
        study.pruner = pruner(TPE_AND_HYPERBAND)  # a worker that has just come
        assert trained(study, number) == [1, 4][bracket(number)]


def beside(pruner_name: str, *, startup: int) -> dict[str, Value]:
    """What TPE proposes for trial 14 after 13 finished ones, with a pruner that has been at work."""
    declaration = declared(pruner={"name": pruner_name}, sampler={"name": "tpe", "startup": startup})
    study = optuna.create_study(study_name=NAME, pruner=pruner(declaration))
    finished(study, declaration, 13)
    trained(study, 99)  # from here on the pruner knows its brackets
    study.sampler = sampler(declaration, 14)
    return suggest(study.ask(), declaration)


def test_tpe_beside_hyperband_learns_from_the_trials_of_all_brackets() -> None:
    # Optuna's documentation of Hyperband says that each bracket needs its own ten random trials. Had it been
    # so, with fewer than ten trials in the bracket of its own this proposal would be a random one.
    assert [bracket(number) for number in range(14)].count(bracket(14)) < 10
    assert beside("hyperband", startup=10) == beside("none", startup=10) != beside("none", startup=1000)


@pytest.mark.parametrize(("group", "jointly"), [(True, SHARED | BRANCHES), (False, SHARED)])
def test_the_schedulers_parameters_are_modelled_jointly_only_in_groups(group: bool, jointly: set[str]) -> None:
    declaration = declared(sampler={"name": "tpe", "group": group})
    study = optuna.create_study()
    finished(study, declaration, 30)  # by then each scheduler has had its turn
    study.sampler = sampler(declaration, 30)
    assert study.ask().relative_params.keys() == jointly


def test_grouped_proposals_are_trials_like_any_other() -> None:
    declaration = TPE_AND_HYPERBAND
    study = optuna.create_study()
    finished(study, declaration, 30)
    for number in range(30, 40):
        study.sampler = sampler(declaration, number)
        trial = study.ask()
        proposed = trial.relative_params
        assert suggest(trial, declaration).items() >= trial.params.items()
        assert trial.params.items() <= proposed.items()
        study.tell(trial, 0.5)


def test_pruned_trials_that_reported_nothing_stop_neither_tpe_nor_hyperband() -> None:
    declaration = TPE_AND_HYPERBAND
    study = hyperband_study()
    for number in range(15):
        study.sampler = sampler(declaration, number)
        trial = study.ask()
        suggest(trial, declaration)
        assert not trial.should_prune()
        study.tell(trial, state=TrialState.PRUNED)
    study.sampler = sampler(declaration, 15)
    assert study.ask().relative_params.keys() >= SHARED  # fifteen are enough to learn from
    assert trained(study, 0.5) is None
