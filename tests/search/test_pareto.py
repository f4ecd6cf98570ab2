"""The front and the distance from it, beside what Optuna and counting by hand make of the same points."""

from __future__ import annotations

import math
from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.declaration import built_in
from search.footprints import LATENCY, SIZE
from search.options import Promote
from search.pareto import best_first, distances, front, order, second_of, standings
from search.promotion import goes_on, plan, ranking, rungs

TWO = replace(built_in("default"), epochs=9, against="size", pruner=Promote(min_resource=1, reduction_factor=3))
POINTS = st.dictionaries(
    st.integers(0, 50), st.tuples(st.integers(-3, 6).map(float), st.integers(0, 4).map(float)), max_size=20
)


def trial(number: int, losses: list[float], size: float, *, state: TrialState = TrialState.RUNNING) -> FrozenTrial:
    values = [min(losses), size] if state == TrialState.COMPLETE else None
    made = create_trial(
        state=state,
        values=values,
        intermediate_values=dict(enumerate(losses, start=1)),
        user_attrs={LATENCY: 1.0, SIZE: size},
        system_attrs={"mlc:paused": len(losses)} if state == TrialState.WAITING else {},
    )
    made.number = made._trial_id = number
    return made


@given(POINTS)
def test_the_front_is_the_one_that_optuna_finds(points: dict[int, tuple[float, float]]) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for first, second in points.values():
        study.add_trial(create_trial(values=[first, second]))
    names = list(points)
    theirs = {names[one.number] for one in study.best_trials}
    ours = front(points)
    assert set(ours) == theirs
    assert [points[one][0] for one in ours] == sorted(points[one][0] for one in ours)


@given(POINTS)
def test_a_distance_is_to_the_lowest_of_all_that_are_no_larger(points: dict[int, tuple[float, float]]) -> None:
    by_hand = {
        number: first - min(other for other, at in points.values() if at <= second)
        for number, (first, second) in points.items()
    }
    assert distances(points) == by_hand
    assert set(front(points)) <= {number for number, far in by_hand.items() if far == 0}


@given(POINTS, st.sets(st.integers(0, 50)))
def test_an_order_names_all_the_front_first_and_what_does_not_fit_last(
    points: dict[int, tuple[float, float]], fits: set[int]
) -> None:
    sorted_, leading = order(points, fits)
    assert sorted(sorted_) == sorted(points)
    fitting = {number: point for number, point in points.items() if number in fits}
    assert {points[one] for one in sorted_[:leading]} == {points[one] for one in front(fitting)}
    assert [one in fits for one in sorted_] == sorted((one in fits for one in sorted_), reverse=True)
    if fitting:
        assert points[sorted_[0]][0] == min(first for first, _ in fitting.values())


def test_what_never_gave_a_number_is_infinitely_far() -> None:
    assert distances({0: (math.inf, 1.0), 1: (0.5, 2.0), 2: (math.inf, 3.0)}) == {0: math.inf, 1: 0.0, 2: math.inf}


def test_with_one_objective_trials_are_compared_by_their_cost() -> None:
    one = replace(TWO, against=None)
    assert standings({3: 0.5, 4: 0.1}, [], one) == {3: 0.5, 4: 0.1}
    assert second_of(trial(0, [1.0], 7.0), one) == 0.0
    assert second_of(trial(0, [1.0], 7.0), TWO) == 7.0
    assert second_of(create_trial(value=1.0), replace(TWO, against="latency")) == math.inf


def test_a_small_network_with_a_higher_loss_goes_on_where_one_objective_would_pause_it() -> None:
    trials = [trial(number, [1.0 + number / 10], 50.0) for number in range(8)]
    trials.append(trial(8, [2.0], 10.0))  # the worst loss, and the only small one
    assert goes_on(trials, 8, 1, TWO)
    assert not goes_on(trials, 8, 1, replace(TWO, against=None))
    assert goes_on(trials, 0, 1, TWO)
    assert not goes_on(trials, 7, 1, TWO)
    [first, _] = rungs(trials, TWO)
    assert first.places[8] == 0.0
    assert first.places[7] == pytest.approx(math.log(1.7 / 1.0))


def test_the_small_one_is_promoted_and_what_is_far_from_the_front_is_given_up() -> None:
    trials = [trial(number, [1.0 + number], 50.0, state=TrialState.WAITING) for number in range(8)]
    trials.append(trial(8, [20.0], 10.0, state=TrialState.WAITING))
    made = plan(trials, TWO, left=0)
    assert made is not None
    assert made.promote[:2] == (0, 8)
    assert 8 in made.last
    assert 7 in made.give_up
    assert ranking(trials, TWO)[:2] == [0, 8]


def test_complete_trials_over_a_limit_come_last_however_good() -> None:
    ended = [trial(0, [0.1], 90.0, state=TrialState.COMPLETE), trial(1, [0.4], 20.0, state=TrialState.COMPLETE)]
    ended += [trial(2, [0.3], 40.0, state=TrialState.COMPLETE), trial(3, [0.5], 30.0, state=TrialState.COMPLETE)]
    sorted_, leading = best_first(ended, replace(TWO, limits={"size": 80.0}))
    assert [one.number for one in sorted_] == [2, 1, 3, 0]
    assert leading == 2
    assert [one.number for one in best_first(ended, TWO)[0]] == [0, 2, 1, 3]
