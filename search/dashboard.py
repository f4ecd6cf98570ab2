"""optuna-dashboard behind the gate: artifacts that cannot run, cells that do not compute, ids that are there.

Not here: who may ask (gate.py); what can be asked for (routes.py); the sockets (server.py).
"""

from __future__ import annotations

import asyncio
import csv
import io
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from a2wsgi import WSGIMiddleware
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, get_storage
from optuna_dashboard import wsgi
from sqlalchemy.exc import DBAPIError

from search.artifacts import artifact_store
from search.bucket import BucketUnusable
from search.errors import StorageDown
from search.gate import Gate, Message, Receive, Scope, Send
from search.routes import BadRequest, Route

_PICTURES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")  # a browser shows them and runs nothing
_MIME: Final = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}", re.ASCII)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")  # how a cell begins that spreadsheets compute, after OWASP

Environ = dict[str, Any]  # PEP 3333
Start = Callable[..., Any]
Wsgi = Callable[[Environ, Start], Iterable[bytes]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


def dashboard_app(storage: RDBStorage, root: Path, *, token: str | None, writable: bool, secure: bool = False) -> Gate:
    """Build the ASGI application.

    Parameters
    ----------
    storage : RDBStorage
        From `search.storage.connect`.
    root : Path
        The artifact folder.
    token, writable, secure
        As `Gate` takes them.
    """
    store = artifact_store(root)
    if isinstance(store, FileSystemArtifactStore):
        store = _Folder(root)
    app = wsgi(get_storage(storage), artifact_store=store)
    app.catchall = False  # it would make a page of every exception, before we see which
    # Their types are narrower than ours: what ASGI and WSGI allow, not what is used of them.
    served = cast("Asgi", WSGIMiddleware(cast("Any", _neutral(app)), workers=4))

    async def inner(route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(_look, storage, route)
        try:
            await served(scope, receive, _sealed(send) if route.area == "artifacts" else send)
        except ArtifactNotFound:
            raise BadRequest(404, "The artifact is not there.") from None
        except BucketUnusable:
            raise BadRequest(503, "The artifacts' bucket cannot be used now.") from None

    return Gate(inner, token=token, writable=writable, secure=secure)


class _Folder(FileSystemArtifactStore):
    """The artifact folder, out of which no link leads."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open one that is a plain file."""
        try:
            descriptor = os.open(self._get_filepath(artifact_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise ArtifactNotFound(str(error.strerror)) from None
        opened = os.fdopen(descriptor, "rb") if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        if opened is None:
            os.close(descriptor)
            raise ArtifactNotFound("not a file")
        return opened


def _look(storage: RDBStorage, route: Route) -> None:
    """Refuse what the application would fail at.

    Raises
    ------
    BadRequest
        The study or trial is not there, or cannot be shown or changed so.
    """
    try:
        _look_for_study(storage, route)
        _look_for_trial(storage, route)
    except (DBAPIError, StorageInternalError, StorageDown):
        raise BadRequest(503, "The database does not answer.") from None


def _look_for_study(storage: RDBStorage, route: Route) -> None:
    if route.study is None:
        return
    try:
        objectives = len(storage.get_study_directions(route.study))
    except KeyError:
        raise BadRequest(404, f"There is no study {route.study}.") from None
    if route.plot == "pareto_front" and objectives not in (2, 3):
        raise BadRequest(404, "The study has no Pareto front that could be drawn.")


def _look_for_trial(storage: RDBStorage, route: Route) -> None:
    if route.trial is None:
        return
    try:
        trial = storage.get_trial(route.trial)
        if route.study is not None:
            storage.get_trial_id_from_study_id_trial_number(route.study, trial.number)
    except KeyError:
        raise BadRequest(404, f"There is no trial {route.trial}.") from None
    if trial.state.is_finished() and not route.finished:
        raise BadRequest(409, "The trial has finished; only its note can still be changed.")


def _neutral(app: Wsgi) -> Wsgi:
    """Keep cells of the trials' CSV from being formulas."""

    def neutral(environ: Environ, start: Start) -> Iterable[bytes]:
        found = re.fullmatch(r"/csv/(\d+)", environ["PATH_INFO"].rstrip("/"))
        if found is None:
            return app(environ, start)
        said: list[str] = []

        def hold(status: str, _headers: object, _error: object = None) -> None:
            said.append(status)

        written = io.StringIO(newline="")
        rows = csv.reader(io.StringIO(b"".join(app(environ, hold)).decode(), newline=""))
        csv.writer(written).writerows([_cell(cell) for cell in row] for row in rows)
        name = f'attachment; filename="study-{found[1]}.csv"'  # the study's own name may be no header's text
        start(said[-1], [("Content-Type", "text/csv; charset=utf-8"), ("Content-Disposition", name)])
        return [written.getvalue().encode()]

    return neutral


def _cell(text: str) -> str:
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text.strip()  # -0.5 stays a number


def _sealed(send: Send) -> Send:
    """Hand an artifact out as a file: whatever it holds, it is no page of ours."""

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {key.lower(): value.decode("latin-1") for key, value in message["headers"]}
            kind = given.get(b"content-type", "").partition(";")[0].strip().lower()
            kind = kind if _MIME.fullmatch(kind) else "application/octet-stream"
            headers = [
                (b"content-type", kind.encode()),
                (b"content-disposition", b"inline" if kind in _PICTURES else b"attachment"),
                (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
            ]
            message = {**message, "headers": headers}
        await send(message)

    return sealed
