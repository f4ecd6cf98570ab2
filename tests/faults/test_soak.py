"""Studies under faults: the part of `python -m tests.faults.soak` that every test run repeats."""

from __future__ import annotations

from tests.faults.chaos import FAULTS, NETWORK, SERVER
from tests.faults.soak import Asked, soak


def test_a_study_under_every_fault_keeps_its_budget_its_values_and_its_weights() -> None:
    outcome = soak(Asked(seed=7, trials=150, workers=8, faults=17))

    assert not outcome.problem, outcome.problem
    assert set(outcome.done) == set(FAULTS)


def test_twenty_restarts_of_the_server_under_eight_workers_lose_nothing() -> None:
    names = ("server restarted", "server crashed")
    assert set(names) < set(SERVER)

    outcome = soak(Asked(seed=3, trials=120, workers=8, faults=20, names=names))

    assert not outcome.problem, outcome.problem
    assert outcome.done.total() == 20


def test_connections_cut_at_every_place_of_a_transaction_double_and_lose_nothing() -> None:
    names = ("cut in a transaction", "cut before COMMIT arrives", "answer to COMMIT lost")
    assert set(names) < set(NETWORK)

    outcome = soak(Asked(seed=5, trials=80, workers=4, faults=30, names=names))

    assert not outcome.problem, outcome.problem
    assert outcome.done.total() == 30
