"""Databases that have no room for a worker just now: SQLite that another process locks, PostgreSQL that is full."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psycopg
from sqlalchemy import make_url

from search.study import Study, open_study
from tests.faults.crowd import Crowd, said
from tests.faults.hands import Place
from tests.faults.invariants import gather, shown, violations
from tests.faults.server import running
from tests.faults.soak import Asked, declare, enqueue, undisturbed

PATIENCE = 120.0  # seconds


@contextmanager
def place_for(asked: Asked, url: str, folder: Path) -> Iterator[tuple[Study, Place, dict[str, dict[str, float]]]]:
    """A study with a budget, and where workers find it."""
    (folder / "artifacts").mkdir()
    with open_study(str(declare(folder, asked)), url, create=True) as study:
        vectors = enqueue(study, asked, Random(asked.seed))
        budget = study.ledger.open_budget(asked.trials)
        place = Place(
            url=url,
            study=study.name,
            budget_id=budget,
            root=folder / "artifacts",
            log=folder / "log",
            said=folder / "said",
            pace=asked.pace,
            grace=asked.grace,
        )
        yield study, place, vectors


def wrong(asked: Asked, study: Study, place: Place, vectors: dict[str, dict[str, float]]) -> str:
    evidence = gather(
        study,
        place,
        asked=asked.trials,
        documented=asked.documented,
        enqueued=vectors,
        undisturbed=undisturbed(study, asked),
        audited=None,
    )
    return shown(violations(evidence))


def hold(url: str, seconds: float, times: int) -> None:
    """Lock the file for so long, again and again."""
    connection = sqlite3.connect(str(make_url(url).database), timeout=60, isolation_level=None)
    for _ in range(times):
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("COMMIT")
        time.sleep(0.2)
    connection.close()


def test_a_sqlite_file_that_another_process_locks_for_longer_than_the_grace_loses_nothing(
    sqlite_url: str, tmp_path: Path
) -> None:
    asked = Asked(seed=1, trials=60, workers=4, faults=0, vectors=2, grace=1.5)
    with place_for(asked, sqlite_url, tmp_path) as (study, place, vectors):
        crowd = Crowd(place, asked.workers)
        locker = multiprocessing.get_context("forkserver").Process(target=hold, args=(sqlite_url, asked.grace + 1, 3))
        with crowd.working():
            locker.start()
            locked_until = time.monotonic() + PATIENCE
            while crowd.tend():
                assert time.monotonic() < locked_until, said(place)
                time.sleep(0.05)
            locker.join()

        assert crowd.gave_up == {}
        assert wrong(asked, study, place, vectors) == ""


def test_workers_that_find_no_free_connection_wait_for_one_and_lose_nothing(tmp_path: Path) -> None:
    asked = Asked(seed=2, trials=60, workers=6, faults=0, vectors=2)
    # Six workers with a heartbeat each would like twelve of the ten.
    with running(max_connections="10") as server, place_for(asked, server.create("crowded"), tmp_path) as found:
        study, place, vectors = found
        with psycopg.connect(server.url()), Crowd(place, asked.workers).working() as crowd:
            locked_until = time.monotonic() + PATIENCE
            while crowd.tend():
                assert time.monotonic() < locked_until, said(place)
                time.sleep(0.05)

        assert crowd.gave_up == {}
        assert wrong(asked, study, place, vectors) == ""
