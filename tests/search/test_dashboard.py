"""The dashboard in a real browser, and whom it answers."""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from search.dashboard import is_loopback
from tests import small

TOKEN = "a-token-of-this-test"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a study of three complete trials."""
    folder = tmp_path_factory.mktemp("searched")
    storage = f"sqlite:///{folder}/search.db"
    file = small.declare(folder, epochs=2, pruner="none")
    small.call("run", "--study", file, "--trials", 3, "--workers", 2, folder=folder, storage=storage)
    return folder, storage


@contextmanager
def served(searched: tuple[Path, str], *words: str, token: str | None = None) -> Iterator[int]:
    folder, storage = searched
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    environment = {**os.environ, "MLC_STORAGE": storage}
    environment.pop("MLC_DASHBOARD_TOKEN", None)
    if token:
        environment["MLC_DASHBOARD_TOKEN"] = token
    server = subprocess.Popen(small.command("dashboard", "--port", port, *words), cwd=folder, env=environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def answer(port: int, path: str = "/api/studies", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium in CI")
        pytest.skip("no Chromium: apt-get install chromium")
    return found


def test_the_browser_shows_the_trials_the_best_value_and_its_weights(searched: tuple[Path, str]) -> None:
    rows = small.rows(*searched)
    best = min(rows, key=lambda row: float(str(row["value"])))
    with served(searched) as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"http://localhost:{port}/dashboard/")
        page.get_by_text("small").first.click()
        page.get_by_text("Best Trial", exact=False).first.wait_for()
        page.get_by_text(str(best["value"])[:8], exact=False).first.wait_for()
        page.goto(f"http://localhost:{port}/dashboard/studies/1/trials")
        for row in rows:
            page.get_by_text(f"Trial {row['number']}", exact=False).first.wait_for()
        page.goto(f"http://localhost:{port}/dashboard/studies/1/trials?numbers={best['number']}")
        page.get_by_text("best.safetensors").first.wait_for()
        browser.close()


def test_only_requests_that_name_this_machine_are_answered(searched: tuple[Path, str]) -> None:
    with served(searched) as port:
        assert answer(port)[0] == 200
        for host in ("localhost", "127.0.0.1:1", "[::1]:8080"):
            assert answer(port, Host=host)[0] == 200
        for host in ("evil.example", "localhost.evil.example:80", "10.0.0.1"):
            assert answer(port, Host=host) == (403, b"Only requests to localhost are answered.\n")


def test_beyond_loopback_every_request_needs_the_token(searched: tuple[Path, str]) -> None:
    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    with served(searched, "--host", "0.0.0.0", token=TOKEN) as port:
        for path in ("/", "/dashboard/", "/api/studies", "/artifacts/1/0/x"):
            assert answer(port, path)[0] == 401
        for wrong in ("Basic", "Basic ???", "Bearer " + TOKEN, basic("me:"), basic(TOKEN), basic(f"me:{TOKEN}x")):
            assert answer(port, Authorization=wrong)[0] == 401
        status, content = answer(port, Authorization=basic(f"me:{TOKEN}"), Host="cluster.example")
    assert status == 200
    assert b'"small"' in content


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
