"""What the sampler of curves learns, believes and proposes, on real learning curves and on ones with a known best."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mlc_core import Value
from search.curve_sampler import MOST, CurveSampler, Memory, believe, levels, propose
from search.declaration import built_in
from search.encoding import Encoding
from search.fidelity_gp import FidelityGp, Level
from search.improvement import improvement
from search.options import Curves, NoPruner, Promote
from search.space import distribution, domains, suggest
from search.strategy import sampler
from tests.benchmarks.search.record import losses_of, params_of
from tests.benchmarks.search.surrogate import TABLE

STUDY = replace(built_in("default"), sampler=Curves(startup=5), pruner=Promote(min_resource=1, reduction_factor=7))
SPACE = Encoding.of(STUDY)


def frozen(number: int, flat: Mapping[str, Value], losses: list[float], *, paused: bool = False) -> FrozenTrial:
    made = create_trial(
        state=TrialState.COMPLETE,
        value=min(losses, default=1.0),
        params=dict(flat),
        distributions={key: distribution(key, one) for key, one in domains(STUDY, flat["scheduler"]).items()},
        intermediate_values=dict(enumerate(losses, start=1)),
    )
    made.number = made._trial_id = number
    if paused:
        made.state, made.values = TrialState.WAITING, None
    return made


def recorded() -> list[FrozenTrial]:
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["drawn"] == "random" and row["loss12"]]
    return [frozen(number, params_of(row), losses_of(row)) for number, row in enumerate(rows)]


def test_ends_of_real_trainings_are_believed_from_one_epoch_and_a_few_whole_ones() -> None:
    trials = recorded()[:80]
    rng = np.random.default_rng(0)
    whole = set(rng.permutation(80)[:25].tolist())
    seen = [
        trial
        if trial.number in whole
        else frozen(trial.number, trial.params, [trial.intermediate_values[1]], paused=True)
        for trial in trials
    ]
    beliefs = believe(seen, STUDY, SPACE, Memory())
    ends = np.array([math.log(min(trial.intermediate_values.values())) for trial in trials])
    open_ = np.array([trial.number not in whole for trial in trials])
    assert np.corrcoef(beliefs.means[open_], ends[open_])[0, 1] > 0.8
    off = (ends - beliefs.means)[open_] / beliefs.deviations[open_]
    assert np.mean(np.abs(off) < 2) > 0.75
    assert np.allclose(beliefs.means[~open_], ends[~open_])


def test_the_model_foretells_the_last_level_of_a_known_function() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((60, 2))
    first = np.sin(3 * points[:, 0])
    last = first - 1.0 + 0.5 * points[:, 1]
    levels_ = [Level(points, first, np.zeros(60)), Level(points[:15], last[:15], first[:15])]
    model = FidelityGp(levels_, np.array([False, False]), np.array([0.5, 0.5]), ratios=[1.0, 12.0])
    unknown = np.full(45, math.nan)
    means, deviations = model.predict([points[15:]] * 2, [unknown, unknown])
    assert np.sqrt(np.mean((means - last[15:]) ** 2)) < 0.1
    assert np.mean(np.abs(means - last[15:]) < 3 * deviations) > 0.9
    known, _ = model.predict([points[15:]] * 2, [first[15:], unknown])
    assert np.sqrt(np.mean((known - last[15:]) ** 2)) < 0.05


def test_a_level_that_nobody_has_reached_is_foretold_with_more_doubt() -> None:
    points = np.random.default_rng(0).random((20, 2))
    lowest = Level(points, points[:, 0], np.zeros(20))
    nobody = Level(np.empty((0, 2)), np.empty(0), np.empty(0))
    model = FidelityGp([lowest, nobody], np.array([False, False]), np.array([0.5, 0.5]), ratios=[1.0, 12.0])
    means, deviations = model.predict([points] * 2, [points[:, 0], np.full(20, math.nan)])
    assert (means < points[:, 0]).all()
    assert (deviations > 0.2).all()


def test_expected_improvement_is_the_mean_over_draws() -> None:
    rng = np.random.default_rng(0)
    means, deviations = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 0.1])
    drawn = rng.normal(means, deviations, size=(200_000, 3))
    assert improvement(means, deviations, 0.2) == pytest.approx(np.maximum(0.2 - drawn, 0).mean(axis=0), abs=0.005)


def searched(seed: int, trials: int) -> optuna.Study:
    """Search for the learning rate 1e-4 with much dropout: a bowl, the same at every epoch but for its depth."""
    study = optuna.create_study()
    declaration = replace(STUDY, seed=seed)
    for number in range(trials):
        study.sampler = sampler(declaration, number, earlier=study.sampler)
        trial = Trial(study, study._storage.create_new_trial(study._study_id))
        flat = suggest(trial, declaration)
        bowl = (math.log10(float(flat["lr"])) + 4) ** 2 + 2 * (0.6 - float(flat["dropout"])) ** 2
        for epoch in range(1, STUDY.epochs + 1):
            trial.report(math.exp(bowl) / (1 + epoch), epoch)
        study.tell(trial, math.exp(bowl) / (1 + STUDY.epochs))
    return study


def test_it_finds_the_bottom_of_a_bowl_that_random_draws_seldom_come_near() -> None:
    for seed in (0, 1):
        best = searched(seed, 25).best_trial
        assert abs(math.log10(best.params["lr"]) + 4) < 0.15
        assert best.params["dropout"] > 0.4


def test_what_it_draws_depends_on_number_seed_and_history_alone() -> None:
    first, second = (searched(3, 9).get_trials(deepcopy=False) for _ in range(2))
    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert searched(4, 3).trials[1].params != first[1].params


def test_a_proposal_keeps_away_from_what_runs() -> None:
    trials = recorded()[:30]
    beliefs = believe(trials, STUDY, SPACE, Memory())
    alone = propose(beliefs, np.random.default_rng(0))
    running = frozen(99, alone, [])
    running.state, running.values = TrialState.RUNNING, None
    beside = propose(believe([*trials, running], STUDY, SPACE, Memory()), np.random.default_rng(0))
    assert beside != alone


def test_of_thousands_of_trials_the_model_sees_the_best_and_the_latest() -> None:
    rng = np.random.default_rng(0)
    trials = [frozen(number, SPACE.draw(rng), [float(rng.random()) + 0.1]) for number in range(1000)]
    seen = believe(trials, STUDY, SPACE, Memory()).trials
    assert len(seen) == MOST
    best = min(trials, key=lambda trial: trial.intermediate_values[1])
    assert {best.number, 999} <= {trial.number for trial in seen}


def test_a_trial_that_diverged_at_once_counts_as_bad_as_the_worst() -> None:
    *trials, other = recorded()[:21]
    bad, twin = frozen(20, other.params, []), frozen(20, other.params, [0.0], paused=True)
    bad.state, bad.values = TrialState.PRUNED, None
    twin.intermediate_values = {1: max(trial.intermediate_values[1] for trial in trials)}
    beliefs = believe([*trials, bad], STUDY, SPACE, Memory())
    assert beliefs.trials[-1].number == 20
    assert beliefs.means == pytest.approx(believe([*trials, twin], STUDY, SPACE, Memory()).means)
    assert beliefs.means[-1] > beliefs.means[:-1].mean()
    without = believe(trials, STUDY, SPACE, Memory()).foretell([other.params])[0][0]
    assert beliefs.foretell([other.params])[0][0] > without


def test_levels_are_the_rungs_and_the_thirds_of_a_whole_training() -> None:
    assert levels(STUDY) == [1, 4, 8, 12]
    assert levels(replace(STUDY, pruner=NoPruner())) == [4, 8, 12]
    assert levels(replace(STUDY, epochs=2, pruner=NoPruner())) == [1, 2]
    assert levels(replace(STUDY, epochs=1)) == [1]


def test_a_sampler_takes_over_what_the_one_before_has_fitted() -> None:
    earlier = sampler(STUDY, 0)
    later = sampler(STUDY, 1, earlier=earlier)
    assert isinstance(earlier, CurveSampler)
    assert isinstance(later, CurveSampler)
    assert later.memory is earlier.memory
