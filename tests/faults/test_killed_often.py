"""Trained trials whose workers are killed at random moments, over and over; simulated ones are in test_soak.py."""

from __future__ import annotations

from tests.faults.soak import Asked, soak


def test_real_trials_whose_workers_are_killed_again_and_again_end_with_the_values_of_undisturbed_ones() -> None:
    asked = Asked(
        seed=11,
        trials=6,
        workers=2,
        faults=12,
        names=("worker killed",),
        epochs=3,
        pace=None,
        megabytes=512,
        spared=frozenset(),
        documented=False,
        vectors=2,
        grace=2.0,
    )

    outcome = soak(asked)

    assert not outcome.problem, outcome.problem
    assert outcome.done.total() == 12
