"""Fifteen hundred hostile requests, as bytes over real sockets, to a dashboard that is open to the network."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import pytest

from tests.search.test_dashboard import CANARY, TOKEN, Laden, Served, ask, laden, served

__all__ = ["laden"]  # the fixture

SEED: Final = 7
REQUESTS: Final = 1500
REFUSED: Final = {400, 401, 403, 408, 413, 429}
SECRETS: Final = (CANARY.encode(), b"root:x:0:0", b"SQLite format 3", b"Traceback")

_STATUS: Final = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)
_IDS: Final = ("1", "2", "0", "-1", "77", "9" * 30, "1e3", "٣", "%31", "1%00", "1;2", "null", "")
_ROUTES: Final = (
    "/dashboard/{}", "/static/{}", "/api/studies/{}", "/api/studies/{}/param_importances", "/api/studies/{}/plot/slice",
    "/api/studies/1/plot/{}", "/api/studies/{}/1/note", "/api/studies/{}/note", "/api/trials/{}/user-attrs",
    "/api/trials/{}/tell", "/api/studies/{}/rename", "/api/studies/{}/1/skip", "/api/studies/1/preference/{}",
    "/csv/{}", "/artifacts/1/{}", "/artifacts/{}/1/00", "/artifacts/1/1/{}", "/api/artifacts/1/{}",
    "/api/artifacts/1/1/{}", "/api/llm/{}", "/incompatible-rdb-schema{}", "/{}", "/log-in{}",
)  # fmt: skip
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 50)
_VALUES: Final[tuple[object, ...]] = (
    None, True, -1, 10**40, 1.5, "", "x", "\x00", "\ud800", "../" * 9, [], {}, [[]], {"a": {"b": []}}, "data:,", "=1+1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and whether it brings what lets it in."""

    raw: bytes
    known: bool


def requests(rng: random.Random, cookie: str, laden: Laden) -> Iterator[Request]:
    """Draw requests without end."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: _line(rng),
        lambda: _head(rng),
        lambda: _smuggled(rng),
        lambda: _noise(rng),
    )
    while True:
        known = rng.random() < 0.5
        access = f"Cookie: {cookie}\r\n" if known else _forged(rng, cookie)
        if rng.random() < 0.3:
            yield Request(rng.choice(kinds)(), known=False)
        elif rng.random() < 0.3:
            yield Request(_almost(rng, access, laden), known)
        elif rng.random() < 0.6:
            yield Request(_request(rng, _path(rng, laden.root.parent), access), known)
        else:
            yield Request(_change(rng, access), known)


def _almost(rng: random.Random, access: str, laden: Laden) -> bytes:
    """Draw a request that reaches as far as one can: the right routes and keys, hostile values."""
    if rng.random() < 0.5:
        plots = [f"/api/studies/1/plot/{plot}" for plot in ("contour", "edf", "slice", "timeline", "pareto_front")]
        files = [f"/artifacts/1/{laden.finished}/{one}" for one in (laden.page, laden.link, laden.page.upper())]
        pages = ["/", "/dashboard/a/../..", "/favicon.ico", "/api/meta", "/api/studies/1", "/csv/1", "/csv/1/"]
        return _request(rng, rng.choice((*plots, *files, *pages)), access, method=rng.choice(("GET", "HEAD")))

    def value() -> object:
        return rng.choice((*_VALUES, 1, 2, "mine"))

    name = rng.choice(
        ("../../canary", "/etc/passwd", "a\x00.html", "x" * 300, "canary", "..", "a.html", "a.svg\r\nX: y")
    )
    data = rng.choice(
        (
            "data:text/html;base64,PGI+",
            "data:,PGI+",
            "data:,a",
            "data:x,====",
            "file:///etc/passwd",
            f"data:,{'A' * 4000}",
        )
    )
    method, path, body = rng.choice(
        (
            ("PUT", "/api/studies/1/note", {"version": value(), "body": value()}),
            ("PUT", f"/api/studies/1/{laden.finished}/note", {"version": value(), "body": value()}),
            ("POST", f"/api/trials/{laden.running}/user-attrs", {"user_attrs": {name: value()}}),
            ("POST", f"/api/trials/{laden.finished}/user-attrs", {"user_attrs": {name: value()}}),
            ("POST", f"/api/artifacts/1/{laden.running}", {"file": data, "filename": name}),
            ("POST", "/api/artifacts/1", {"file": data, "filename": name}),
            ("DELETE", f"/api/artifacts/1/{laden.running}/{laden.link}", value()),
            ("DELETE", "/api/studies/1", {"remove_associated_artifacts": True}),
        )
    )
    return _request(rng, path, access, json.dumps(body).encode(), method)


def _path(rng: random.Random, outside: Path) -> str:
    up = rng.choice(("../", "..%2f", "%2e%2e/", "..%5c", "..\\", "....//", "%252e%252e%252f", "..%c0%af", "%00/"))
    targets = (up * rng.randint(1, 9) + rng.choice(("canary", "search.db", "etc/passwd")), str(outside / "canary"))
    return rng.choice(_ROUTES).format(rng.choice((*targets, *_IDS, *_IDS)))


def _forged(rng: random.Random, cookie: str) -> str:
    name, _, value = cookie.partition("=")
    bad = (f"{value}x", value[:-1], value.swapcase(), "", "..", "\x7f", "1" * 5000, "'; DROP TABLE studies; --")
    return rng.choice(
        (
            "",
            f"Cookie: {name}={rng.choice(bad)}\r\n",
            f"Cookie: {rng.choice(bad)}={value}\r\n",
            f"Authorization: {rng.choice(('Basic', 'Bearer', 'Digest', ''))} {rng.choice(bad)}\r\n",
            f"X-Forwarded-For: 127.0.0.1\r\nX-Original-URL: /api/studies\r\nX-Token: {TOKEN}\r\n",
        )
    )


def _request(rng: random.Random, path: str, access: str, body: bytes = b"", method: str = "") -> bytes:
    query = rng.choice(("", "", "?after=x", "?after=-1", "?after=1&after=2", "?trial_ids=1,x", "?%00=%ff", "?a" * 50))
    odd = rng.choice(("", "", "", "Range: bytes=9-1\r\n", "Accept-Encoding: gzip;q=\r\n", "If-Modified-Since: x\r\n"))
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    kind = rng.choice(
        ("application/json", "multipart/form-data", "text/plain; charset=x", "application/json; charset=")
    )
    head = (
        f"{method or rng.choice((*_METHODS, 'GET', 'GET', 'GET'))} {path}{query} HTTP/1.1\r\nHost: cluster.example\r\n"
        f"Connection: close\r\nContent-Type: {kind}\r\n{odd}{access}{length}\r\n"
    )
    return head.encode() + body


def _change(rng: random.Random, access: str) -> bytes:
    keys = (
        "version",
        "body",
        "user_attrs",
        "file",
        "filename",
        "study_name",
        "directions",
        "state",
        "values",
        "x" * 600,
    )
    body: object = {rng.choice(keys): rng.choice(_VALUES) for _ in range(rng.randint(0, 4))}
    if rng.random() < 0.3:
        body = rng.choice(_VALUES)
    raw = json.dumps(body).encode()
    if rng.random() < 0.3:
        raw = rng.choice((b"[" * 100_000, b"{", b"\xff\xfe", b'{"a":NaN}', raw[:-1], b"token=" + raw, b"a=1&" * 900))
    method = rng.choice(("POST", "PUT", "DELETE"))
    return _request(rng, rng.choice(_ROUTES).format(rng.choice(("1", "2"))), access, raw, method)


def _line(rng: random.Random) -> bytes:
    lines = (
        b"GET", b"GET /", b"GET / HTTP/9.9", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 x", b" / HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET http://evil.example/api/studies HTTP/1.1", b"GET //evil.example/dashboard HTTP/1.1", b"GET * HTTP/1.1",
        b"CONNECT localhost:22 HTTP/1.1", b"PRI * HTTP/2.0", b"GET /\xff\xfe HTTP/1.1", b"GET /%zz%f HTTP/1.1",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1", b"G\nET / HTTP/1.1", b"GET api/studies HTTP/1.1", b"GET ?x HTTP/1.1",
    )  # fmt: skip
    return rng.choice(lines) + rng.choice((b"\r\n", b"\n", b"\r")) + b"Host: x\r\nConnection: close\r\n\r\n"


def _head(rng: random.Random) -> bytes:
    heads = (
        b"", b"Host: a\r\nHost: b\r\n", b"Host: \r\n", b"Host: a/b\r\n", b"Host: [::1\r\n", b"Host: a:b\r\n",
        b"Host : x\r\n", b"Host: x\r\nX: " + b"y" * 100_000 + b"\r\n", b"Host: x\r\n" + b"X: y\r\n" * 5_000,
        b"Host: x\r\nX\r\n",
        b"Host: x\r\n: y\r\n", b"Host: x\r\nX: \x00\r\n", b"Host: x\r\n folded\r\n",
        b"Host: x\r\nCookie: \xff\xfe=\x80\r\n",
        b"Host: x\r\nOrigin: http://[\r\n", b"Host: x\r\nAuthorization: Basic \xff\xff\r\n",
        b"Host: x\r\nExpect: 1\r\n",
        b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n",
        b"Host: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAAA\r\n",
    )  # fmt: skip
    return rng.choice((b"GET", b"POST", b"PUT")) + b" /api/studies HTTP/1.1\r\n" + rng.choice(heads) + b"\r\n"


def _smuggled(rng: random.Random) -> bytes:
    hidden = b"GET /api/studies HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    framing = (
        b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 5, 6\r\n", b"Content-Length: -1\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
        b"Content-Length: 99999999999999999999\r\n", b"Content-Length: 0x5\r\n", b"Transfer-Encoding: chunked\r\n", b"",
    )  # fmt: skip
    chunks = (
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"zz\r\n",
        b"-1\r\n",
        b"fffffffffffffffff\r\n",
        b"5;a=b\r\nhi",
        b"0\r\nX\r\n",
    )
    target = rng.choice((b"/log-in", b"/", b"/api/studies", b"/api/artifacts/1"))
    head = b"POST " + target + b" HTTP/1.1\r\nHost: x\r\n" + rng.choice(framing) + b"\r\n"
    return head + rng.choice(chunks) + hidden * rng.randint(0, 3)


def _noise(rng: random.Random) -> bytes:
    hello = bytes.fromhex("16030100a5010000a10303") + rng.randbytes(160)
    return rng.choice(
        (hello, rng.randbytes(rng.randint(1, 2000)), b"\x00" * 100, b"\r\n" * 100, b"\n", b"SSH-2.0-x\r\n")
    )


def _answer(port: int, raw: bytes) -> bytes:
    """Send bytes; returns all that comes until the server closes, or is silent for a second."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(raw)
            connection.settimeout(1)
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionError, TimeoutError):
            pass
    return received


def _files(folder: Path, root: Path) -> dict[Path, bytes]:
    """All that no request may change: outside the artifact folder, but for the database and the dashboard's log."""
    ours = ("dashboard-", "search.db")
    found = [one for one in folder.rglob("*") if one.is_file() and root not in one.parents]
    return {one: one.read_bytes() for one in found if not one.name.startswith(ours)}


@pytest.fixture(scope="module")
def running(laden: Laden) -> Iterator[Served]:
    words = ("--host", "0.0.0.0", "--write")
    with served(laden.root.parent, laden.url, *words, token=TOKEN) as running:
        yield running


def test_no_hostile_request_gets_in_or_an_error_out(laden: Laden, running: Served) -> None:
    folder = laden.root.parent
    before = _files(folder, laden.root)
    _, headers, _ = ask(running, "/log-in", method="POST", body=f"token={TOKEN}".encode())
    cookie = headers["set-cookie"].partition(";")[0]
    sent = list(islice(requests(random.Random(SEED), cookie, laden), REQUESTS))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: _answer(running.port, one.raw), sent))

    wrong: list[tuple[bytes, bytes]] = []
    seen: dict[int, int] = {}
    for request, answer in zip(sent, answers, strict=True):
        statuses = [int(status) for status in _STATUS.findall(answer)]
        seen |= {status: seen.get(status, 0) + 1 for status in statuses}
        leaked = any(secret in answer for secret in SECRETS) or (not request.known and b"laden" in answer)
        if leaked or any(status >= 500 or (not request.known and status not in REFUSED) for status in statuses):
            wrong.append((request.raw[:300], answer[:600]))
    assert wrong == []
    assert {200, 201, 204, 400, 401, 403, 404, 405, 409, 429} <= seen.keys()  # all kinds were met; some got through
    assert sum(seen.values()) > 0.9 * REQUESTS

    assert _files(folder, laden.root) == before
    assert running.process.poll() is None
    status, _, content = ask(running, Cookie=cookie)
    assert (status, b'"laden"' in content) == (200, True)
    assert "Traceback" not in running.said
    assert "Exception" not in running.said
    assert TOKEN not in running.said
    assert "".join(laden.rows()).count("CREATE TABLE") > 10
