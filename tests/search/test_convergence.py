"""When a search has converged: the noise, the bound, and that no more trials begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from search.convergence import FEWEST, Convergence, between_epochs, between_seeds, bound
from search.ledger import Claim, ask
from search.slots import Done
from search.space import suggest
from search.study import Study, open_study
from search.views import TrialRow
from tests import small
from tests.search.test_forecast import row


def curve(rng: np.random.Generator, end: float, noise: float) -> list[float]:
    """Twelve epochs of a steady descent to its end, and what luck adds to each."""
    return list(end + 0.02 * np.arange(11, -1, -1) / 11 + noise * rng.normal(size=12))


def searched(values: np.ndarray, noise: float) -> list[TrialRow]:
    rng = np.random.default_rng(0)
    return [row(number, value, reports=curve(rng, value, noise)) for number, value in enumerate(values)]


def test_the_noise_between_seeds_is_the_deviation_within_the_confirmed_trials() -> None:
    values = {1: [0.10, 0.12, 0.11], 2: [0.20, 0.24]}
    rows = [replace(row(0, value), repeats=trial) for trial, group in values.items() for value in group]
    noise = between_seeds(rows)
    assert noise is not None
    assert noise.deviation == pytest.approx(((0.0002 + 0.0008) / 3) ** 0.5)
    assert noise.source == "seeds"
    assert between_seeds(rows[:2]) is None


def test_the_noise_between_epochs_is_found_beneath_the_descent() -> None:
    rng = np.random.default_rng(3)
    estimates = []
    for _ in range(50):
        rows = [row(number, 0.03, reports=curve(rng, 0.03, 0.002)) for number in range(8)]
        noise = between_epochs(rows)
        assert noise is not None
        estimates.append(noise.deviation)
    assert np.mean(estimates) == pytest.approx(0.002, rel=0.15)
    assert between_epochs([row(0, 0.03)]) is None


def test_a_search_at_its_floor_has_converged_and_one_that_still_falls_has_not() -> None:
    rng = np.random.default_rng(1)
    first = 0.03 + 0.2 * rng.random(12)
    floor = bound(searched(np.concatenate([first, 0.03 + 0.001 * rng.random(68)]), noise=0.002))
    falling = bound(searched(0.5 * np.arange(1.0, 81.0) ** -0.5, noise=0.002))
    assert floor is not None
    assert falling is not None
    assert floor.converged
    assert floor.regret < 0.002
    assert not falling.converged
    assert falling.regret > 0.5 * (80**-0.5 - 160**-0.5)  # what it does gain by as many again


def climbed(seed: int, trials: int) -> np.ndarray:
    """Values of a sampler that learns: after eight at random each is drawn around the best so far, in six numbers."""
    rng = np.random.default_rng(seed)
    place, values = np.zeros(6), [np.inf]
    for number in range(trials):
        asked = place + 0.5 * rng.normal(size=6) if number >= 8 else 2 * rng.normal(size=6)
        value = 0.03 * (1 + 0.3 * np.square(asked).sum()) * np.exp(0.02 * rng.normal())
        place = asked if value < min(values) else place
        values.append(value)
    return np.array(values[1:])


def drawn(seed: int, trials: int) -> np.ndarray:
    """Values of random search."""
    return 0.03 + np.random.default_rng(seed).beta(1.5, 6, size=trials)


@pytest.mark.parametrize("values_of", [drawn, climbed])
def test_in_19_of_20_searches_as_many_trials_again_gain_no_more_than_the_bound(
    values_of: Callable[[int, int], np.ndarray],
) -> None:
    held = []
    for seed in range(100):
        values = values_of(seed, 160)
        told = bound(searched(values[:80], noise=0.002))
        assert told is not None
        held.append(values[:80].min() - values.min() <= told.regret)
    assert np.mean(held) >= 0.95


def test_no_bound_is_given_before_enough_trials_have_run() -> None:
    assert bound(searched(np.full(FEWEST - 1, 0.03), noise=0.002)) is None


def run(study: Study, value: float, reports: list[float]) -> None:
    claim = study.ledger.claim("w")
    assert isinstance(claim, Claim)
    trial = ask(study.optuna, claim)
    suggest(trial, study.declaration)
    for epoch, report in enumerate(reports, start=1):
        trial.report(report, step=epoch)
    assert study.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=value)


def test_once_converged_no_trial_begins_and_what_runs_may_finish(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=6, pruner="none")
    rng = np.random.default_rng(2)
    with open_study(str(file), sqlite_url, create=True) as study:
        budget_id = study.ledger.open_budget(100)
        watch = Convergence(study, budget_id, sqlite_url)
        for number in range(FEWEST):
            run(study, 0.03 if number else 0.0299, curve(rng, 0.03, 0.002)[-6:])
            if number == FEWEST // 2:
                watch.look()
                assert not watch.reached
        running = study.ledger.claim("other")
        assert isinstance(running, Claim)
        watch.look()
        assert watch.reached
        assert watch.bound is not None
        assert watch.bound.trials == FEWEST
        assert study.ledger.remaining(budget_id).closed
        assert study.ledger.claim("w") == Done()
        assert study.ledger.finish(running.trial_id, worker="other", state=TrialState.COMPLETE, value=0.5)
