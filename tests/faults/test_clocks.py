"""Machines whose clocks are hours apart work on one study as if they were not."""

from __future__ import annotations

import multiprocessing
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from optuna.trial import TrialState

from search.ledger import FAILURE
from search.study import open_study
from search.views import trial_rows
from tests.faults.hands import Place, replace, run
from tests.faults.soak import Asked, declare, enqueue

PATIENCE = 120.0  # seconds
HOUR = 3600


@pytest.fixture
def faked() -> Path:
    """The library that shifts a process's clock."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("apt-get install faketime")
        pytest.skip("apt-get install faketime")
    return found


@contextmanager
def clock(library: Path, shift: int) -> Iterator[None]:
    """Processes that are started meanwhile have a clock that is so many seconds ahead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("FAKETIME", f"{shift:+d}")
        patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        yield


def tell_time(pipe: Any) -> None:
    pipe.send(time.time())


def sleep_well() -> None:
    """Have this process sleep by a call that libfaketime leaves alone; it gets absolute clock_nanosleep wrong."""
    replace(time, "sleep", lambda seconds: select.select([], [], [], seconds))


def test_the_clock_of_a_process_is_shifted(faked: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with clock(faked, HOUR):
        process = context.Process(target=tell_time, args=(theirs,))
        process.start()
    assert ours.poll(PATIENCE)
    assert ours.recv() - time.time() == pytest.approx(HOUR, abs=60)
    process.join()


def test_workers_whose_clocks_are_two_hours_apart_take_no_living_trial_for_lost(
    postgres_url: str, tmp_path: Path, faked: Path
) -> None:
    # Not on SQLite: its clock is the machine's, and all who use the file are on one machine.
    asked = Asked(seed=1, trials=12, workers=3, faults=0, documented=False, vectors=0)
    (tmp_path / "artifacts").mkdir()
    context = multiprocessing.get_context("spawn")
    before = datetime.now(UTC)
    with open_study(str(declare(tmp_path, asked)), postgres_url, create=True) as study:
        enqueue(study, asked, Random(asked.seed))
        place = Place(
            url=postgres_url,
            study=study.name,
            budget_id=study.ledger.open_budget(asked.trials),
            root=tmp_path / "artifacts",
            log=tmp_path / "log",
            said=tmp_path / "said",
            pace=0.5,
        )
        processes = []
        for name, shift in {"early": -HOUR, "exact": 0, "late": HOUR}.items():
            with clock(faked, shift):
                process = context.Process(target=run, args=(place, name, sleep_well), daemon=True)
                process.start()
                processes.append(process)
        for process in processes:
            process.join(PATIENCE)
        after = datetime.now(UTC)

        assert [process.exitcode for process in processes] == [0, 0, 0], place.said.read_text()
        trials = study.optuna.get_trials()
        assert sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials) == asked.trials
        reasons = [reason for trial in trials for reason in trial.user_attrs.get(FAILURE, [])]
        assert [reason for reason in reasons if "silent" in reason] == []
        for trial in trials:
            start, end = trial.datetime_start, trial.datetime_complete
            assert start is not None
            assert end is not None
            assert before <= start.astimezone(UTC) <= end.astimezone(UTC) <= after
        rows = trial_rows(study)
        assert all(row.started is not None and before <= row.started <= after for row in rows)
        workers = {line.split()[2] for line in place.log.read_text().splitlines()}
        assert workers == {"early", "exact", "late"}
