"""Forecasts of how a training ends, against real trainings of the default study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.declaration import built_in
from search.extrapolation import FEWEST, Forecast, forecast
from tests.benchmarks.search.surrogate import TABLE, read_curves

STUDY = built_in("default")


def trial(number: int, losses: Sequence[float], *, running: bool = False) -> FrozenTrial:
    state = TrialState.RUNNING if running else TrialState.COMPLETE
    made = create_trial(
        state=state,
        value=None if running else min(losses),
        intermediate_values=dict(enumerate(losses, start=1)),
    )
    made.number = number
    return made


@pytest.fixture(scope="module")
def recorded() -> list[list[float]]:
    """Whole curves but for the worst fifth, which is hardly trained beyond the first rungs."""
    whole = [curve for curve in read_curves(TABLE) if len(curve) == STUDY.epochs]
    return sorted(whole, key=min)[: 4 * len(whole) // 5]


def foretold(known: Sequence[Sequence[float]], begun: Sequence[float]) -> Forecast | None:
    trials = [trial(number, losses) for number, losses in enumerate(known)]
    return forecast([*trials, trial(len(known), begun, running=True)], len(known), STUDY)


@pytest.mark.parametrize(("epoch", "most"), [(8, 0.20), (10, 0.10)])
def test_real_trainings_end_as_foretold_within_the_error_that_is_claimed(
    recorded: list[list[float]], epoch: int, most: float
) -> None:
    rng = np.random.default_rng(epoch)
    off = []
    for _ in range(100):
        picked = [recorded[place] for place in rng.permutation(len(recorded))[:11]]
        found = foretold(picked[:10], picked[10][:epoch])
        assert found is not None
        assert found.whole == 10
        off.append((math.log(min(picked[10])) - math.log(found.value), found.error))
    errors, claimed = np.array(off).T
    assert np.sqrt(np.mean(errors**2)) < most
    assert 0.7 < np.sqrt(np.mean((errors / claimed) ** 2)) < 1.6
    assert np.mean(np.abs(errors) > 2 * claimed) < 0.15


def test_what_is_called_hopeless_is_and_much_of_what_is_hopeless_is_called_so(recorded: list[list[float]]) -> None:
    rng = np.random.default_rng(0)
    called, wrongly, worse = 0, 0, 0
    for _ in range(200):
        picked = [recorded[place] for place in rng.permutation(len(recorded))[:11]]
        found = foretold(picked[:10], picked[10][:8])
        assert found is not None
        ratio = min(picked[10]) / min(map(min, picked[:10]))
        worse += ratio > 1.5
        called += found.hopeless and ratio > 1.5
        wrongly += found.hopeless and ratio < 1
    assert wrongly <= 0.025 * called
    assert called > 0.4 * worse > 10


def test_nothing_is_foretold_from_too_little(recorded: list[list[float]]) -> None:
    assert foretold(recorded[: FEWEST - 1], recorded[-1][:8]) is None
    assert foretold(recorded[:FEWEST], recorded[-1][:8]) is not None
    assert foretold(recorded[:FEWEST], recorded[-1][:7]) is None
    assert foretold(recorded[:FEWEST], recorded[-1]) is None
    assert foretold(recorded[:FEWEST], [*recorded[-1][:5], math.nan]) is None


def test_a_score_is_foretold_by_what_it_lacks_of_1(recorded: list[list[float]]) -> None:
    def scored(losses: Sequence[float]) -> list[float]:
        return [1.0 - loss for loss in losses]

    study = replace(STUDY, objective="macro_f1")
    trials = [trial(number, scored(losses)) for number, losses in enumerate(recorded[:10])]
    begun = trial(10, scored(recorded[20][:8]), running=True)
    found, by_loss = forecast([*trials, begun], 10, study), foretold(recorded[:10], recorded[20][:8])
    assert found is not None
    assert by_loss is not None
    assert found.value == pytest.approx(1.0 - by_loss.value)
    assert found.hopeless == by_loss.hopeless
    assert found.error == pytest.approx(by_loss.error)
