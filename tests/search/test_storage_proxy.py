"""The storage proxy: the ledger's promises through it, real processes behind it, and who is let in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import optuna
import psycopg
import pytest
import trustme
from optuna.storages import GrpcStorageProxy, RDBStorage
from optuna.trial import TrialState
from sqlalchemy import make_url

from search.errors import BadStorage, StorageDown
from search.ledger import Ledger, Progress, ask
from search.patience import Patience
from search.proxy import CONNECTIONS, _address, open_database, start, stop
from search.remote import Remote
from search.sessions import FREE, Tries
from search.slots import Done, Wait
from search.storage import close, connect, redacted, resolve_url
from search.study import open_study
from search.trials import Trials, TrialTaken, together
from search.views import trial_rows
from search.wire import CALL, LEDGER, SERVICE
from tests import small

# What the ledger promises to a worker beside the database, it promises to one behind the proxy.
from tests.contracts.test_ledger import (  # noqa: F401
    Bench,
    check_log_against_study,
    claimed,
    crew,
    here,
    read,
    test_a_beating_worker_keeps_its_trial,
    test_a_closed_budget_gives_no_trial_and_lets_the_running_one_finish,
    test_a_lost_trial_frees_its_slot_even_for_another_budget,
    test_a_pruned_trial_has_its_last_report_as_value,
    test_a_reclaimed_trial_keeps_the_parameters_it_had_suggested,
    test_a_released_trial_waits_and_its_attempt_does_not_count,
    test_a_trial_is_given_up_after_its_last_attempt_and_another_takes_its_place,
    test_a_value_that_is_no_finite_number_never_enters_the_study,
    test_a_worker_that_lost_its_trial_can_change_nothing_of_it,
    test_an_enqueued_trial_comes_first_and_takes_its_parameters,
    test_an_unknown_budget_is_a_key_error_and_gives_no_trial,
    test_another_process_sees_that_a_trial_went_back_to_waiting,
    test_finishing_again_after_a_lost_answer_is_true_and_changes_nothing,
    test_nobody_is_lost_who_could_not_be_heard,
    test_the_list_of_workers_shows_who_is_there_and_forgets_who_fell_silent,
    test_what_was_given_up_can_be_enqueued_again,
    test_workers_of_two_versions_do_not_train_at_the_same_time,
    work,
)
from tests.crew import Crew
from tests.faults.server import free_port

TOKEN = "a-token-of-this-test"
PASSWORD = "a-password-of-this-test"
HOSTILE = (
    b"",
    b"\x80\x04N.",  # a pickle
    b"[" * 100_000,
    b"{}",
    b'{"calls":[["close",{}]]}',
    b'{"calls":[["__class__",{}]]}',
    b'{"calls":[["_write",{"rows":[]}]]}',
    b'{"calls":[["get_trial",{"trial_id":"1; DROP TABLE trials"}]]}',
    b'{"calls":[["get_trial",{}]]}',
    b'{"calls":[["get_trial",{"trial_id":1,"self":2}]]}',
    b'{"calls":[["_set_trial_param",{"trial_id":1,"param_name":"x","param_value_internal":1,"distribution":"os"}]]}',
    b'{"calls":[["_locked",{"work":1}]],"ledger":{"study_id":1,"retries":2,"draws":true}}',
    b'{"calls":[],"worker":7}',
    b'{"calls":[]}',
    b'{"calls":[["workers",{}],["workers",{}]],"ledger":{"study_id":1,"retries":2,"draws":true}}',
)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """As a proxy holds it."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    storage = open_database(resolve_url(url))
    yield storage
    close(storage)


@pytest.fixture
def storage_url(database: Trials) -> Iterator[str]:
    """A proxy in this process, for what is many small tests."""
    server, port = start(database, "127.0.0.1", 0, token=TOKEN)
    yield f"grpc://:{TOKEN}@127.0.0.1:{port}"
    stop(server)


class Proxy:
    """``mlc-search storage-proxy`` in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path, database: str, *words: object, token: str | None = TOKEN) -> None:
        self.port, self.log = free_port(), folder / "proxy.log"
        self._command = small.command("storage-proxy", "--port", self.port, *words)
        self._environment = {**os.environ, "MLC_STORAGE": database}
        self._environment.pop("MLC_PROXY_TOKEN", None)
        if token is not None:
            self._environment["MLC_PROXY_TOKEN"] = token
        self.url = f"grpc://:{token}@127.0.0.1:{self.port}" if token else f"grpc://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        before = self.said.count("Serving ")
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while self.said.count("Serving ") == before:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@contextmanager
def proxied(folder: Path, database: str, *words: object, token: str | None = TOKEN) -> Iterator[Proxy]:
    proxy = Proxy(folder, database, *words, token=token)
    try:
        yield proxy
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(30) == 0, proxy.said
    finally:
        proxy.kill()


def raw(url: str, data: bytes, *, token: str | None, method: str = f"/{SERVICE}/{CALL}") -> tuple[grpc.StatusCode, str]:
    """What a stranger's call is answered, if it is refused."""
    with grpc.insecure_channel(f"{make_url(url).host}:{make_url(url).port}") as channel:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(data, timeout=30, metadata=metadata)
    return caught.value.code(), caught.value.details()


def test_every_operation_of_a_ledger_goes_through() -> None:
    operations = {name for name, value in vars(Ledger).items() if callable(value) and not name.startswith("_")}
    assert operations == set(LEDGER)


def test_no_method_of_the_storage_looks_for_a_connection_that_is_not_there() -> None:
    unused = {"upgrade", "get_current_version", "get_head_version", "get_all_versions", "record_heartbeat", "engine"}
    of_connections = {
        name
        for kind in (RDBStorage, Trials)
        for name, value in vars(kind).items()
        if callable(value) and not name.startswith("_") and {"scoped_session", "engine"} & {*_names(value)}
    }
    assert of_connections > {"get_trial", "own", "close"}
    assert of_connections - unused - {"on_behalf_of"} <= set(vars(Remote))


def _names(function: object) -> tuple[str, ...]:
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return tuple(getattr(code, "co_names", ()))


def test_what_was_done_before_the_answer_was_lost_is_not_done_twice(
    here: Bench,  # noqa: F811 - a fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, send = [0], Remote._send

    def lose(remote: Remote, request: bytes) -> bytes:
        answer = send(remote, request)
        if left[0]:
            left[0] -= 1
            raise ConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(Remote, "_send", lose)
    left[0] = 2
    budget_id = here.ledger.open_budget(3)
    left[0] = 2
    claim = claimed(here.ledger.claim("w"))
    assert here.ledger.remaining(budget_id) == Progress(
        asked=3, finished=0, running=1, failed=0, waiting=0, closed=False
    )
    assert budget_id == 1
    left[0] = 1
    assert here.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=1.0)
    left[0] = 1
    here.ledger.enqueue("k", params={}, user_attrs={})
    assert [trial.state for trial in here.study.trials] == [TrialState.COMPLETE, TrialState.WAITING]


def test_a_trial_reads_the_same_through_the_proxy_to_the_bit(
    storage_url: str,
    database: Trials,
    here: Bench,  # noqa: F811 - a fixture
) -> None:
    here.ledger.open_budget(1)
    claim = claimed(here.ledger.claim("w"))
    trial_id, trial = claim.trial_id, ask(here.study, claim)
    trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    trial.suggest_int("layers", 1, 9)
    trial.suggest_categorical("kind", ["a", None, 2, 0.5, True])
    for step, value in enumerate((0.1 + 0.2, float("nan"), float("inf"), 5e-324)):
        trial.report(value, step)
    trial.set_user_attr("nested", {"list": [1, 1.0, "ü", None], "1": {}})
    here.ledger.finish(trial_id, worker="w", state=TrialState.COMPLETE, value=1 / 3)

    far, near = connect(storage_url).get_trial(trial_id), database.get_trial(trial_id)

    assert repr(far) == repr(near)
    assert (far.value, len(far.params), len(far.intermediate_values)) == (1 / 3, 3, 4)


def test_a_worker_writes_nothing_of_a_trial_that_is_anothers_nor_a_part_of_what_belongs_together(
    storage_url: str,
    here: Bench,  # noqa: F811 - a fixture
) -> None:
    here.ledger.open_budget(2)
    mine, others = claimed(here.ledger.claim("me")).trial_id, claimed(here.ledger.claim("other")).trial_id
    storage = connect(storage_url)
    storage.worker = "me"
    storage.own(mine)
    writes: tuple[Callable[[], None], ...] = (
        lambda: storage.own(others),
        lambda: storage.set_trial_user_attr(others, "k", 1),
        lambda: storage.set_trial_intermediate_value(others, 1, 0.5),
    )
    for write in writes:
        with pytest.raises(TrialTaken):
            write()
    with pytest.raises(TrialTaken), together(storage):  # noqa: PT012 - both are written at its end
        storage.set_trial_user_attr(mine, "k", 1)
        storage.set_trial_user_attr(others, "k", 1)
    with together(storage):
        storage.set_trial_user_attr(mine, "a", 1)
        storage.set_trial_user_attr(mine, "b", 2)
    assert storage.get_trial(mine).user_attrs == {"a": 1, "b": 2}
    assert storage.get_trial(others).user_attrs == {}
    storage.unread = frozenset({"a"})
    assert [trial.user_attrs for trial in storage.get_all_trials(here.study._study_id)] == [{"b": 2}, {}]
    close(storage)


def test_eight_worker_processes_meet_the_budget_exactly_while_the_proxy_is_killed_and_started_again(
    postgres_url: str,
    crew: Crew,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    with proxied(tmp_path, postgres_url) as proxy:
        storage = connect(proxy.url)
        study = optuna.create_study(storage=storage, study_name="contract")
        budget_id = Ledger(storage, study._study_id).open_budget(40)
        over = threading.Event()
        kills = []

        def kill_again_and_again() -> None:
            while not over.wait(0.3):
                if (tmp_path / "log").exists():  # then all have opened it
                    proxy.kill()
                    kills.append(len(read(tmp_path / "log")))
                    proxy.start()
                if len(kills) == 2:
                    return

        killer = threading.Thread(target=kill_again_and_again)
        killer.start()
        crew.run(8, work, proxy.url, tmp_path / "log")
        over.set()
        killer.join()

        assert kills
        assert kills[0] < 40
        ledger = Ledger(storage, study._study_id)
        runs = read(tmp_path / "log")
        assert sum(run.outcome != "raised" for run in runs) == 40
        check_log_against_study(runs, study)
        there = ledger.remaining(budget_id)
        assert (there.finished, there.running, there.waiting, there.closed) == (40, 0, 0, True)
        close(storage)


def figures(url: str) -> list[object]:
    """What must not depend on where the database is."""
    with open_study(small.NAME, url) as study:
        return [
            (row["number"], row["state"], row["value"], row["params"], row["seed"], row["reports"])
            for row in (one.to_table() for one in trial_rows(study))
        ]


def test_a_run_through_a_proxy_that_is_killed_in_the_middle_gives_the_same_values_to_the_bit(
    sqlite_url: str, tmp_path: Path
) -> None:
    file = small.declare(tmp_path, epochs=2)
    words = ("run", "--study", file, "--trials", 3, "--workers", 1)
    small.call(*words, folder=tmp_path, storage=sqlite_url)
    far = tmp_path / "far"
    far.mkdir()
    with proxied(tmp_path, f"sqlite:///{far}/search.db") as proxy:
        environment = {**os.environ, "MLC_STORAGE": proxy.url}
        command = small.command(*words)
        with subprocess.Popen(command, cwd=far, env=environment, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            said = next(line for line in running.stderr if line.startswith("trial 1 "))
            proxy.kill()
            time.sleep(1)
            proxy.start()
            said += running.stderr.read()
        assert running.returncode == 0, said
        assert figures(proxy.url) == figures(sqlite_url)
        assert len(figures(proxy.url)) == 3


def test_thirty_two_clients_share_few_connections(postgres_url: str, tmp_path: Path) -> None:
    with proxied(tmp_path, postgres_url) as proxy, psycopg.connect(postgres_url, autocommit=True) as admin:
        first = connect(proxy.url)
        study_id = optuna.create_study(storage=first)._study_id
        budget_id = Ledger(first, study_id).open_budget(320)
        at_once = threading.Barrier(32)

        def ten_trials(rank: int) -> int:
            storage = connect(proxy.url)
            ledger, done = Ledger(storage, study_id), 0
            at_once.wait()
            while not isinstance(answer := ledger.claim(f"w{rank}"), Done | Wait):
                storage.set_trial_user_attr(answer.trial_id, "rank", rank)
                done += ledger.finish(answer.trial_id, worker=f"w{rank}", state=TrialState.COMPLETE, value=1.0)
            close(storage)
            return done

        with ThreadPoolExecutor(32) as clients:
            running = [clients.submit(ten_trials, rank) for rank in range(32)]
            most = 0
            while not all(one.done() for one in running):
                rows = admin.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                most = max(most, *(int(row[0]) for row in rows))
                time.sleep(0.02)
        assert sum(one.result() for one in running) == Ledger(first, study_id).remaining(budget_id).finished == 320
        assert 2 < most <= CONNECTIONS
        close(first)


def test_without_the_token_nobody_is_answered(
    storage_url: str,
    database: Trials,
    here: Bench,  # noqa: F811 - a fixture
) -> None:
    here.ledger.open_budget(1)
    request = b'{"calls":[["get_all_studies",{}]]}'
    for token in (None, "", "another", TOKEN[:-1], f"{TOKEN}x"):
        server, port = start(database, "127.0.0.1", 0, token=TOKEN)  # one each: five wrong tokens are few enough
        url = f"grpc://127.0.0.1:{port}"
        for data in (request, b"", b"\xff" * 1000):
            assert raw(url, data, token=token) == (grpc.StatusCode.UNAUTHENTICATED, "a token is needed")
        for method in ("/optuna.StorageService/GetAllStudies", "/none/None"):
            assert raw(url, b"", token=token, method=method)[0] == grpc.StatusCode.UNAUTHENTICATED
        stop(server)
    assert raw(storage_url, b"", token=TOKEN, method="/none/None")[0] == grpc.StatusCode.UNIMPLEMENTED
    plain = GrpcStorageProxy(host="127.0.0.1", port=make_url(storage_url).port or 0)
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        plain.get_all_studies()
    plain.remove_session()
    wrong = make_url(storage_url).set(password="a-wrong-token").render_as_string(hide_password=False)
    with pytest.raises(BadStorage, match="refuses the token") as caught:
        connect(wrong)
    assert "a-wrong-token" not in str(caught.value)


def test_who_sends_wrong_tokens_waits_even_with_the_right_one_and_a_worker_inside_does_not(
    database: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("search.proxy.Tries", partial(Tries, clock=lambda: now[0]))
    server, port = start(database, "127.0.0.1", 0, token=TOKEN)
    url = f"grpc://:{TOKEN}@127.0.0.1:{port}"
    inside = connect(url.replace("127.0.0.1", "localhost"))  # of the same name, gRPC would share its connection
    for _ in range(FREE + 3):
        assert raw(url, b"", token=None)[0] == grpc.StatusCode.UNAUTHENTICATED  # that is no guess
    for guess in range(FREE):
        assert raw(url, b"", token=f"guess {guess}")[0] == grpc.StatusCode.UNAUTHENTICATED
    for token in ("one more", TOKEN):
        for method in (f"/{SERVICE}/{CALL}", "/none/None"):
            refused = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many wrong tokens: wait 1 s")
            assert raw(url, b"", token=token, method=method) == refused
    assert inside.get_all_studies() == []
    with pytest.raises(StorageDown, match="too many wrong tokens: wait 1 s"):
        connect(url)
    assert inside.get_all_studies() == []
    close(inside)
    # A worker that is patient comes in once the time is over.
    with ThreadPoolExecutor(1) as later:
        coming = later.submit(connect, url, patience=Patience(60))
        assert not wait([coming], timeout=0.5).done
        now[0] += 1.0
        close(coming.result())
    assert raw(url, b"", token="wrong")[0] == grpc.StatusCode.UNAUTHENTICATED  # what was wrong before is forgotten
    stop(server)


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.1.2.3:4567", "10.1.2.3"), ("ipv6:%5B2001:db8::1%5D:4567", "2001:db8::1"), ("ipv6:[::1]:4567", "::1")],
)
def test_who_calls_is_read_from_how_grpc_spells_it(peer: str, address: str) -> None:
    assert _address(peer) == address


def test_a_request_that_is_none_is_refused_and_the_next_is_answered(
    storage_url: str,
    here: Bench,  # noqa: F811 - a fixture
) -> None:
    for data in HOSTILE:
        assert raw(storage_url, data, token=TOKEN)[0] == grpc.StatusCode.INVALID_ARGUMENT, data[:99]
        assert here.ledger.claim("w") == Done()


def test_trials_are_begun_and_ended_by_workers_alone(here: Bench) -> None:  # noqa: F811 - a fixture
    with pytest.raises(BadStorage, match="begun and ended by mlc-search's workers alone"):
        here.study.ask()


def test_a_proxy_that_is_away_is_said_at_once_or_waited_for(tmp_path: Path, sqlite_url: str) -> None:
    url = f"grpc://127.0.0.1:{free_port()}"
    with pytest.raises(StorageDown, match=re.escape(f"Cannot use the database {url}: ")):
        connect(url)
    with proxied(tmp_path, sqlite_url, token=None) as proxy:  # on loopback nobody has to know a token
        storage = connect(proxy.url)
        proxy.kill()
        threading.Timer(0.5, proxy.start).start()
        assert storage.get_all_studies() == []
        close(storage)


def test_beyond_loopback_a_token_is_made_and_needed_and_tls_is_spoken_with_a_certificate(
    tmp_path: Path, sqlite_url: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    words = ("--host", "0.0.0.0", "--certificate", tmp_path / "both.pem")
    with proxied(tmp_path, sqlite_url, *words, token=None) as proxy, pytest.MonkeyPatch.context() as patch:
        (made,) = re.findall(r"^Workers need MLC_PROXY_TOKEN=(\S+)$", proxy.said, re.MULTILINE)
        assert "MLC_STORAGE=grpcs://" in proxy.said
        patch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(tmp_path / "authority.pem"))
        url = f"grpcs://localhost:{proxy.port}"
        refused = small.call("studies", folder=tmp_path, storage=url, code=2)
        assert "refuses the token" in refused.stderr
        patch.setenv("MLC_PROXY_TOKEN", made)
        assert small.call("studies", "--json", folder=tmp_path, storage=url).stdout.strip() == "[]"
        down = small.call("studies", folder=tmp_path, storage=url.replace("grpcs", "grpc"), code=1)
        assert "whether it speaks TLS" in down.stderr
        assert made not in refused.stderr + down.stderr


def test_neither_password_nor_token_is_said_even_when_the_database_is_gone(
    tmp_path: Path, postgres_server: str, postgres_url: str
) -> None:
    url = make_url(postgres_url).set(password=PASSWORD)
    with proxied(tmp_path, url.render_as_string(hide_password=False)) as proxy:
        storage = connect(proxy.url)
        assert storage.get_all_studies() == []
        with psycopg.connect(postgres_server, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {url.database} WITH (FORCE)".encode())
        storage.patience.seconds = 0.5
        with pytest.raises(StorageDown, match="its database does not answer") as caught:
            storage.get_all_studies()
        close(storage)
        with psycopg.connect(postgres_server, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {url.database}".encode())
        command = Path(f"/proc/{proxy.process.pid}/cmdline").read_text()
        for secret in (PASSWORD, TOKEN):
            assert secret not in str(caught.value) + proxy.said + command
        assert "Serving postgresql+psycopg://postgres:***@" in proxy.said


def test_a_proxys_url_takes_its_token_from_the_environment_and_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_PROXY_TOKEN", TOKEN)
    assert resolve_url("grpc://host") == f"grpc://:{TOKEN}@host:13000"
    assert resolve_url("grpcs://:other@host:1") == "grpcs://:other@host:1"
    assert redacted(resolve_url("grpc://host")) == "grpc://:***@host:13000"
    for wrong in ("grpc://", "grpc://a-token@host", "grpc://host/database", "grpc://host?x=1"):
        with pytest.raises(BadStorage, match="is named as grpc://HOST:PORT") as caught:
            resolve_url(wrong)
        assert "a-token" not in str(caught.value)
    monkeypatch.setenv("MLC_PROXY_TOKEN", "a-token\n")
    with pytest.raises(BadStorage, match="MLC_PROXY_TOKEN holds other characters"):
        resolve_url("grpc://host")
    monkeypatch.delenv("MLC_PROXY_TOKEN")
    with pytest.raises(BadStorage, match="needs the database itself"):
        open_database("grpc://host:1")
