"""optuna-dashboard, served to this machine alone unless told otherwise, and then only to who has the token.

optuna-dashboard itself asks nobody who they are and lets every request change the study. Here a request must
name the host that we serve (against DNS rebinding) and, beyond loopback, bring the token.
"""

from __future__ import annotations

import hmac
import ipaddress
from base64 import b64decode
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage, get_storage
from optuna_dashboard import wsgi

VARIABLE: Final = "MLC_DASHBOARD_TOKEN"
Environ = dict[str, Any]  # PEP 3333
Start = Callable[..., Any]
App = Callable[[Environ, Start], Iterable[bytes]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def dashboard_app(storage: RDBStorage, root: Path, *, token: str | None) -> App:
    """Build the WSGI application.

    Parameters
    ----------
    storage : RDBStorage
        From `search.storage.connect`.
    root : Path
        The artifact folder.
    token : str, optional
        What a request must bring as the password of HTTP basic authentication (RFC 7617; any user name). Without
        one, a request is answered if it names a loopback host.
    """
    inner: App = wsgi(get_storage(storage), artifact_store=FileSystemArtifactStore(root))

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        if token is None and not is_loopback(_host(environ)):
            return _refuse(start, "403 Forbidden", "Only requests to localhost are answered.")
        if token is not None and not hmac.compare_digest(_password(environ), token.encode()):
            challenge = [("WWW-Authenticate", 'Basic realm="mlc-search", charset="UTF-8"')]
            return _refuse(start, "401 Unauthorized", "Give the token as password, with any user name.", challenge)
        return inner(environ, start)

    return app


def serve(app: App, *, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises
    ------
    OSError
        The port is taken, or the host is not this machine's.
    """
    import waitress

    waitress.serve(app, host=host, port=port, threads=4, ident=None, _quiet=True)


def _host(environ: Environ) -> str:
    named = str(environ.get("HTTP_HOST", ""))
    return named.partition("]")[0].removeprefix("[") if named.startswith("[") else named.rpartition(":")[0] or named


def _password(environ: Environ) -> bytes:
    scheme, _, encoded = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return b64decode(encoded, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _refuse(start: Start, status: str, said: str, headers: Iterable[tuple[str, str]] = ()) -> list[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [said.encode() + b"\n"]
