"""What the next trials bring: how often the forecast's interval holds it, and what the forecast must not do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from search.drawing import forecast_line
from search.forecast import Forecast, forecast, seconds_a_trial
from search.views import TrialRow

START = datetime(2026, 1, 1, tzinfo=UTC)


def row(number: int, value: float, *, state: str = "complete", reports: Sequence[float] = ()) -> TrialRow:
    return TrialRow(
        number=number,
        state=state,
        objective="bce",
        value=None if state == "paused" else value,
        epoch=len(reports) or 1,
        epochs=len(reports) or 1,
        reports=dict(enumerate(reports or [value], start=1)),
        val_loss=value,
        params={},
        paper=None,
        repeats=None,
        seed=number,
        seconds=None,
        started=None,
        note="",
        failures=[],
        metrics={},
        fit={},
        compute={},
    )


def test_nine_of_ten_intervals_hold_what_ten_more_random_trials_gain() -> None:
    inside, foretold, realised = [], [], []
    for seed in range(150):
        values = 0.03 + np.random.default_rng(seed).beta(1.5, 6, size=50)  # nothing is below 0.03
        coming = forecast([row(number, value) for number, value in enumerate(values[:40])])
        assert coming is not None
        gain = values[:40].min() - values.min()
        inside.append(coming.low - 1e-9 <= gain <= coming.high + 1e-9)
        foretold.append(coming.gain)
        realised.append(gain)
    assert 0.85 <= np.mean(inside) <= 0.99
    assert np.mean(foretold) == pytest.approx(np.mean(realised), rel=0.5)


def test_a_search_that_learns_is_expected_to_gain_more_than_its_values_alone_tell() -> None:
    rng = np.random.default_rng(0)
    learnt = 0.5 * np.arange(1, 51) ** -0.5 * np.exp(0.1 * rng.normal(size=50))
    shuffled = rng.permutation(learnt[:40])
    in_order = forecast([row(number, value) for number, value in enumerate(learnt[:40])])
    mixed = forecast([row(number, value) for number, value in enumerate(shuffled)])
    assert in_order is not None
    assert mixed is not None
    assert in_order.gain > mixed.gain
    assert in_order.low <= learnt[:40].min() - learnt.min() <= in_order.high


def test_trials_that_were_stopped_make_the_next_gain_less_likely_and_no_better_value() -> None:
    complete = [row(number, 0.1 + 0.01 * (number * 7 % 20)) for number in range(20)]
    stopped = [row(20 + number, 0.001, state=("pruned", "paused")[number % 2]) for number in range(60)]
    alone, among = forecast(complete), forecast(complete + stopped)
    assert alone is not None
    assert among is not None
    assert among.gain < alone.gain < 0.1


def test_nothing_is_foretold_of_few_trials_nor_of_a_confirmation() -> None:
    few = [row(number, 0.1 + number) for number in range(5)]
    assert forecast(few) is None
    assert forecast([replace(row(number, 0.1 + number), repeats=3) for number in range(30)]) is None


def test_equal_values_promise_nothing_and_a_score_is_the_better_the_higher() -> None:
    same = forecast([row(number, 0.25) for number in range(20)])
    assert same is not None
    assert (same.gain, same.low, same.high) == (0.0, 0.0, 0.0)
    scores = np.random.default_rng(1).uniform(0.5, 0.9, size=30)
    rows = [replace(row(number, value), objective="macro_f1") for number, value in enumerate(scores)]
    coming = forecast(rows)
    assert coming is not None
    assert 0.0 <= coming.low <= coming.gain <= coming.high < 1.0 - scores.max()


def test_the_time_counts_what_runs_side_by_side_once_and_no_pause() -> None:
    def ran(number: int, start: float, seconds: float) -> TrialRow:
        return replace(row(number, 0.1), started=START + timedelta(seconds=start), seconds=seconds)

    together = [ran(0, 0, 60), ran(1, 0, 60), ran(2, 60, 60), ran(3, 60, 60)]
    a_day_later = [ran(4, 86_400, 60), ran(5, 86_400, 60)]
    assert seconds_a_trial(together) == 30.0
    assert seconds_a_trial(together + a_day_later) == 30.0
    assert seconds_a_trial([row(0, 0.1)]) is None


def test_the_forecast_is_said_in_a_line() -> None:
    coming = Forecast(trials=10, gain=0.0021, low=0.0, high=0.009, seconds=250.0)
    assert (
        forecast_line(coming) == "Expected gain of the next 10 trials: 0.0021 (90 % interval 0 to 0.009), about 4 min"
    )
