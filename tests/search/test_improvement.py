"""Expected improvements of one and of two objectives, against draws and numerical integration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from search.improvement import hypervolume_improvement, improvement

WORST = (2.0, 3.0)
VALUE, AT = st.floats(-2.0, 2.5), st.floats(-1.0, 3.5)
FRONT = st.lists(st.tuples(VALUE, AT), max_size=6)


def dominated(points: Sequence[tuple[float, float]]) -> float:
    """Area between the points and the reference, counted strip by strip from the right."""
    area, best = 0.0, WORST[0]
    inside = sorted((second, first) for first, second in points if first < WORST[0] and second < WORST[1])
    for place, (second, first) in enumerate(inside):
        best = min(best, first)
        end = inside[place + 1][0] if place + 1 < len(inside) else WORST[1]
        area += (end - second) * (WORST[0] - best)
    return area


@given(FRONT, VALUE, st.floats(0.05, 2.0), AT)
def test_it_is_the_integral_of_what_each_outcome_would_add_to_the_area(
    points: list[tuple[float, float]], mean: float, deviation: float, second: float
) -> None:
    before = dominated(points)

    def gain(first: float) -> float:
        return (dominated([*points, (first, second)]) - before) * float(norm.pdf(first, mean, deviation))

    bends = sorted({first for first, _ in points if first < WORST[0]})
    ends = [min(mean - 10 * deviation, -5.0), *bends, WORST[0]]
    exact = sum(quad(gain, low, high, limit=200)[0] for low, high in pairwise(ends))
    [found] = hypervolume_improvement(np.array([mean]), np.array([deviation]), np.array([second]), points, WORST)
    assert found == pytest.approx(exact, rel=1e-5, abs=1e-7)


def test_without_a_second_objective_to_tell_apart_it_is_the_expected_improvement() -> None:
    means, deviations = np.array([0.0, 1.0]), np.array([0.5, 0.2])
    alike = hypervolume_improvement(means, deviations, np.zeros(2), [(0.7, 0.0), (0.9, 0.0)], (1.5, 1.0))
    assert alike == pytest.approx(improvement(means, deviations, 0.7))


def test_what_is_as_good_gains_more_the_smaller_it_is_and_nothing_beyond_the_reference() -> None:
    seconds = np.array([0.5, 1.5, 2.5, 3.0, 9.0])
    found = hypervolume_improvement(np.zeros(5), np.full(5, 0.1), seconds, [(0.5, 1.0)], WORST)
    assert list(found) == sorted(found, reverse=True)
    assert (found[:3] > 0).all()
    assert found[3:] == pytest.approx([0.0, 0.0])


def test_a_large_network_is_expected_to_gain_where_a_small_one_is_sure_not_to() -> None:
    known = [(math.log(0.4), math.log(20.0)), (math.log(0.3), math.log(40.0))]
    worst = (math.log(0.6), math.log(90.0))
    means, deviations = np.log([0.45, 0.28]), np.array([0.02, 0.1])
    small, large = hypervolume_improvement(means, deviations, np.log([20.0, 40.0]), known, worst)
    assert small < 1e-3 < large
