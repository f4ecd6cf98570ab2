"""The dashboard in a real browser, whom it answers, and what of optuna-dashboard's own openness it closes."""

from __future__ import annotations

import base64
import csv
import http.client
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import psycopg
import pytest
import trustme
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import wsgi
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import make_url

from search.gate import is_loopback
from search.routes import BadRequest, find
from search.server import BadCertificate, tls
from search.sessions import FREE, LONGEST, SESSION_SECONDS, TOGETHER, Sessions, Tries
from search.storage import close, connect
from tests import small

TOKEN = "a-token-of-this-test"
PASSWORD = "a-password-of-this-test"
CANARY = "what no request may read"
FORMULA = '=HYPERLINK("http://evil.example")'


@dataclass(frozen=True, slots=True)
class Served:
    """A dashboard's process."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()


@dataclass(frozen=True, slots=True)
class Laden:
    """A study that a hostile worker left: a page among its artifacts, a link out of the folder, a formula."""

    url: str
    root: Path
    page: str  # ids of artifacts
    link: str
    finished: int  # ids of trials
    running: int

    def rows(self) -> list[str]:
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as database:
            return list(database.iterdump())


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a study of three complete trials."""
    folder = tmp_path_factory.mktemp("searched")
    storage = f"sqlite:///{folder}/search.db"
    file = small.declare(folder, epochs=2, pruner="none")
    small.call("run", "--study", file, "--trials", 3, "--workers", 2, folder=folder, storage=storage)
    return folder, storage


@pytest.fixture(scope="module")
def laden(tmp_path_factory: pytest.TempPathFactory) -> Laden:
    folder = tmp_path_factory.mktemp("laden")
    root = folder / "mlc-search-artifacts"
    root.mkdir()
    (folder / "canary").write_text(CANARY)
    (folder / "page.html").write_text("<script>fetch('/api/studies')</script>")
    url = f"sqlite:///{folder}/search.db"
    storage = connect(url)
    study = optuna.create_study(storage=storage, study_name="laden")
    store = FileSystemArtifactStore(root)
    trial = study.ask()
    trial.suggest_float("x", -0.5, -0.4)
    trial.set_user_attr("comment", FORMULA)
    ids = [
        upload_artifact(artifact_store=store, file_path=str(folder / name), study_or_trial=trial)
        for name in ("page.html", "canary")
    ]
    (root / ids[1]).unlink()
    (root / ids[1]).symlink_to(folder / "canary")
    study.tell(trial, -0.5)
    running = study.ask()
    close(storage)
    return Laden(url, root, ids[0], ids[1], trial._trial_id, running._trial_id)


@contextmanager
def served(folder: Path, storage: str, *words: object, token: str | None = None, before: str = "") -> Iterator[Served]:
    """Run ``mlc-search dashboard``; `before` is Python that its process runs first."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    environment = {**os.environ, "MLC_STORAGE": storage}
    environment.pop("MLC_DASHBOARD_TOKEN", None)
    if token is not None:
        environment["MLC_DASHBOARD_TOKEN"] = token
    command = small.command("dashboard", "--port", port, *words)
    if before:
        command = [sys.executable, "-P", "-c", f"{before}\nfrom search.cli import main; main()", *command[4:]]
    log = folder / f"dashboard-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while "Ctrl-C" not in log.read_text():  # said when the port is taken: then a connection waits
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Served(port, process, log)
    finally:
        process.terminate()
        process.wait(30)


def ask(
    served: Served, path: str = "/api/studies", *, method: str = "GET", body: bytes | None = None, **headers: Any
) -> tuple[int, dict[str, str], bytes]:
    """Send one request; header names with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request(method, path, body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def plain(
    laden: Laden, path: str, *, method: str = "GET", body: bytes = b"", **environ: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask optuna-dashboard itself."""
    storage = optuna.storages.RDBStorage(laden.url)
    app = wsgi(storage, artifact_store=FileSystemArtifactStore(laden.root))
    path, _, query = path.partition("?")
    request: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, **environ}
    request |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json"}
    setup_testing_defaults(request)
    heard: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
        heard[:] = [(status, headers)]

    answer = app(request, start)
    content = b"".join(answer)
    getattr(answer, "close", lambda: None)()
    storage.engine.dispose()
    [(status, headers)] = heard
    return int(status.split()[0]), {name.lower(): value for name, value in headers}, content


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium in CI")
        pytest.skip("no Chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        yield launched
        launched.close()


def opened(browser: Browser) -> tuple[Page, list[str]]:
    """Open a page, and a list to which its console's errors come."""
    page = browser.new_context(ignore_https_errors=True, viewport={"width": 1400, "height": 1000}).new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


def test_the_browser_shows_the_trials_the_best_value_its_weights_and_its_curves(
    searched: tuple[Path, str], browser: Browser
) -> None:
    rows = small.rows(*searched)
    best = min(rows, key=lambda row: float(str(row["value"])))
    with served(*searched) as running:
        page, errors = opened(browser)
        page.goto(f"http://localhost:{running.port}/")
        page.get_by_text("small").first.click()
        page.get_by_text("Best Trial", exact=False).first.wait_for()
        page.get_by_text(str(best["value"])[:8], exact=False).first.wait_for()
        page.goto(f"http://localhost:{running.port}/dashboard/studies/1/trials")
        for row in rows:
            page.get_by_text(f"Trial {row['number']}", exact=False).first.wait_for()
        page.goto(f"http://localhost:{running.port}/dashboard/studies/1/trials?numbers={best['number']}")
        page.get_by_text("best.safetensors").first.wait_for()
        page.get_by_text("Best epoch").first.wait_for()  # of the note
        page.locator("img[src*='/artifacts/']").first.wait_for()
        page.wait_for_function("document.querySelector(\"img[src*='/artifacts/']\").naturalWidth > 0")
        page.context.close()
        assert errors == []
        assert "Traceback" not in running.said


def test_a_browser_logs_in_over_tls_and_then_sees_the_study(laden: Laden, tmp_path: Path, browser: Browser) -> None:
    trustme.CA().issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "both.pem"
    )
    words = ("--host", "0.0.0.0", "--certificate", tmp_path / "both.pem")
    with served(laden.root.parent, laden.url, *words, token=TOKEN) as running:
        page, errors = opened(browser)
        page.goto(f"https://localhost:{running.port}/dashboard/studies/1")
        page.get_by_label("Token").fill("not the token")
        page.get_by_role("button").click()
        page.get_by_text("That is not the token.").wait_for()
        assert errors.pop().endswith("status of 401 (Unauthorized)")
        errors.clear()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button").click()
        page.get_by_text("laden").first.wait_for()
        [cookie] = page.context.cookies()
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
        assert page.evaluate("document.cookie") == ""
        assert TOKEN not in json.dumps(page.context.storage_state())
        page.context.close()
        assert errors == []
        assert "plain HTTP" not in running.said


def test_only_requests_that_name_this_machine_are_answered(laden: Laden) -> None:
    assert plain(laden, "/api/studies", HTTP_HOST="evil.example")[0] == 200
    with served(laden.root.parent, laden.url) as running:
        for host in ("localhost", "127.0.0.1:1", "[::1]:8080"):
            assert ask(running, Host=host)[0] == 200
        for host in ("evil.example", "localhost.evil.example:80", "10.0.0.1"):
            status, _, content = ask(running, Host=host)
            assert (status, json.loads(content)["reason"]) == (403, "Only requests to localhost are answered.")
        assert ask(running, Host="a b")[0] == 400


def test_another_sites_page_changes_nothing_even_on_loopback(laden: Laden) -> None:
    note = json.dumps({"version": 1, "body": "theirs"}).encode()
    foreign: list[dict[str, Any]] = [{"Origin": "http://evil.example"}, {"Origin": "null"}]
    foreign += [{"Origin": "http://127.0.0.1:1"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}]
    migrate = plain(laden, "/incompatible-rdb-schema", method="POST", HTTP_ORIGIN="http://evil.example")
    assert migrate[0] == 302  # without a body, no browser asks beforehand whether it may
    before = laden.rows()
    with served(laden.root.parent, laden.url) as running:
        for headers in foreign:
            assert ask(running, "/api/studies/1/note", method="PUT", body=note, **headers)[0] == 403
            assert ask(running, "/incompatible-rdb-schema", method="POST", **headers)[0] == 403
        assert laden.rows() == before
        own: dict[str, Any] = {"Origin": f"http://127.0.0.1:{running.port}", "Sec_Fetch_Site": "same-origin"}
        assert ask(running, "/api/studies/1/note", method="PUT", body=note, **own)[0] == 204
        assert "theirs" in "".join(laden.rows())


def test_beyond_loopback_every_request_needs_the_token_and_nothing_is_changed(laden: Laden) -> None:
    assert plain(laden, "/api/studies", REMOTE_ADDR="10.0.0.1")[0] == 200
    before = laden.rows()
    with served(laden.root.parent, laden.url, "--host", "0.0.0.0", token=TOKEN) as running:
        for path in ("/", "/dashboard/", "/api/studies", "/artifacts/1/0/x", "/no/such", "/log-in"):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                status, headers, content = ask(running, path, method=method)
                if (path, method) != ("/log-in", "POST"):
                    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="mlc-search"')
                    assert method == "HEAD" or b"<form" in content
        for path, method in _changes():
            assert ask(running, path, method=method, body=b"{}", Authorization=f"Bearer {TOKEN}")[0] == 403
        status, _, content = ask(running, Authorization=basic(f"me:{TOKEN}"), Host="cluster.example")
        assert (status, b'"laden"' in content) == (200, True)
        assert laden.rows() == before

        status, headers, _ = ask(running, "/log-in", method="POST", body=f"token={TOKEN}".encode())
        assert (status, headers["location"]) == (303, "/dashboard")
        cookie, _, flags = headers["set-cookie"].partition("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(flags.split("; "))
        assert ask(running, Cookie=f"other=1; {cookie}")[0] == 200
        assert ask(running, Cookie=f"{cookie}x")[0] == 401

        wrong = ("Basic", "Basic ???", "Bearer x", basic("me:"), basic(TOKEN), basic(f"me:{TOKEN}x"))
        assert [ask(running, Authorization=text)[0] for text in wrong] == [401] * 5 + [429]
        status, headers, _ = ask(running, Authorization=f"Bearer {TOKEN}")
        assert status == 429
        assert 1 <= int(headers["retry-after"]) <= 2
        assert ask(running, Cookie=cookie)[0] == 200  # who is in stays in
        assert TOKEN not in running.said
        assert "This is plain HTTP" in running.said


def _changes() -> list[tuple[str, str]]:
    """Path and method of each route of optuna-dashboard that is no GET."""
    routes = wsgi(optuna.storages.InMemoryStorage()).routes
    spelt = [
        (re.sub(r"<[a-z_]+(:int|:re:[^>]+)?>", "1", re.sub(r"<history_id>", "1", one.rule)), one.method)
        for one in routes
        if one.method != "GET"
    ]
    assert len(spelt) > 15
    return spelt


def test_a_token_is_made_and_said_once_and_is_in_no_command_line(laden: Laden) -> None:
    with served(laden.root.parent, laden.url, "--host", "0.0.0.0") as running:
        [token] = re.findall(r"Log in with the token (\S{43})\n", running.said)
        assert ask(running, Authorization=f"Bearer {token}")[0] == 200
        assert ask(running, f"/{token}?{token}", Authorization=f"Bearer {token}")[0] == 404
        for file in ("cmdline", "comm", "environ"):
            assert token.encode() not in Path(f"/proc/{running.process.pid}/{file}").read_bytes()
        assert running.said.count(token) == 1
    assert token not in "".join(laden.rows())


def test_the_databases_password_is_said_nowhere_even_when_the_database_is_gone(
    tmp_path: Path, postgres_server: str, postgres_url: str
) -> None:
    url = make_url(postgres_url).set(password=PASSWORD)
    close(connect(url.render_as_string(hide_password=False)))
    with served(tmp_path, url.render_as_string(hide_password=False)) as running:
        assert ask(running)[0] == 200
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.database} WITH (FORCE)".encode())
        status, _, content = ask(running, "/api/studies/1")
        assert (status, json.loads(content)["reason"]) == (503, "The database does not answer.")
        assert "Traceback" not in running.said
        _, _, content = ask(running)  # optuna-dashboard asks the database by itself
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {url.database}".encode())
        said = (content, running.log.read_bytes(), Path(f"/proc/{running.process.pid}/cmdline").read_bytes())
        assert not any(PASSWORD.encode() in text for text in said)
        assert b"Showing postgresql+psycopg://postgres:***@" in said[1]


def test_artifacts_are_files_and_no_pages_of_ours_and_no_link_leads_out(laden: Laden) -> None:
    page, link = f"/artifacts/1/{laden.finished}/{laden.page}", f"/artifacts/1/{laden.finished}/{laden.link}"
    _, headers, _ = plain(laden, page)
    assert headers["content-type"] == "text/html"
    assert headers["access-control-allow-origin"] == "*"
    assert not headers.keys() & {"content-disposition", "content-security-policy", "x-content-type-options"}
    assert plain(laden, link)[2] == CANARY.encode()
    with served(laden.root.parent, laden.url) as running:
        status, headers, content = ask(running, page)
        assert (status, headers["content-disposition"], headers["x-content-type-options"]) == (
            200,
            "attachment",
            "nosniff",
        )
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert "access-control-allow-origin" not in headers
        assert content == (laden.root / laden.page).read_bytes()
        assert ask(running, link)[0] == 404
        for path in ("..%2fcanary", "../canary", "%2e%2e/canary", str(laden.root.parent / "canary"), "1/../../canary"):
            assert ask(running, f"/artifacts/1/{path}")[0] == 404
            assert ask(running, f"/static/{path}")[0] == 404
        assert "Traceback" not in running.said


def test_a_cell_of_the_csv_is_no_formula_and_a_number_stays_one(laden: Laden) -> None:
    assert f',"{FORMULA}"'.replace('"http', '""http').encode()[:12] in plain(laden, "/csv/1")[2]
    with served(laden.root.parent, laden.url) as running:
        rows = list(csv.DictReader(io.StringIO(ask(running, "/csv/1")[2].decode())))
    assert rows[0]["UserAttribute comment"] == f"'{FORMULA}"
    assert (float(rows[0]["Value"]), float(rows[0]["Param x"]) < 0) == (-0.5, True)


def test_on_loopback_notes_attributes_and_artifacts_can_be_changed(laden: Laden) -> None:
    upload = {"file": "data:text/plain;base64,aGVsbG8=", "filename": "hello.txt"}
    with served(laden.root.parent, laden.url) as running:

        def change(method: str, path: str, body: object) -> tuple[int, bytes]:
            status, _, content = ask(running, path, method=method, body=json.dumps(body).encode())
            return status, content

        assert change("PUT", f"/api/studies/1/{laden.finished}/note", {"version": 1, "body": "mine"})[0] == 204
        assert change("POST", f"/api/trials/{laden.running}/user-attrs", {"user_attrs": {"k": [1]}})[0] == 204
        status, content = change("POST", f"/api/artifacts/1/{laden.running}", upload)
        assert status == 201
        artifact = json.loads(content)["artifact_id"]
        assert ask(running, f"/artifacts/1/{laden.running}/{artifact}")[2] == b"hello"
        assert change("POST", f"/api/trials/{laden.finished}/user-attrs", {"user_attrs": {"k": 1}})[0] == 409
        assert change("DELETE", f"/api/artifacts/1/{laden.finished}/{laden.page}", None)[0] == 409
        assert (laden.root / laden.page).exists()
        assert change("DELETE", "/api/studies/1", None)[0] == 403
        wrong: object
        for wrong in ({}, [], 1, {"version": "1", "body": ""}, {"version": 10**30, "body": ""}):
            assert change("PUT", "/api/studies/1/note", wrong)[0] == 400
        assert change("PUT", "/api/studies/1/note", "x" * 2**24)[0] == 413
        assert change("PUT", "/api/studies/77/note", {"version": 1, "body": ""})[0] == 404
        assert "Traceback" not in running.said


def test_what_makes_optuna_dashboard_fail_is_a_small_answer_here(
    laden: Laden, caplog: pytest.LogCaptureFixture
) -> None:
    queries = {"/api/studies/1?after=x": 400, "/api/studies/77/plot/edf": 404, f"/csv/{10**30}": 404}
    assert [plain(laden, path)[0] for path in queries] == [500, 500, 500]
    assert "Exception" in caplog.text
    assert plain(laden, "/api/studies/1/note", method="PUT", body=b"[]")[0] == 500
    with served(laden.root.parent, laden.url) as running:
        assert {path: ask(running, path)[0] for path in queries} == queries
        assert ask(running, "/api/studies/1/note", method="PUT", body=b"[]")[0] == 400
        assert "Exception" not in running.said


def test_connections_that_send_nothing_or_never_end_are_closed(laden: Laden) -> None:
    patient = "import search.server, search.gate; search.server._HEAD_SECONDS = search.gate._BODY_SECONDS = 0.5"
    words = ("--host", "0.0.0.0")
    with served(laden.root.parent, laden.url, *words, token=TOKEN, before=patient) as running:
        for begun in (
            b"",
            b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
            b"POST /log-in HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nt",
        ):
            with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
                connection.sendall(begun)
                received = b"".join(iter(lambda: connection.recv(4096), b""))
                assert received == b"" or received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_each_reading_route_of_optuna_dashboard_is_known_and_no_other() -> None:
    readable = {one.rule for one in wsgi(optuna.storages.InMemoryStorage()).routes if one.method == "GET"}
    for path in ("/", "/incompatible-rdb-schema"):  # answered by the gate; nothing to migrate where `connect` passed
        readable.remove(path)
    spelt = [
        re.sub(r"<plot_type>", "edf", re.sub(r"<(filename:path|[a-z_]+:int|artifact_id:[^>]+)>", "1", rule))
        for rule in readable
    ]
    spelt = ["/dashboard" if path.startswith("/dashboard") else path for path in spelt]
    assert len(spelt) == 11
    for path in spelt:
        assert find("GET", path, b"", writable=False).body is None
    for path in ("/api", "/api/studies/-1", "/api/llm/x", "/api/studies/1/plot/x", "/static/a/../../x"):
        with pytest.raises(BadRequest, match="no such page"):
            find("GET", path, b"", writable=True)


def test_guessing_gets_slower_and_locks_nobody_out_who_was_in() -> None:
    now = [0.0]
    tries = Tries(lambda: now[0])
    for _ in range(FREE):
        assert tries.wait("10.0.0.1") == 0
        tries.wrong("10.0.0.1")
    waits = []
    for _ in range(10):
        waits.append(tries.wait("10.0.0.1"))
        now[0] += waits[-1]
        tries.wrong("10.0.0.1")
    assert waits == [1, 2, 4, 8, 16, 32, *[LONGEST] * 4]
    assert tries.wait("10.0.0.2") == 0
    tries.right("10.0.0.1")
    assert tries.wait("10.0.0.1") == 0

    for number in range(50_000):
        tries.wrong(f"2001:db8:{number:x}::1")
    assert len(tries._wrong) <= 10_000
    assert 0 < tries.wait("10.0.0.9") <= 60
    assert tries.wait("10.0.0.1") == 0
    now[0] += 61
    assert tries.wait("10.0.0.9") == 0
    assert TOGETHER < 50_000


def test_in_ipv6_a_client_is_its_network() -> None:
    tries = Tries(lambda: 0.0)
    for number in range(FREE):
        tries.wrong(f"2001:db8::{number:x}")
    assert tries.wait("2001:db8::ffff") > 0
    assert tries.wait("2001:db8:0:1::1") == 0
    for _ in range(FREE):
        tries.wrong("::ffff:10.0.0.1")
    assert tries.wait("10.0.0.1") > 0


def test_a_session_ends_and_there_are_never_very_many() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.open()
    assert sessions.holds(first)
    assert not sessions.holds("")
    now[0] = SESSION_SECONDS + 1
    assert not sessions.holds(first)
    many = [sessions.open() for _ in range(200)]
    assert [sessions.holds(one) for one in (many[0], many[-1])] == [False, True]


def test_a_certificate_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    authority = trustme.CA()
    for name in ("a", "b"):
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    (tmp_path / "text").write_text("no certificate")
    assert isinstance(tls(tmp_path / "a.pem", tmp_path / "a.key"), ssl.SSLContext)
    with pytest.raises(BadCertificate, match=r"b\.key: the key is not that of .*a\.pem"):
        tls(tmp_path / "a.pem", tmp_path / "b.key")
    with pytest.raises(BadCertificate, match="No such file or directory"):
        tls(tmp_path / "none.pem", None)
    with pytest.raises(BadCertificate, match="no certificate and key in PEM"):
        tls(tmp_path / "text", None)
    locked = tmp_path / "locked.key"
    words = ["pkey", "-in", tmp_path / "a.key", "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    with pytest.raises(BadCertificate, match="the key is encrypted"):
        tls(tmp_path / "a.pem", locked)


@pytest.mark.parametrize(
    ("words", "token", "sentence"),
    [
        (("--key", "k.pem"), "", "--key: name the certificate as well"),
        (("--certificate", "none.pem"), "", "none.pem, none.pem: No such file or directory."),
        (("--host", "203.0.113.1"), "", "--host 203.0.113.1 --port 8080: "),
        ((), "short", "MLC_DASHBOARD_TOKEN is shorter than 12 characters."),
    ],
)
def test_a_dashboard_that_cannot_be_served_so_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], token: str, sentence: str
) -> None:
    monkeypatch.setenv("MLC_DASHBOARD_TOKEN", token)
    done = small.call("dashboard", *words, folder=tmp_path, storage=f"sqlite:///{tmp_path}/search.db", code=2)
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert token not in done.stderr or token in ("", "short")
