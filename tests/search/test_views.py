"""Rows say what the study holds, on both databases; tables of rows agree with scipy and with counting by hand."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.trial import Trial, TrialState
from scipy.stats import pearsonr, rankdata

from search.ledger import Claim, ask
from search.paper import paper_trials
from search.ranks import spearman
from search.space import suggest
from search.strategy import sampler
from search.study import COMPUTE, DIVERGED, FIT, SECONDS, Study, enqueue_paper, fit_spec, open_study
from search.views import (
    Counts,
    PaperRow,
    TrialRow,
    compare_paper,
    counts,
    leaderboard,
    trial_rows,
)
from tests.search.test_declaration import UNHURRIED
from tests.search.test_paper import FIXED, PLAIN, UNUSED

STATES = ("complete", "pruned", "running", "waiting", "failed")
DOCUMENTED = {1: 0.0516, 2: 0.0330, 3: 0.0419, 4: 0.0481, 5: 0.0440}
WORKER = "w"


def row(number: int, state: str = "complete", value: float | None = None, **rest: Any) -> TrialRow:
    """Make a row of which little matters."""
    blank: dict[str, Any] = {
        "objective": "bce",
        "val_loss": value,
        "epoch": 0,
        "epochs": 12,
        "reports": {},
        "params": {},
        "paper": None,
        "repeats": None,
        "seed": None,
        "seconds": None,
        "started": None,
        "note": "",
        "failures": [],
        "metrics": {},
        "fit": {},
        "compute": {},
    }
    return TrialRow(number=number, state=state, value=value, **{**blank, **rest})


@pytest.fixture
def study(storage_url: str) -> Iterator[Study]:
    with open_study("default", storage_url, create=True) as opened:
        opened.ledger.open_budget(10)
        yield opened


def claimed(study: Study) -> Claim:
    answer = study.ledger.claim(WORKER)
    assert isinstance(answer, Claim)
    return answer


def begun(study: Study, losses: tuple[float, ...], *, seed: int = 11) -> Trial:
    """Claim a trial, draw its parameters and report these losses, as a worker does."""
    claim = claimed(study)
    study.optuna.sampler = sampler(study.declaration, claim.number)
    trial = ask(study.optuna, claim)
    drawn = suggest(trial, study.declaration)
    trial.set_user_attr(FIT, fit_spec(study.declaration, drawn, seed=seed))
    trial.set_user_attr(COMPUTE, {"precision": "fp32", "threads": 1})
    for epoch, loss in enumerate(losses, start=1):
        trial.report(loss, step=epoch)
    return trial


def finish(study: Study, trial: Trial, state: TrialState, value: float | None) -> None:
    assert study.ledger.finish(trial._trial_id, worker=WORKER, state=state, value=value)


def only(study: Study) -> TrialRow:
    (seen,) = trial_rows(study)
    return seen


def test_a_complete_trial_shows_its_best_loss_and_all_others(study: Study) -> None:
    trial = begun(study, (0.5, 0.25, 0.375), seed=2**62 + 1)
    trial.set_user_attr(SECONDS, 61.5)
    finish(study, trial, TrialState.COMPLETE, 0.25)

    seen = only(study)

    assert (seen.number, seen.state, seen.value, seen.latest) == (0, "complete", 0.25, 0.25)
    assert (seen.epoch, seen.epochs, seen.reports) == (3, 12, {1: 0.5, 2: 0.25, 3: 0.375})
    assert (seen.seed, seen.seconds, seen.paper, seen.note) == (2**62 + 1, 61.5, None, "")
    assert seen.compute == {"precision": "fp32", "threads": 1}


def test_a_trials_row_has_what_it_drew_and_its_fit_the_fixed_parameters_too(study: Study) -> None:
    trial = begun(study, (0.5,))
    seen = only(study)
    assert seen.params == trial.params
    assert seen.params.keys() >= {"optimizer", "lr", "weight_decay", "dropout", "batch_size", "scheduler"}
    assert seen.fit == {"params": {**PLAIN, **UNUSED, **FIXED, **trial.params}, "epochs": 12, "seed": 11}


def test_a_pruned_trial_shows_its_last_loss(study: Study) -> None:
    finish(study, begun(study, (0.25, 0.5)), TrialState.PRUNED, None)
    seen = only(study)
    assert (seen.state, seen.value, seen.latest, seen.epoch) == ("pruned", 0.5, 0.5, 2)


def test_a_diverged_trial_says_why_and_has_no_loss(study: Study) -> None:
    trial = begun(study, ())
    trial.set_user_attr(DIVERGED, "epoch 1: the training loss is nan")
    finish(study, trial, TrialState.PRUNED, None)
    seen = only(study)
    assert (seen.state, seen.note) == ("pruned", "epoch 1: the training loss is nan")
    assert (seen.value, seen.latest, seen.epoch, seen.reports) == (None, None, 0, {})


def test_a_running_trial_shows_its_newest_loss_but_no_value(study: Study) -> None:
    begun(study, (0.5, 0.75))
    seen = only(study)
    assert (seen.state, seen.value, seen.latest, seen.epoch) == ("running", None, 0.75, 2)
    assert seen.seconds is None


def test_a_failed_trial_says_why_it_failed_last(study: Study) -> None:
    for losses, reason in (((0.5,), "first"), ((), "second"), ((), "RuntimeError: out of memory")):
        study.ledger.fail(begun(study, losses)._trial_id, worker=WORKER, reason=reason)
    seen = only(study)
    assert (seen.state, seen.note) == ("failed", "RuntimeError: out of memory")
    assert (seen.value, seen.latest) == (None, 0.5)


def test_a_trial_that_waits_for_its_second_attempt_says_why_the_first_one_failed(study: Study) -> None:
    study.ledger.fail(begun(study, (0.5,))._trial_id, worker=WORKER, reason="OSError: no room")
    assert (only(study).state, only(study).note) == ("waiting", "OSError: no room")


def test_a_waiting_replay_shows_what_it_brings_along(study: Study) -> None:
    enqueue_paper(study, [paper_trials()[3]])
    seen = only(study)
    assert (seen.state, seen.paper, seen.epochs, seen.started) == ("waiting", 4, 12, None)
    assert seen.params == {
        "optimizer": "adamw",
        "lr": 1e-4,
        "weight_decay": 5e-4,
        "dropout": 0.45,
        "scheduler": "cosine",
        "t_max": 35,
        "batch_size": 64,
    }


def test_a_replay_that_runs_shows_the_same_parameters_as_before(study: Study) -> None:
    enqueue_paper(study, [paper_trials()[1]])
    before = only(study).params
    claimed(study)
    assert (only(study).state, only(study).params) == ("running", before)


def test_the_start_is_in_utc_wherever_the_worker_is(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue_paper(study, [paper_trials()[0]])
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        before = datetime.now(UTC) - timedelta(milliseconds=5)  # SQLite's clock tells milliseconds
        for _ in range(2):  # one that waited, and a new one, which Optuna dates itself
            claimed(study)
        after = datetime.now(UTC)
        started = [seen.started for seen in trial_rows(study)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [start is not None and before <= start <= after for start in started] == [True, True]


def test_every_row_can_be_written_as_json(study: Study) -> None:
    finish(study, begun(study, (0.5, 0.25)), TrialState.COMPLETE, 0.25)
    begun(study, (0.5,))
    enqueue_paper(study, paper_trials())
    rows = trial_rows(study)

    tables = json.loads(json.dumps([seen.to_table() for seen in rows], allow_nan=False))

    assert [table["number"] for table in tables] == list(range(7))
    assert {table["state"] for table in tables} == {"complete", "running", "waiting"}
    assert tables[0]["reports"] == {"1": 0.5, "2": 0.25}
    assert datetime.fromisoformat(tables[0]["started"]) == rows[0].started
    assert [table["paper"] for table in tables] == [None, None, 1, 2, 3, 4, 5]
    assert {" ".join(table) for table in tables} == {
        "number state objective value epoch epochs params paper repeats warm_start seed seconds started val_loss "
        "reports metrics latency_ms size_mb over_limit note failures fit compute"
    }


def test_the_replays_of_a_study_are_compared_with_the_document(study: Study) -> None:
    enqueue_paper(study, paper_trials())
    for loss in (0.4, 0.2, 0.3):  # of the trials 1, 2 and 3
        finish(study, begun(study, (loss,)), TrialState.COMPLETE, loss)

    compared = compare_paper(trial_rows(study))

    assert [(seen.replayed_loss, seen.state) for seen in compared.rows] == [
        (0.4, "complete"),
        (0.2, "complete"),
        (0.3, "complete"),
        (None, "waiting"),
        (None, "waiting"),
    ]
    assert compared.rank_correlation == pytest.approx(1)  # the document's order of these three: 2, 3, 1
    assert compared.best_searched is None


@given(st.lists(st.sampled_from(STATES)))
def test_the_counts_are_those_of_the_states(states: list[str]) -> None:
    tally = Counter(states)
    counted = counts([row(number, state) for number, state in enumerate(states)])
    assert counted == Counts(**{state: tally[state] for state in STATES})
    assert counted.finished == tally["complete"] + tally["pruned"]


def test_the_leaderboard_puts_the_lowest_loss_first_and_of_equal_ones_the_earlier() -> None:
    rows = [row(5, value=0.2), row(1, value=0.3), row(2, "pruned", 0.1), row(3, value=0.2), row(0, "running")]
    assert [leader.number for leader in leaderboard(rows)] == [3, 5, 1]


ROWS = st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from([0.1, 0.2, 0.3]))).map(
    lambda pairs: [row(number, state, value) for number, (state, value) in enumerate(pairs)]
)


@given(ROWS, st.randoms())
def test_the_leaderboard_holds_every_complete_trial_once_in_an_order_that_does_not_depend_on_the_rows(
    rows: list[TrialRow], random: Any
) -> None:
    leaders = leaderboard(rows)
    assert sorted(leader.number for leader in leaders) == [r.number for r in rows if r.state == "complete"]
    values = [leader.value for leader in leaders if leader.value is not None]
    assert values == sorted(values)
    shuffled = random.sample(rows, len(rows))
    assert leaderboard(shuffled) == leaders


NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.0])


@UNHURRIED
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=12))
def test_spearman_is_the_correlation_of_the_ranks(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    found = spearman(first, second)
    assert found == pytest.approx(pearsonr(rankdata(first), rankdata(second)).statistic, abs=1e-12)
    assert found is not None
    assert -1 <= found <= 1


@pytest.mark.parametrize(
    ("first", "second"), [((), ()), ((1, 2), (1, 2)), ((1, 1, 1), (1, 2, 3)), ((1, 2, 3), (4, 4, 4))]
)
def test_ranks_of_too_few_or_of_equals_have_no_correlation(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    assert spearman(first, second) is None


def test_without_replays_the_comparison_has_the_documents_side_alone() -> None:
    compared = compare_paper([row(0, value=0.3), row(1, "pruned", 0.1)])
    assert [(seen.number, seen.documented_loss) for seen in compared.rows] == list(DOCUMENTED.items())
    assert {(seen.replayed_loss, seen.state) for seen in compared.rows} == {(None, "not enqueued")}
    assert (compared.rank_correlation, compared.best_searched) == (None, 0.3)


def test_a_row_of_the_comparison_holds_what_is_documented_apart_from_what_is_assumed() -> None:
    assert compare_paper([row(3, value=0.09, paper=1)]).rows[0] == PaperRow(
        number=1,
        documented={"optimizer": "adam", "lr": 5e-4, "weight_decay": 1e-4, "dropout": 0.5, "scheduler": "step"},
        assumed={"batch_size": 64, "step_size": 5, "gamma": 0.1},
        documented_loss=0.0516,
        replayed_loss=0.09,
        state="complete",
    )


@pytest.mark.parametrize("state", ["running", "waiting", "failed", "pruned"])
def test_a_replay_that_is_not_complete_has_no_replayed_loss(state: str) -> None:
    second = compare_paper([row(0, state, 0.5, paper=2)]).rows[1]
    assert (second.state, second.replayed_loss) == (state, None)


@given(st.permutations([0.1, 0.2, 0.3, 0.4, 0.5]))
def test_the_rank_correlation_is_spearmans_of_the_five_losses(losses: list[float]) -> None:
    compared = compare_paper([row(n, value=loss, paper=n) for n, loss in enumerate(losses, start=1)])
    # Without ties: 1 - 6 sum d^2 / (n (n^2 - 1)). The document's losses rank 5, 1, 2, 4, 3.
    ranks = [round(10 * loss) for loss in losses]
    squares = sum((here - there) ** 2 for here, there in zip(ranks, (5, 1, 2, 4, 3), strict=True))
    assert compared.rank_correlation == pytest.approx(1 - 6 * squares / (5 * 24))


def test_the_best_of_the_search_is_no_replay_and_no_pruned_trial() -> None:
    rows = [row(0, value=0.1, paper=1), row(1, value=0.3), row(2, value=0.2), row(3, "pruned", 0.05)]
    assert compare_paper(rows).best_searched == 0.2
    assert compare_paper(rows[:1]).best_searched is None


def test_a_row_with_no_report_has_no_loss() -> None:
    assert row(0, "waiting").latest is None
    assert row(0, "running", epoch=2, reports={1: 0.5, 2: math.inf}).latest == math.inf
