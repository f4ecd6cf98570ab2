"""The best trials over fresh seeds: shared, resumed, ranked, and honest about what cannot be told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from search.confirm import Confirmed, NothingToConfirm, compare, enqueue_repetitions, open_confirmation, verdicts
from search.drawing import confirmation_words
from search.signals import Stop
from search.study import DATA, PRECISION, Study, open_study
from search.views import TrialRow, leaderboard, trial_rows
from search.worker import work
from tests.small import NAME, call, declare


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, str, Path]]:
    """A study of three complete trials of one epoch, searched in this process."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "artifacts").mkdir()
    url = f"sqlite:///{folder / 'search.db'}"
    with open_study(str(declare(folder, epochs=1, pruner="none")), url, create=True) as study:
        study.ledger.open_budget(3)
        assert work(study, name="searcher", root=folder / "artifacts", stop=Stop()) == 3
        yield study, url, folder


def test_a_study_without_a_complete_trial_cannot_be_confirmed(tmp_path: Path, sqlite_url: str) -> None:
    with (
        open_study(str(declare(tmp_path)), sqlite_url, create=True) as study,
        open_confirmation(study, sqlite_url) as none,
        open_confirmation(study, sqlite_url, create=True) as confirmation,
    ):
        assert none is None
        assert confirmation is not None
        with pytest.raises(NothingToConfirm, match="No trial of study 'small' is complete yet"):
            enqueue_repetitions(study, confirmation, top=5, seeds=3)


def test_repetitions_are_shared_resumed_and_never_more_than_asked_for(searched: tuple[Study, str, Path]) -> None:
    study, url, folder = searched
    best = leaderboard(trial_rows(study))[:2]
    with open_confirmation(study, url, create=True) as confirmation:
        assert confirmation is not None
        assert enqueue_repetitions(study, confirmation, top=2, seeds=2) == 4
        assert enqueue_repetitions(study, confirmation, top=2, seeds=2) == 4  # twice adds nothing
        for key in (DATA, PRECISION):
            assert confirmation.optuna.user_attrs[key] == study.optuna.user_attrs[key]
        confirmation.ledger.open_budget(1)
        assert work(confirmation, name="first", root=folder / "artifacts", stop=Stop()) == 1
        # More is asked for than there is, and from two sides: a search would draw new trials now.
        confirmation.ledger.open_budget(9)
        confirmation.ledger.open_budget(9)
        assert work(confirmation, name="second", root=folder / "artifacts", stop=Stop()) == 3
        rows = trial_rows(confirmation)
        assert [row.repeats for row in rows] == [best[0].number, best[1].number] * 2
        assert [row.seed for row in rows[:2]] == [rows[0].seed] * 2  # the same seeds for all
        assert len({row.seed for row in [*rows, *best]}) == 4
        for row in rows:
            origin = next(one for one in best if one.number == row.repeats)
            assert {**row.fit, "seed": 0} == {**origin.fit, "seed": 0}
            assert row.compute == origin.compute
        ranked = verdicts(study, confirmation)
        for verdict in ranked:
            own = [row.value for row in rows if row.repeats == verdict.row.trial.number]
            assert verdict.row.mean == pytest.approx(np.mean(np.array(own, float)))
            assert verdict.row.spread == pytest.approx(np.std(np.array(own, float), ddof=1))
    # The command finds nothing left to do, and prints the same ranking.
    done = call(
        "confirm", "--study", NAME, "--top", 2, "--seeds", 2, "--json", "--artifacts", "artifacts",
        folder=folder, storage=url,
    )  # fmt: skip
    assert json.loads(done.stdout) == [verdict.to_table() for verdict in ranked]


def _rows(table: list[list[float]], *, missing: int = 0) -> list[Confirmed]:
    trial = TrialRow(
        number=0, state="complete", objective="bce", value=0.1, epoch=1, epochs=1, reports={}, val_loss=0.1, params={},
        paper=None, repeats=None, seed=0, seconds=1.0, started=None, note="", failures=[], metrics={}, fit={},
        compute={},
    )  # fmt: skip
    rows = [
        Confirmed(
            trial=replace(trial, number=number),
            values=dict(enumerate(values)),
            missing=missing if number else 0,
            objective="bce",
        )
        for number, values in enumerate(table)
    ]
    return sorted(rows, key=lambda row: row.rank)


@given(
    st.integers(2, 5).flatmap(
        lambda seeds: st.lists(st.lists(st.floats(0.01, 1), min_size=seeds, max_size=seeds), min_size=2, max_size=6)
    )
)
def test_the_margin_is_that_of_a_randomized_block_design(table: list[list[float]]) -> None:
    answer = compare(_rows(table))
    y = np.array(table)
    k, n = y.shape
    design = np.array(
        [
            [1.0, *(row == at for at in range(1, k)), *(seed == at for at in range(1, n))]
            for row in range(k)
            for seed in range(n)
        ]
    )
    residual = y.ravel() - design @ np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
    freedom = (k - 1) * (n - 1)
    sd = np.sqrt(2 * residual @ residual / freedom / n)
    wanted = stats.t.ppf(1 - 0.025 / (k - 1), freedom) * sd
    for verdict in answer[1:]:
        assert verdict.margin == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        first = y[answer[0].row.trial.number]
        assert verdict.behind == pytest.approx(np.mean(y[verdict.row.trial.number] - first), abs=1e-12)


def test_steady_goes_before_lucky_and_a_clear_difference_is_told() -> None:
    steady, lucky, bad = [0.100, 0.101, 0.099], [0.05, 0.10, 0.145], [0.30, 0.31, 0.29]
    answer = compare(_rows([lucky, bad, steady]))
    assert [verdict.row.trial.number for verdict in answer] == [2, 0, 1]
    assert [verdict.told_apart for verdict in answer] == [False, False, True]
    words = " ".join(confirmation_words(answer))
    assert "First: trial 2." in words
    assert "Trial 0 cannot be told apart from it" in words


def test_a_trial_that_lost_a_repetition_ranks_last_whatever_its_mean() -> None:
    answer = compare(_rows([[0.5, 0.6], [0.1, 0.1]], missing=1))
    assert [verdict.row.trial.number for verdict in answer] == [0, 1]
    assert answer[1].behind is None
    assert "Not every repetition of trial 1 is complete" in " ".join(confirmation_words(answer))
