"""Who may pass to the dashboard: a request must name the right host, come from our own page, and bring the token.

An ASGI application around another, which sees only requests that passed, whole and within limits; everybody else gets
the log-in page or a sentence. Not here: what can be asked for (routes.py); the other application (dashboard.py).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import math
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from search.routes import LARGEST_BODY, BadRequest, Route, decode, find, is_reading
from search.sessions import SESSION_SECONDS, Sessions, Tries

Scope = MutableMapping[str, Any]  # ASGI 3
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Inner = Callable[[Route, Scope, Receive, Send], Awaitable[None]]

LOG_IN: Final = "/log-in"
_FORM_BYTES: Final = 4096
_BODY_SECONDS: Final = 30.0  # for all of a body, or a slow sender would keep its connection for ever
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_HEADERS: Final = {  # of every answer that has no other
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer a browser would not say whose form it sends
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": _NOTHING,
    "cache-control": "no-store",
}
_NEVER: Final = ("access-control-allow-origin", "date", "server")  # the date comes from the server of HTTP
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mlc-search: log in</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }
body { max-width: 24rem; margin: 15vh auto; padding: 0 1rem }
label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit }
input, button { padding: .5rem; margin: .25rem 0 1rem }
[role=alert] { color: #a40000 }
</style>
<h1>mlc-search</h1>
<form method="post" action="/log-in">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button>
</form>
<p role="alert">SAID</p>
<p>The token is what MLC_DASHBOARD_TOKEN held when the dashboard was started, else what it printed then.</p>
</html>
"""
_PAGE_POLICY: Final = f"{_NOTHING}; style-src 'unsafe-inline'"


class _Answer(Exception):
    """What is said instead of what was asked for; raised to say it at once, from however deep."""

    def __init__(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class Gate:
    """The ASGI application.

    Parameters
    ----------
    inner : callable
        Takes what passed: the route, then ASGI's scope, receive and send.
    token : str, optional
        What a client must bring: in the log-in form, as the password of HTTP basic authentication with any user name
        (RFC 7617), or as a bearer token (RFC 6750). Without one, a request passes if it names a loopback host.
    writable : bool
        Whether requests may change anything.
    secure : bool
        Whether TLS is spoken.
    """

    def __init__(self, inner: Inner, *, token: str | None, writable: bool, secure: bool) -> None:
        self._inner, self._token, self._writable, self._secure = inner, token, writable, secure
        self._sessions, self._tries = Sessions(), Tries()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        outward = _with_headers(send)
        try:
            await self._pass(scope, receive, outward)
        except BadRequest as refused:
            await _answer(outward, _refusal(scope["path"], refused))
        except _Answer as answer:
            await _answer(outward, answer)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path, host = scope["method"], scope["path"], _header(scope, "host")
        if (named := _HOST.fullmatch(host)) is None:
            raise BadRequest(400, "The header Host names no host.")
        if self._token is None and not is_loopback(named["name"].strip("[]")):
            raise BadRequest(403, "Only requests to localhost are answered.")
        if not is_reading(method) and not self._is_ours(scope, host):
            raise BadRequest(403, "Only the dashboard's own pages may send this.")
        if self._token is not None:
            if (method, path) == ("POST", LOG_IN):
                raise await self._log_in(scope, receive, self._token)
            self._authenticate(scope, self._token)
        if path in ("", "/", LOG_IN):
            raise _Answer(303, b"", ("location", "/dashboard"))
        route = find(method, path, scope["query_string"], writable=self._writable)
        body = b"" if is_reading(method) else decode(route, await _whole(receive, LARGEST_BODY))
        await self._inner(route, _plain(scope, route, host, body), _replay(body, receive), send)

    def _is_ours(self, scope: Scope, host: str) -> bool:
        """Whether no other site's page made the browser send it; what is no browser says neither header."""
        origin, site = _header(scope, "origin"), _header(scope, "sec-fetch-site")
        if site not in ("", "same-origin", "none"):
            return False
        try:
            parsed = urlsplit(origin)
        except ValueError:
            return False
        schemes = ("https",) if self._secure else ("http", "https")  # a proxy may speak TLS for us
        return origin == "" or (parsed.scheme in schemes and parsed.netloc.lower() == host.lower())

    def _authenticate(self, scope: Scope, token: str) -> None:
        if self._sessions.holds(_cookies(scope).get(self._cookie(scope), "")):
            return
        brought = _credentials(_header(scope, "authorization"))
        if brought is None:
            raise _page(401, "")
        self._check(scope, brought, token)

    def _check(self, scope: Scope, brought: bytes, token: str) -> None:
        client = str((scope.get("client") or ("",))[0])
        if wait := math.ceil(self._tries.wait(client)):
            raise _page(429, f"Too many wrong tokens: wait {wait} s.", ("retry-after", str(wait)))
        if not hmac.compare_digest(brought, token.encode()):
            self._tries.wrong(client)
            raise _page(401, "That is not the token.")
        self._tries.right(client)

    async def _log_in(self, scope: Scope, receive: Receive, token: str) -> _Answer:
        try:
            form = parse_qs((await _whole(receive, _FORM_BYTES)).decode(errors="replace"), max_num_fields=4)
        except ValueError:
            form = {}
        self._check(scope, form.get("token", [""])[0].encode(errors="replace"), token)
        attributes = f"Max-Age={SESSION_SECONDS}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if self._secure else ''}"
        cookie = f"{self._cookie(scope)}={self._sessions.open()}; {attributes}"
        return _Answer(303, b"", ("location", "/dashboard"), ("set-cookie", cookie))

    def _cookie(self, scope: Scope) -> str:
        # Browsers keep cookies by host, not by port: two dashboards on one host must not log each other out.
        port = (scope.get("server") or ("", ""))[1]
        return f"{'__Host-' if self._secure else ''}mlc-session-{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _header(scope: Scope, name: str) -> str:
    """Read a header; one that came twice reads as none of its values."""
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name.encode())


def _cookies(scope: Scope) -> dict[str, str]:
    pairs = (pair.strip().partition("=") for pair in _header(scope, "cookie").split(";"))
    return {name: value for name, _, value in pairs}


def _credentials(header: str) -> bytes | None:
    """Read the token from Authorization; None: none was brought."""
    scheme, _, brought = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return brought.strip().encode(errors="replace")
        case "basic":
            try:
                return b64decode(brought, validate=True).partition(b":")[2]
            except ValueError:
                return b""
    return None


async def _whole(receive: Receive, limit: int) -> bytes:
    """Read a body to its end."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise BadRequest(400, "The body broke off.")
                body += message.get("body", b"")
                if len(body) > limit:
                    raise BadRequest(413, f"The body is larger than {limit} bytes.")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise BadRequest(408, f"The body took longer than {_BODY_SECONDS:g} s.") from None


def _plain(scope: Scope, route: Route, host: str, body: bytes) -> Scope:
    """Keep of a request what its route reads."""
    kept = ("accept-encoding", "if-modified-since")  # the application takes the first for granted
    headers = [(name.encode(), _header(scope, name).encode("latin-1")) for name in kept]
    headers += [(b"host", host.encode()), (b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(body)).encode()))
    return {**scope, "headers": headers, "query_string": route.query}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Let a body that was read be read again."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [(key.lower(), value) for key, value in message["headers"] if key.decode().lower() not in _NEVER]
            names = {key.decode() for key, _ in given}
            added = [(key.encode(), value.encode()) for key, value in _HEADERS.items() if key not in names]
            message = {**message, "headers": given + added}
        await send(message)

    return guarded


def _page(status: int, said: str, *headers: tuple[str, str]) -> _Answer:
    # Not "Basic": a browser would ask with a window of its own, and keep what it is told.
    challenge = ("www-authenticate", 'Bearer realm="mlc-search"')
    kind = ("content-type", "text/html; charset=utf-8")
    body = _PAGE.replace("SAID", escape(said)).encode()
    return _Answer(status, body, kind, ("content-security-policy", _PAGE_POLICY), challenge, *headers)


def _refusal(path: str, refused: BadRequest) -> _Answer:
    """Say it as the reader takes it: the pages of optuna-dashboard show a reason in JSON."""
    if path.startswith("/api/"):
        said, kind = json.dumps({"reason": str(refused)}), "application/json"
    else:
        said, kind = f"{refused}\n", "text/plain; charset=utf-8"
    return _Answer(refused.status, said.encode(), ("content-type", kind))


async def _answer(send: Send, answer: _Answer) -> None:
    # The connection ends with it: what may follow of the request's body is not read.
    own = (("content-length", str(len(answer.body))), ("connection", "close"))
    headers = [(key.encode(), value.encode()) for key, value in (*answer.headers, *own)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
