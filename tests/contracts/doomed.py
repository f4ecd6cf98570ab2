"""Processes that die at a moment of the test's choosing, and what makes a database look as it does long after.

They are forked from a process that has Optuna loaded, so that a death costs a tenth of a second. Not here: processes
that do the same at the same moment (tests/crew.py).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from multiprocessing.context import ForkServerProcess
from typing import Any

import optuna
import psycopg
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._rdb import models
from sqlalchemy import Engine, event, func, inspect, update

from search.storage import resolve_url
from search.tables import METADATA

PATIENCE = 120.0  # seconds until something that should have happened fails its test
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "psycopg", "search.study", "tests.contracts.doomed"])


@contextmanager
def plain(url: str) -> Iterator[RDBStorage]:
    """Open the database as Optuna's documentation advises: a beat a second, those lost for ten minutes retried."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # heartbeats are experimental, and not for ask and tell
        storage = RDBStorage(
            resolve_url(url),
            heartbeat_interval=1,
            grace_period=600,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=3),
        )
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def start(task: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Have a process of its own do the task."""
    process = FORKS.Process(target=task, args=arguments, daemon=True)
    process.start()
    return process


def end_of(task: Callable[..., object], *arguments: object) -> int:
    """Exit code of a process that does the task; minus the signal's number if one ended it."""
    process = start(task, *arguments)
    process.join(PATIENCE)
    code = process.exitcode
    assert code is not None, f"{task.__name__} hangs"
    process.close()
    return code


def die() -> None:
    """As by the kernel's out-of-memory killer, or a machine that is taken away."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(engine: Engine, moment: int, act: Callable[[Any], object], *, only: str = "") -> None:
    """Act, with the connection, before the `moment`-th statement or commit, counted from 1, that starts with `only`."""
    moments = count(1)

    def look(connection: Any, statement: str) -> None:
        if statement.startswith(only) and next(moments) == moment:
            act(connection)

    event.listen(engine, "before_cursor_execute", lambda c, _cursor, statement, *_rest: look(c, statement))
    event.listen(engine, "commit", lambda c: look(c, "COMMIT"))


def die_before(engine: Engine, moment: int = 1, *, only: str = "") -> None:
    """Die at that moment, see `before`."""
    before(engine, moment, lambda _connection: die(), only=only)


def let_a_day_pass(engine: Engine) -> None:
    """Set back by a day when trials began and when anybody last gave a sign of life, in Optuna's tables and ours."""
    with engine.begin() as connection:
        there = inspect(connection).get_table_names()
        for table in (*models.BaseModel.metadata.sorted_tables, *METADATA.sorted_tables):
            if table.name not in there:
                continue
            columns = {column.name: column for column in table.columns}
            for name in columns.keys() & {"datetime_start", "heartbeat"}:
                back: Any = columns[name] - timedelta(days=1)
                if engine.dialect.name == "sqlite":  # which keeps a moment as text
                    back = func.datetime(columns[name], "-1 day")
                connection.execute(update(table).values({name: back}))
            if "beat_at" in columns:
                connection.execute(update(table).values(beat_at=columns["beat_at"] - 86_400.0))


def drop_connections(postgres_url: str) -> None:
    """End all other connections to the database, as its administrator, a restart or a firewall does."""
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM ({others}) AS others")


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)
