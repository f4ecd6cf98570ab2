"""A database that fails for a moment, drops connections or has no more of them: plain Optuna 5.0.0, and we.

The table of all holes is in test_plain_optuna.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.synchronize import Event
from typing import Any

import optuna
import psycopg
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from search import attempts
from search.ledger import Claim, Ledger, ask
from search.patience import Patience
from search.storage import close, connect
from search.tables import CLAIMS
from search.trials import Trials
from tests.contracts.doomed import FORKS, before, drop_connections, let_a_day_pass, plain, start, until

NAME = "holes"
CONNECTIONS = 2  # of a user who may not have many; a worker needs no more


@contextmanager
def ours(url: str) -> Iterator[tuple[optuna.Study, Ledger, Trials]]:
    storage = connect(url)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=storage, study_name=NAME, sampler=optuna.samplers.RandomSampler())
    try:
        yield study, Ledger(storage, study._study_id), storage
    finally:
        close(storage)


def claimed(ledger: Ledger) -> Claim:
    claim = ledger.claim("w")
    assert isinstance(claim, Claim)
    return claim


def beaten(storage: RDBStorage) -> bool:
    with Session(storage.engine) as session:
        return session.execute(select(models.TrialHeartbeatModel)).first() is not None


def optimize(url: str, go_on: Event) -> None:
    with plain(url) as storage:
        study = optuna.load_study(storage=storage, study_name=NAME)
        study.optimize(lambda _trial: float(go_on.wait(60)), n_trials=1)


@pytest.mark.parametrize(("fails", "code", "state"), [(False, 0, "COMPLETE"), (True, 1, "FAIL")])
def test_one_failure_of_the_database_ends_plain_optunas_heart_then_its_trial_then_its_worker(
    postgres_url: str, fails: bool, code: int, state: str
) -> None:
    with plain(postgres_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        go_on = FORKS.Event()
        process = start(optimize, postgres_url, go_on)
        until(lambda: beaten(storage))
        if fails:
            storage.engine.dispose()
            drop_connections(postgres_url)
        let_a_day_pass(storage.engine)
        if fails:
            time.sleep(2)  # it beats once a second
        else:
            until(lambda: not storage._get_stale_trial_ids(study._study_id))

        fail_stale_trials(study)
        go_on.set()
        process.join(60)

        assert process.exitcode == code
        assert study.trials[0].state.name == state


@contextmanager
def closed(postgres_url: str) -> Iterator[None]:
    """Let nobody into the database meanwhile."""
    url = make_url(postgres_url)
    server = url.set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false".encode())
        drop = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(drop, [url.database])
        yield
        connection.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true".encode())


def test_a_workers_heart_beats_on_after_the_database_failed_for_longer_than_it_was_waited_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 0.05)
    with ours(postgres_url) as (_, ledger, storage):
        ledger.open_budget(1)
        claim = claimed(ledger)
        storage.patience = Patience(0.2)

        def age() -> float:
            with Session(storage.engine) as session:
                beat = select(CLAIMS.c.beat_at).where(CLAIMS.c.trial_id == claim.trial_id)
                return time.time() - float(session.execute(beat).scalar_one())

        lost = threading.Event()
        with attempts._beating(ledger, claim.trial_id, "w", lost):
            with closed(postgres_url):
                time.sleep(1.0)
            let_a_day_pass(storage.engine)

            until(lambda: age() < 3600)

        assert not lost.is_set()


CALLS: list[Callable[[optuna.Study, optuna.Trial], object]] = [
    lambda _study, trial: trial.suggest_float("x", 0, 1),
    lambda _study, trial: trial.report(0.5, step=1),
    lambda _study, trial: trial.set_user_attr("a", 1),
    lambda study, trial: study.tell(trial, 0.5),
]


@pytest.mark.parametrize("call", CALLS, ids=["suggest", "report", "attribute", "tell"])
def test_plain_optuna_fails_at_its_first_call_after_the_server_dropped_an_idle_connection(
    postgres_url: str, call: Callable[[optuna.Study, optuna.Trial], object]
) -> None:
    with plain(postgres_url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        trial = study.ask()
        drop_connections(postgres_url)

        with pytest.raises((StorageInternalError, OperationalError)):
            call(study, trial)


@pytest.mark.parametrize("call", CALLS[:3], ids=["suggest", "report", "attribute"])
def test_a_connection_that_the_server_dropped_while_idle_is_replaced_unnoticed(
    postgres_url: str, call: Callable[[optuna.Study, optuna.Trial], object]
) -> None:
    with ours(postgres_url) as (study, ledger, storage):
        ledger.open_budget(1)
        trial = ask(study, claimed(ledger))
        storage.patience = Patience(0.0)  # nothing is tried again: the pool looks before it hands a connection out
        drop_connections(postgres_url)

        call(study, trial)


def live(study: optuna.Study, ledger: Ledger) -> tuple[int, dict[str, Any]]:
    """All that a trial asks of the database from its claim to its end: its number, and what it drew."""
    claim = claimed(ledger)
    trial = ask(study, claim)
    drawn = {"x": trial.suggest_float("x", 0, 1), "y": trial.suggest_categorical("y", ["a", "b"])}
    trial.set_user_attr("fit", {"seed": claim.number})
    trial.report(0.5, step=1)
    trial.should_prune()
    assert ledger.beat(claim.trial_id, worker="w")
    assert ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=0.25)
    return claim.number, drawn


def test_wherever_a_trials_connection_is_cut_it_is_finished_once_with_what_it_drew(postgres_url: str) -> None:
    cuts: list[int] = []

    def cut(connection: Any) -> None:
        process = connection.connection.dbapi_connection.info.backend_pid
        admin.execute("SELECT pg_terminate_backend(%s)", [process])
        there = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        until(lambda: admin.execute(there, [process]).fetchone() is None)
        cuts.append(process)

    with psycopg.connect(postgres_url, autocommit=True) as admin, ours(postgres_url) as (study, ledger, storage):
        ledger.open_budget(999)
        for moment in count(1):
            before(storage.engine, moment, cut)
            number, drawn = live(study, ledger)
            trial = study.trials[number]
            assert (trial.state, trial.value, trial.params) == (TrialState.COMPLETE, 0.25, drawn)
            assert (trial.user_attrs, trial.intermediate_values) == ({"fit": {"seed": number}}, {1: 0.5})
            assert number == moment - 1  # one more trial, not two
            if len(cuts) < moment:
                break
    assert moment > 30  # it was cut at so many moments


@contextmanager
def crowded(postgres_url: str) -> Iterator[str]:
    """URL of a user who may have so few connections that others can take them all, as on a server with many clients."""
    url = make_url(postgres_url)
    user = f"{url.database}_few"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {user} LOGIN CONNECTION LIMIT {CONNECTIONS}".encode())
        admin.execute(f"GRANT ALL ON SCHEMA public TO {user}".encode())
        try:
            yield url.set(username=user).render_as_string(hide_password=False)
        finally:
            admin.execute(f"DROP OWNED BY {user}; DROP ROLE {user}".encode())


@contextmanager
def taken(url: str, *, seconds: float) -> Iterator[None]:
    """Take the user's connections, for so long or until the block ends."""
    held: list[psycopg.Connection] = []

    def full() -> bool:
        with suppress(psycopg.OperationalError):  # the server has not noticed yet that an earlier one was closed
            held.append(psycopg.connect(url))
        return len(held) == CONNECTIONS

    def let_go() -> None:
        for connection in held:
            connection.close()

    until(full)
    timer = threading.Timer(seconds, let_go)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        let_go()


def test_plain_optuna_fails_when_the_server_has_no_connection_left(postgres_url: str) -> None:
    with crowded(postgres_url) as url, plain(url) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME)
        trial = study.ask()
        storage.engine.dispose()
        with taken(url, seconds=60), pytest.raises((StorageInternalError, OperationalError)) as caught:
            trial.report(0.5, step=1)
        assert "too many connections" in str(caught.value.__cause__ or caught.value)


def test_a_worker_waits_while_the_server_has_no_connection_left(postgres_url: str) -> None:
    with crowded(postgres_url) as url:
        with ours(url) as (_, ledger, storage):
            ledger.open_budget(1)
            storage.engine.dispose()
            with taken(url, seconds=1):
                assert claimed(ledger).number == 0
        with taken(url, seconds=1):
            close(connect(url, patience=Patience(30)))


def opened(storage: RDBStorage, postgres_url: str, threads: int) -> int:
    """How many connections so many threads of one process open that use the storage at once."""
    together = threading.Barrier(threads)

    def work() -> None:
        together.wait(60)
        with storage.engine.connect() as connection:
            connection.execute(text("SELECT pg_sleep(0.2)"))

    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        most = 0
        while any(thread.is_alive() for thread in crew):
            row = admin.execute(others.encode()).fetchone()
            most = max(most, row[0] if row else 0)
    return most


def test_plain_optuna_may_open_fifteen_connections_a_process(postgres_url: str) -> None:
    with plain(postgres_url) as storage:
        assert opened(storage, postgres_url, 20) > 4


def test_a_process_opens_at_most_four_connections(postgres_url: str) -> None:
    with ours(postgres_url) as (_, _, storage):
        assert opened(storage, postgres_url, 20) <= 4
