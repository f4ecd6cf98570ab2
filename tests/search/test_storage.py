"""URLs in, open databases out, and no password anywhere on the way."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
import traceback
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from search.errors import (
    BadDeclaration,
    BadStorage,
    SearchError,
    StorageDown,
    StudyChanged,
    StudyNotFound,
)
from search.ledger import Claim, Ledger
from search.patience import Patience
from search.storage import close, connect, redacted, resolve_url, transact
from search.trials import together

CANARY = "c4nary{SCHEMA_VERSION}%25"  # braces and percent signs have a meaning to Optuna and to alembic


def told(error: BaseException) -> str:
    """Everything a person or a log gets to see of an error, chained ones included."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h:5433/d?sslmode=require", "postgresql+psycopg://u:p@h:5433/d?sslmode=require"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("sqlite:////var/x.db", "sqlite:////var/x.db"),
        ("sqlite+pysqlite:////var/x.db", "sqlite:////var/x.db"),
    ],
)
def test_a_url_is_spelled_in_one_way(given: str, resolved: str) -> None:
    assert resolve_url(given) == resolved
    assert resolve_url(resolved) == resolved


def test_a_password_survives_resolving() -> None:
    assert make_url(resolve_url("postgresql://u:%40%2F%25@h/d")).password == "@/%"


def test_the_option_wins_over_the_variable_and_the_variable_over_the_file_in_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLC_STORAGE", raising=False)
    assert resolve_url(None) == f"sqlite:///{tmp_path}/mlc-search.db"
    monkeypatch.setenv("MLC_STORAGE", "sqlite:///a/b.db")
    assert resolve_url(None) == f"sqlite:///{tmp_path}/a/b.db"
    assert resolve_url("sqlite:///c.db") == f"sqlite:///{tmp_path}/c.db"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"mysql://u:{CANARY}@h/d", "names mysql, which mlc-search does not speak. Write sqlite:///FILE or"),
        (
            f"postgresql+psycopg2://u:{CANARY}@h/d",
            "names postgresql+psycopg2, which mlc-search does not speak",
        ),
        (f"u:{CANARY}@h/d", "The storage URL cannot be read. Write sqlite:///FILE or"),
        (f"postgresql://u@h:{CANARY}/d", "The storage URL cannot be read."),
        ("", "The storage URL cannot be read. Write sqlite:///FILE or"),
        ("sqlite://", "needs a database file that several processes can open"),
        ("sqlite:///:memory:", "needs a database file that several processes can open"),
        ("sqlite:///file:x?uri=true", "needs a database file that several processes can open"),
    ],
)
def test_a_url_that_cannot_be_used_says_which_can_and_not_itself(url: str, sentence: str) -> None:
    with pytest.raises(BadStorage) as caught:
        connect(url)
    assert sentence in str(caught.value)
    assert "c4nary" not in told(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:c4nary@h/d", "postgresql://u:***@h/d"),
        (
            "postgresql://u@h/d?password=c4nary&sslmode=require",
            "postgresql://u@h/d?password=***&sslmode=require",
        ),
        (
            "postgresql://h/d?sslpassword=c4nary&PASSWORD=c4nary",
            "postgresql://h/d?PASSWORD=***&sslpassword=***",
        ),
        ("sqlite:////x.db", "sqlite:////x.db"),
        ("c4nary", "(unreadable URL)"),
    ],
)
def test_a_redacted_url_shows_all_but_the_password(url: str, shown: str) -> None:
    start, _, query = redacted(url).partition("?")
    assert (start, set(query.split("&"))) == (
        shown.partition("?")[0],
        set(shown.partition("?")[2].split("&")),
    )


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{CANARY}@127.0.0.1:1/d",
        "postgresql://u@127.0.0.1:1/d?password=c4nary",
        f"postgresql://u:{CANARY}@no-such-host.invalid/d",
        "postgresql://u:p@127.0.0.1/d?nonsense=c4nary&password=c4nary",
    ],
)
@pytest.mark.timeout(30)
def test_a_server_that_is_not_there_is_named_without_the_password(url: str) -> None:
    with pytest.raises(StorageDown) as caught:
        connect(url)
    assert str(caught.value).startswith(f"Cannot use the database {redacted(resolve_url(url))}: ")
    assert "Check that the server runs" in str(caught.value)
    assert "c4nary" not in told(caught.value).replace("nonsense=c4nary", "")
    assert caught.value.exit_code == 1


@pytest.mark.timeout(60)
def test_a_database_or_user_that_is_not_there_is_named_without_the_password(postgres_url: str) -> None:
    url = make_url(postgres_url)
    for wrong in (url.set(database="nowhere"), url.set(username="nobody")):
        with pytest.raises(StorageDown, match=r'"(nowhere|nobody)" does not exist') as caught:
            connect(wrong.set(password=CANARY).render_as_string(hide_password=False))
        assert "c4nary" not in told(caught.value)


def test_a_password_with_braces_and_percent_signs_opens_the_database(postgres_url: str) -> None:
    storage = connect(make_url(postgres_url).set(password=CANARY).render_as_string(hide_password=False))
    assert make_url(storage.url).password == CANARY
    assert storage.get_all_studies() == []
    close(storage)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadStorage, match=f"The folder {tmp_path}/none is not there. Create it"):
        connect(f"sqlite:///{tmp_path}/none/x.db")


def test_looking_at_a_database_that_is_not_there_makes_none(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with pytest.raises(StorageDown, match=r"no search has been started in it yet\. Start a search"):
        connect(f"sqlite:///{file}", create=False)
    assert list(tmp_path.iterdir()) == []


def test_looking_at_an_empty_database_makes_no_tables(storage_url: str) -> None:
    if storage_url.startswith("sqlite"):
        sqlite3.connect(storage_url.removeprefix("sqlite:///")).close()
        Path(storage_url.removeprefix("sqlite:///")).touch()
    for _ in range(2):
        with pytest.raises(StorageDown, match="no search has been started in it yet"):
            connect(storage_url, create=False)


def test_looking_at_a_search_works_without_creating(storage_url: str) -> None:
    first = connect(storage_url)
    optuna.create_study(storage=first, study_name="seen")
    close(first)

    second = connect(storage_url, create=False)

    assert [study.study_name for study in second.get_all_studies()] == ["seen"]
    close(second)


def test_a_database_that_plain_optuna_made_keeps_its_studies(storage_url: str) -> None:
    plain = optuna.storages.RDBStorage(resolve_url(storage_url))
    optuna.create_study(storage=plain, study_name="old")
    plain.engine.dispose()

    storage = connect(storage_url)

    assert [study.study_name for study in storage.get_all_studies()] == ["old"]
    close(storage)
    plain = optuna.storages.RDBStorage(resolve_url(storage_url))  # and plain Optuna still reads it
    assert [study.study_name for study in plain.get_all_studies()] == ["old"]
    plain.engine.dispose()


@pytest.mark.parametrize(
    ("revision", "sentence"),
    [
        ("v2.6.0.a", "an older Optuna.*optuna storage upgrade --storage '?(sqlite|postgresql)"),
        ("v9.0.0.a", "a newer Optuna than 5."),
    ],
)
def test_tables_of_another_optuna_say_what_to_run(storage_url: str, revision: str, sentence: str) -> None:
    storage = connect(storage_url)
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": revision})
    close(storage)

    with pytest.raises(StorageDown, match=sentence):
        connect(storage_url)


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("image,label\n" * 1000)
    with pytest.raises(StorageDown, match=r"file is not a database\. Check that it is a database"):
        connect(f"sqlite:///{file}")
    assert file.read_text() == "image,label\n" * 1000


def test_sqlite_connections_wait_for_each_other_and_keep_foreign_keys(sqlite_url: str) -> None:
    storage = connect(sqlite_url)
    with storage.engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "synchronous", "foreign_keys")
        }
    close(storage)
    assert settings == {"journal_mode": "wal", "busy_timeout": 30_000, "synchronous": 1, "foreign_keys": 1}


def test_a_transaction_is_done_again_after_the_server_dropped_the_connection(postgres_url: str) -> None:
    storage = connect(postgres_url)
    tries: list[int] = []

    def work(session: Session) -> int:
        tries.append(len(tries))
        if len(tries) == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return int(session.execute(text("SELECT 7")).scalar_one())

    assert transact(storage, work) == 7
    close(storage)
    assert tries == [0, 1]


def test_a_report_is_written_again_after_the_server_dropped_the_connection(postgres_url: str) -> None:
    storage = connect(postgres_url)
    trial = optuna.create_study(storage=storage).ask()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        other.execute(f"SELECT pg_terminate_backend(pid) {others}".encode())
    storage.engine.pool._pre_ping = False  # else the pool itself would notice

    trial.report(0.5, step=1)
    trial.set_user_attr("a", 1)

    found = storage.get_trial(trial._trial_id)
    assert (found.intermediate_values, found.user_attrs) == ({1: 0.5}, {"a": 1})
    close(storage)


def test_a_database_of_an_earlier_version_gets_the_columns_and_tables_that_have_come_since(storage_url: str) -> None:
    close(connect(storage_url))
    engine = create_engine(resolve_url(storage_url))
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER mlc_workers_follow_studies"))
        connection.execute(text("DROP TABLE mlc_workers"))
        for table, column in (("mlc_claims", "losses"), ("mlc_claims", "token"), ("mlc_budgets", "beat_at")):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
    engine.dispose()

    storage = connect(storage_url)
    study = optuna.create_study(storage=storage)
    ledger = Ledger(storage, study._study_id)
    ledger.open_budget(1, own=True)
    ledger.enlist("w", {})

    assert isinstance(ledger.claim("w"), Claim)
    close(storage)


def test_waiting_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[float] = []

    def work() -> int:
        tries.append(time.monotonic())
        if time.monotonic() - tries[0] < 4:
            raise OperationalError("SELECT 1", {}, Exception("gone"))
        return 7

    assert Patience(30).with_database(work, spell=lambda error: SearchError(f"No database: {error.args[0]}.")) == 7

    assert len(tries) > 5
    assert [record.message for record in caplog.records] == [
        "No database: (builtins.Exception) gone. Waiting for it, 30 seconds at most.",
        "It is back; going on.",
    ]


def test_whoever_waits_for_the_process_to_end_need_not_wait_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.patience.HURRY", 0.2)

    def work() -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    start = time.monotonic()
    with pytest.raises(SearchError, match="No database"):
        Patience(600, hurried=lambda: True).with_database(work, spell=lambda _: SearchError("No database."))
    assert time.monotonic() - start < 5


def test_a_transaction_that_keeps_failing_says_that_the_database_is_down(sqlite_url: str) -> None:
    storage = connect(sqlite_url)
    storage.patience = Patience(0.2)

    def work(session: Session) -> None:
        session.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(StorageDown, match="no such table: nowhere") as caught:
        transact(storage, work)
    close(storage)
    assert "OperationalError" not in told(caught.value)
    assert isinstance(caught.value.__context__, OperationalError)


def test_opening_a_database_imports_no_torch() -> None:
    code = "import search.errors, search.storage, search.ledger, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            StudyNotFound("papr", ["paper", "default"]),
            "There is no study 'papr'. Did you mean 'paper'? Studies: paper, default.",
        ),
        (StudyNotFound("x", []), "There is no study 'x'. The database holds no study yet."),
        (
            StudyChanged("mine", ["space.lr.high: 0.01, now 0.1", "pruner: none, now hyperband"]),
            "Study 'mine' was started with another declaration:\n"
            "  space.lr.high: 0.01, now 0.1\n"
            "  pruner: none, now hyperband\n"
            "Go on by --study NAME alone or the same values; let it grow by mlc-search run --study FILE --extend; or "
            'name this one otherwise: name = "..." in its file.',
        ),
        (
            BadDeclaration("my.toml", "space.lr.low", "'a' is not a number."),
            "my.toml: space.lr.low: 'a' is not a number.",
        ),
    ],
)
def test_an_error_is_a_sentence_that_says_what_to_do(error: SearchError, sentence: str) -> None:
    assert str(error) == sentence
    assert error.exit_code == 2


def test_the_optuna_that_the_upgrade_command_needs_is_there() -> None:
    assert shutil.which("optuna", path=str(Path(sys.executable).parent))


def odd_trials() -> list[FrozenTrial]:
    """One of each state, with what is hard to store."""
    params: dict[str, object] = {"lr": 1e-3, "epochs": 4, "name": "b", "flag": None}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "lr": optuna.distributions.FloatDistribution(1e-5, 1, log=True),
        "epochs": optuna.distributions.IntDistribution(1, 9),
        "name": optuna.distributions.CategoricalDistribution(["a", "b"]),
        "flag": optuna.distributions.CategoricalDistribution([None, True, 2.5]),
    }
    reports = {3: float("nan"), 1: float("inf"), 2: float("-inf"), 10: 0.25}
    attributes = {"user_attrs": {"a": [1, {"b": None}]}, "system_attrs": {"fixed_params": {"x": 1}}}
    return [
        create_trial(state=TrialState.COMPLETE, value=float("inf"), params=params, distributions=distributions),
        create_trial(state=TrialState.COMPLETE, value=0.5, intermediate_values=reports, **attributes),  # type: ignore[arg-type]
        create_trial(state=TrialState.PRUNED, value=-2.0, params=params, distributions=distributions),
        create_trial(state=TrialState.FAIL),
        create_trial(state=TrialState.WAITING, **attributes),  # type: ignore[arg-type]
        create_trial(state=TrialState.RUNNING, params=params, distributions=distributions),
    ]


def test_trials_are_read_as_plain_optuna_reads_them(storage_url: str) -> None:
    ours, plain = connect(storage_url), optuna.storages.RDBStorage(resolve_url(storage_url))
    study, other = (optuna.create_study(storage=plain, study_name=name)._study_id for name in ("one", "other"))
    for trial in odd_trials():
        plain.create_new_trial(study, trial)
        plain.create_new_trial(other, trial)
    trials = plain.get_all_trials(study)
    ids = [trial._trial_id for trial in trials]
    # NaN is not equal to itself, hence the spelling.
    assert repr(ours.get_all_trials(study)) == repr(trials)
    assert repr([ours.get_trial(trial) for trial in ids]) == repr(trials)
    assert [list(trial.params) for trial in ours.get_all_trials(study)] == [list(trial.params) for trial in trials]
    for again in (set(), {ids[0], ids[3], ids[5]}):
        asked = (study, None, again, ids[3])
        assert repr(ours._get_trials(*asked)) == repr(plain._get_trials(*asked))
    with pytest.raises(KeyError):
        ours.get_trial(max(ids) + 99)
    with pytest.raises(KeyError):
        ours.get_all_trials(study + 99)
    close(ours)
    plain.engine.dispose()


def test_what_a_worker_does_not_read_of_all_trials_it_reads_of_one(storage_url: str) -> None:
    storage = connect(storage_url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    trial.set_user_attr("metrics", [0.5] * 100)
    trial.set_user_attr("failure", ["no luck"])
    study.tell(trial, 1.0)

    storage.unread = frozenset({"metrics"})

    (seen,) = storage.get_all_trials(study._study_id)
    assert (seen.value, seen.user_attrs) == (1.0, {"failure": ["no luck"]})
    assert storage.get_trial(trial._trial_id).user_attrs == {"metrics": [0.5] * 100, "failure": ["no luck"]}
    close(storage)


def test_what_is_given_together_is_seen_by_nobody_before_it_is_written(storage_url: str) -> None:
    storage = connect(storage_url)
    study = optuna.create_study(storage=storage)
    study.ask().suggest_float("x", 0, 1)  # the first of a name is compared with the database's
    trial = study.ask()
    with together(storage):
        drawn = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("a", 1)
        trial.set_user_attr("a", 2)
        trial.report(0.5, step=1)
        storage.set_study_system_attr(study._study_id, "note", "text")
        before = storage.get_trial(trial._trial_id)
    after = storage.get_trial(trial._trial_id)
    assert (after.params, after.user_attrs, after.intermediate_values) == ({"x": drawn}, {"a": 2}, {1: 0.5})
    assert storage.get_study_system_attrs(study._study_id) == {"note": "text"}
    assert (before.params, before.user_attrs, before.intermediate_values) == ({}, {}, {})
    close(storage)


def test_a_finished_trial_takes_nothing_more_and_then_nothing_else_of_what_is_given_together(storage_url: str) -> None:
    storage = connect(storage_url)
    study = optuna.create_study(storage=storage)
    over, runs = study.ask(), study.ask()
    study.tell(over, 1.0)
    with pytest.raises(UpdateFinishedTrialError), together(storage):  # noqa: PT012 - it is the block's end that raises
        storage.set_trial_user_attr(runs._trial_id, "a", 1)
        storage.set_trial_user_attr(over._trial_id, "a", 1)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_intermediate_value(over._trial_id, 1, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_system_attr(over._trial_id, "a", 1)
    with pytest.raises(KeyError):
        storage.set_trial_user_attr(runs._trial_id + 99, "a", 1)
    assert storage.get_trial(runs._trial_id).user_attrs == {}
    close(storage)
