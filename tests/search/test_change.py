"""Runs that are changed while they are under way, from another terminal, and those that keep to a budget of time."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from optuna.trial import TrialState

from search.cli import options
from search.ledger import Claim
from search.pool import Pool
from search.promotion import plan
from search.slots import Done, Wait
from search.spending import Allowance, Spending, epoch_seconds
from search.study import Study, open_study
from search.views import TrialRow
from tests import small
from tests.crash.test_killed_search import PATIENCE, checkpoints, start, until, workers_of
from tests.search.test_forecast import row


@pytest.fixture
def study(storage_url: str, tmp_path: Path) -> Iterator[Study]:
    with open_study(str(small.declare(tmp_path, pruner="none")), storage_url, create=True) as opened:
        yield opened


@contextmanager
def suspended(run: subprocess.Popen[str], database: Path) -> Iterator[None]:
    """Keep the workers there are now from coming to the run's end before somebody has changed it."""
    workers = workers_of(run)

    def suspend() -> bool:
        for worker in workers:
            worker.suspend()
        with closing(sqlite3.connect(database, timeout=0)) as connection:
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:  # one of them holds it
                resume()
                return False
            return True

    def resume() -> None:
        for worker in workers:
            worker.resume()

    until(suspend)
    try:
        yield
    finally:
        resume()


def finish(study: Study, claim: object) -> None:
    assert isinstance(claim, Claim)
    assert study.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=0.5)


def test_a_budget_that_grows_or_shrinks_is_exact_again(study: Study) -> None:
    ledger = study.ledger
    budget_id = ledger.open_budget(1, own=True)
    first = ledger.claim("w", budget_id=budget_id)
    assert ledger.claim("w", budget_id=budget_id) == Wait()

    assert ledger.resize_budget(budget_id, trials=3, workers=2)
    second = ledger.claim("w", budget_id=budget_id)
    assert ledger.resize_budget(budget_id, trials=1)  # two have begun
    assert ledger.claim("w", budget_id=budget_id) == Wait()
    (there,) = ledger.budgets()
    assert (there.budget_id, there.asked, there.own, there.workers) == (budget_id, 2, True, 2)

    finish(study, first)
    finish(study, second)
    progress = ledger.remaining(budget_id)
    assert (progress.asked, progress.finished, progress.closed) == (2, 2, True)
    assert not ledger.resize_budget(budget_id, trials=9)
    assert ledger.budgets() == []
    with pytest.raises(KeyError):
        ledger.resize_budget(budget_id + 1, trials=1)


def test_who_runs_which_trial_is_told_by_worker(study: Study) -> None:
    budget_id = study.ledger.open_budget(3)
    for name in ("a", "b"):
        study.ledger.claim(name, budget_id=budget_id)
    assert study.ledger.runners(budget_id) == {"a": 0, "b": 1}


def test_trials_and_workers_of_a_run_change_while_it_runs(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=12, pruner="none")
    run = start("run", "--study", file, "--trials", 1, "--workers", 1, "--json", folder=tmp_path, storage=sqlite_url)
    until(lambda: checkpoints(tmp_path))
    change = ("change", "--study", small.NAME)
    with suspended(run, tmp_path / "search.db"):
        more = small.call(*change, "--trials", 4, "--workers", 3, "--json", folder=tmp_path, storage=sqlite_url)
        until(lambda: len(workers_of(run)) == 3)
    said = json.loads(more.stdout)
    assert (said["asked"], said["workers"]) == (4, 3)
    with suspended(run, tmp_path / "search.db"):
        fewer = small.call(*change, "--workers", 1, folder=tmp_path, storage=sqlite_url)
    assert "The run goes on with 1 worker." in fewer.stderr
    until(lambda: len(workers_of(run)) == 1)
    printed, told = run.communicate(timeout=PATIENCE)

    assert run.returncode == 0, told
    rows = small.rows(tmp_path, sqlite_url)
    ended = json.loads(printed)
    assert (ended["asked"], ended["finished"], ended["ended"]) == (4, 4, "trials")
    assert [row["state"] for row in rows] == ["complete"] * 4
    assert [row["note"] for row in rows] == [""] * 4  # nobody was taken for lost
    refused = small.call(
        "change", "--trials", 9, "--study", small.NAME, folder=tmp_path, storage=sqlite_url, code=2
    ).stderr
    assert "No run of study 'small' is under way. Start one with mlc-search run." in refused


def test_a_run_without_workers_of_its_own_has_none_to_change(sqlite_url: str, tmp_path: Path) -> None:
    with open_study(str(small.declare(tmp_path)), sqlite_url, create=True) as opened:
        first, second = opened.ledger.open_budget(5), opened.ledger.open_budget(7)
    several = small.call(
        "change", "--trials", 9, "--study", small.NAME, folder=tmp_path, storage=sqlite_url, code=2
    ).stderr
    assert f"{first} (5 trials), {second} (7 trials)." in " ".join(several.split())
    words = ("change", "--run", first, "--study", small.NAME)
    assert (
        "has no workers of its own"
        in small.call(*words, "--workers", 2, folder=tmp_path, storage=sqlite_url, code=2).stderr
    )
    assert (
        "ends after 9 trials; 0 have finished"
        in small.call(*words, "--trials", 9, folder=tmp_path, storage=sqlite_url).stderr
    )


def test_a_budget_of_time_ends_in_time_with_nothing_half_done_lost(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1000, pruner="none")
    words = ("run", "--study", file, "--budget", "12s", "--workers", 1, "--json")
    done = small.call(*words, folder=tmp_path, storage=sqlite_url)

    ended = json.loads(done.stdout) if done.stdout else {}
    assert (ended["asked"], ended["finished"], ended["ended"]) == (None, 0, "budget")
    assert "The budget of 12s is used up after 0 trials." in done.stderr
    assert {row["state"] for row in small.rows(tmp_path, sqlite_url)} <= {"waiting"}


def test_what_would_not_finish_within_the_budget_is_not_begun(study: Study, tmp_path: Path) -> None:
    budget_id = study.ledger.open_budget(100)
    said: list[str] = []
    pool = Pool(study, "unused", tmp_path, budget_id)
    spending = Spending(study, budget_id, Allowance(600.0), pool, said.append)
    claim = study.ledger.claim("w", budget_id=budget_id)
    assert isinstance(claim, Claim)
    study.storage.set_trial_intermediate_value(claim.trial_id, 1, 0.5)
    study.storage.set_trial_user_attr(claim.trial_id, "seconds", 200.0)  # of one of two epochs
    finish(study, claim)
    spending._look(0.0, 450.0)
    assert said == []
    spending._look(0.0, 390.0)
    assert said == ["No further trial is begun: the time left is for those that have to train to their end."]
    assert study.ledger.claim("w", budget_id=budget_id) == Done()
    progress = study.ledger.remaining(budget_id)
    assert (progress.asked, progress.finished, progress.closed) == (100, 1, True)


def pause_after_an_epoch(study: Study, budget_id: int, losses: list[float], *, seconds: float) -> list[int]:
    """Begin a trial for each loss, and pause it after an epoch that took so long; Optuna's ids."""
    claims = [study.ledger.claim(f"w{at}", budget_id=budget_id) for at, _ in enumerate(losses)]
    for at, (claim, loss) in enumerate(zip(claims, losses, strict=True)):
        assert isinstance(claim, Claim)
        study.storage.set_trial_intermediate_value(claim.trial_id, 1, loss)
        study.storage.set_trial_user_attr(claim.trial_id, "seconds", seconds)
        assert study.ledger.pause(claim.trial_id, worker=f"w{at}")
    return [claim.trial_id for claim in claims if isinstance(claim, Claim)]


def test_the_best_paused_trials_go_on_when_the_time_left_is_what_they_need(storage_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=12, pruner="promote")
    with open_study(str(file), storage_url, create=True) as study:
        budget_id = study.ledger.open_budget(100)
        said: list[str] = []
        spending = Spending(study, budget_id, Allowance(600.0), Pool(study, "unused", tmp_path, budget_id), said.append)
        ids = pause_after_an_epoch(study, budget_id, [0.5, 0.2, 0.3], seconds=4.0)

        def claim(worker: str) -> Claim | Wait | Done:
            plan_now = plan(study.optuna.get_trials(deepcopy=False), study.declaration, left=97)
            return study.ledger.claim(worker, budget_id=budget_id, plan=plan_now)

        # The best needs 44 seconds, a quarter more to be on the safe side, and an epoch until a worker is free.
        spending._look(0.0, 60.0)
        assert said == []
        new = claim("a")  # none of three is among the best seventh
        assert isinstance(new, Claim)
        assert new.trial_id not in ids
        assert study.ledger.release(new.trial_id, worker="a")
        spending._look(0.0, 58.0)
        assert len(said) == 1
        went_on = [claim(worker) for worker in "abcd"]
        assert [one.trial_id for one in went_on if isinstance(one, Claim)] == [ids[1], ids[2], ids[0]]
        assert went_on[3] == Wait()  # what never began stays in the queue

        spending._look(0.0, 80.0)  # had the pace been taken for too slow
        assert isinstance(claim("d"), Claim)


def test_paused_trials_that_cannot_finish_are_given_up_once_a_model_is_there_and_else_wait(
    sqlite_url: str, tmp_path: Path
) -> None:
    file = small.declare(tmp_path, epochs=12, pruner="promote")
    with open_study(str(file), sqlite_url, create=True) as study:
        for complete in (False, True):
            budget_id = study.ledger.open_budget(100)
            pause_after_an_epoch(study, budget_id, [0.5, 0.2], seconds=4.0)
            if complete:
                finish(study, study.ledger.claim("w", budget_id=budget_id))
            study.ledger.wind_up(budget_id, from_epoch=2)
            plan_now = plan(study.optuna.get_trials(deepcopy=False), study.declaration, left=97)
            assert study.ledger.claim("w", budget_id=budget_id, plan=plan_now) == Done()
            stands = study.ledger.remaining(budget_id)
            assert (stands.closed, stands.paused, stands.finished) == (True, 0 if complete else 2, 5 if complete else 0)


def test_a_search_of_seconds_comes_to_a_model(storage_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=12, pruner="promote")
    words = ("run", "--study", file, "--budget", "40s", "--workers", 2, "--json")
    done = small.call(*words, folder=tmp_path, storage=storage_url)

    ended = json.loads(done.stdout)
    assert (ended["asked"], ended["ended"]) == (None, "budget")
    assert ended["best"]["epoch"] == 12
    assert "No further trial is begun" in done.stderr


def test_the_time_of_a_trial_is_foretold_by_the_slower_quarter_of_epochs() -> None:
    def ran(number: int, seconds: float) -> TrialRow:
        return replace(row(number, 0.1, reports=[0.3, 0.2, 0.1]), seconds=seconds, epochs=12)

    rows = [ran(number, seconds) for number, seconds in enumerate([3.0, 6.0, 9.0, 12.0, 15.0])]
    assert epoch_seconds(rows) == 4.0
    assert epoch_seconds([replace(one, state="paused") for one in rows]) == 4.0
    assert epoch_seconds([replace(rows[0], state="running")]) is None  # its seconds are of before it went on
    assert epoch_seconds([]) is None


@pytest.mark.parametrize(
    ("text", "seconds", "of_workers"), [("2h", 7200.0, False), ("90m", 5400.0, False), ("4wh", 14_400.0, True)]
)
def test_a_budget_is_hours_of_the_clock_or_of_workers(text: str, seconds: float, of_workers: bool) -> None:
    assert options.allowance(text) == Allowance(seconds, of_workers)


@pytest.mark.parametrize("text", ["4w", "2", "0h", "h", "4hw", "-1h"])
def test_budgets_that_say_no_time_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a budget such as"):
        options.allowance(text)


def test_the_command_to_go_on_says_what_remains_and_runs(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1000, pruner="none")
    small.call("run", "--study", file, "--timeout", "1s", "--workers", 1, folder=tmp_path, storage=sqlite_url)
    file.write_text(file.read_text().replace("[500, 1000]", "[500, 800, 1000]"))

    grown = ("--study", file, "--extend", "--patience", "5m", "--budget", "1h", "--workers", 1, "--timeout", "62s")
    run = start("run", *grown, folder=tmp_path, storage=sqlite_url)
    until(lambda: checkpoints(tmp_path))
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=PATIENCE)

    (again,) = re.findall(r"^To go on: mlc-search (.+)$", said, re.MULTILINE)
    words = shlex.split(again)
    told = dict(zip(words[1::2], words[2::2], strict=True))
    assert told.keys() == {"--workers", "--budget", "--timeout", "--study", "--patience"}
    assert told["--budget"] in {"59m", "60m"}
    assert 1 <= int(told["--timeout"].removesuffix("s")) < 62
    assert told["--patience"] == "5m"
    told["--timeout"] = "1s"
    small.call("run", *(word for pair in told.items() for word in pair), folder=tmp_path, storage=sqlite_url)
