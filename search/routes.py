"""What of optuna-dashboard can be asked for at all: a list of what it may read, a shorter one of what it may change.

A path, query or body that is not spelt as here never reaches it, because it answers many of those with a traceback in
its log. Not here: who may ask (gate.py); whether the study is there (dashboard.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec

LARGEST_BODY: Final = 16 * 2**20  # bytes; an artifact from the browser, in base64

_STUDY: Final = r"(?P<study>[0-9]{1,9})"  # in a database an id has 31 bits
_TRIAL: Final = r"(?P<trial>[0-9]{1,9})"
_ARTIFACT: Final = r"(?P<artifact>[0-9a-fA-F-]{1,64})"
_PLOTS: Final = "contour|slice|parallel_coordinate|rank|edf|timeline|pareto_front"

_Version = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
_Key = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f]{1,256}$")]


class _Note(msgspec.Struct):
    version: _Version
    body: str


class _Attributes(msgspec.Struct):
    user_attrs: Annotated[dict[_Key, Any], msgspec.Meta(min_length=1)]


class _Upload(msgspec.Struct):
    # Whole groups of four: what Python's decoder takes without a complaint.
    file: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^data:[^,\x00-\x1f]{0,200},(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
        ),
    ]
    filename: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f/\\]{1,255}$")]


@dataclass(frozen=True, slots=True)
class Route:
    """A request that optuna-dashboard understands.

    Attributes
    ----------
    area : str
        The first part of its path, such as ``api``, ``csv`` or ``artifacts``.
    study, trial : int or None
        Ids that the path names.
    artifact : str or None
        The id of an artifact.
    plot : str or None
        The kind of a figure.
    query : bytes
        What of the query it reads, spelt anew.
    body : type or None
        What a change's body must be.
    finished : bool
        Whether a trial that has finished may be changed so.
    """

    area: str
    study: int | None = None
    trial: int | None = None
    artifact: str | None = None
    plot: str | None = None
    query: bytes = b""
    body: type[msgspec.Struct] | None = None
    finished: bool = True


class BadRequest(Exception):
    """The request is refused.

    Attributes
    ----------
    status : int
        Of HTTP.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


_READ: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"/dashboard(/.*)?",
        r"/(favicon\.ico)",
        r"/static/(?!.*\.\.)[A-Za-z0-9._/-]{1,200}",
        r"/api/(meta|studies)",
        rf"/api/studies/{_STUDY}(/param_importances|/plot/(?P<plot>{_PLOTS}))?",
        rf"/csv/{_STUDY}",
        rf"/artifacts/{_STUDY}/({_TRIAL}/)?{_ARTIFACT}",
    )
)
_QUERIES: Final = {  # of an area: what may be asked besides
    "api": re.compile(r"(?P<after>[0-9]{1,9})"),
    "csv": re.compile(r"(?P<trial_ids>[0-9]{1,9}(,[0-9]{1,9})*)"),
}


@dataclass(frozen=True, slots=True)
class _Change:
    method: str
    path: re.Pattern[str]
    body: type[msgspec.Struct] | None
    finished: bool


# Not among them, because they would undo what a search promises: to create or rename a study (it has no declaration
# and no budget then), to delete one (while its workers run), to tell a worker's trial, to migrate the database.
_CHANGES: Final = (
    _Change("PUT", re.compile(rf"/api/studies/{_STUDY}(/{_TRIAL})?/note"), _Note, True),
    _Change("POST", re.compile(rf"/api/trials/{_TRIAL}/user-attrs"), _Attributes, False),
    _Change("POST", re.compile(rf"/api/artifacts/{_STUDY}(/{_TRIAL})?"), _Upload, False),
    _Change("DELETE", re.compile(rf"/api/artifacts/{_STUDY}/({_TRIAL}/)?{_ARTIFACT}"), None, False),
)


def is_reading(method: str) -> bool:
    """Whether HTTP promises that the method changes nothing."""
    return method in ("GET", "HEAD")


def find(method: str, path: str, query: bytes, *, writable: bool) -> Route:
    """Recognise a request.

    Parameters
    ----------
    path : str
        Without percent-encodings.
    writable : bool
        Whether changes are allowed.

    Raises
    ------
    BadRequest
        It is none that is answered.
    """
    path = path.rstrip("/")
    if not is_reading(method):
        return _find_change(method, path, writable=writable)
    found = _first(pattern.fullmatch(path) for pattern in _READ)
    if found is None:
        raise BadRequest(404, "There is no such page.")
    return _route(found, query=_query(path.split("/")[1], query))


def decode(route: Route, body: bytes) -> bytes:
    """Check a change's body, and spell it anew.

    Raises
    ------
    BadRequest
        It is not what this change takes.
    """
    if route.body is None:
        return b""
    try:
        return msgspec.json.encode(msgspec.json.decode(body, type=route.body))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(400, f"The body is not what is expected: {error}.") from None


def _find_change(method: str, path: str, *, writable: bool) -> Route:
    if method not in ("POST", "PUT", "DELETE"):
        raise BadRequest(405, f"{method[:20]} is not answered.")
    if not writable:
        raise BadRequest(403, "This dashboard only shows; it was started without --write.")
    for change in _CHANGES:
        if change.method == method and (found := change.path.fullmatch(path)) is not None:
            return _route(found, body=change.body, finished=change.finished)
    raise BadRequest(
        403,
        "Here notes, attributes and artifacts can be changed; studies and trials are mlc-search's commands' to change.",
    )


def _route(
    found: re.Match[str], *, query: bytes = b"", body: type[msgspec.Struct] | None = None, finished: bool = True
) -> Route:
    named = found.groupdict()
    study, trial = named.get("study"), named.get("trial")
    return Route(
        area=found.string.split("/")[1],
        study=None if study is None else int(study),
        trial=None if trial is None else int(trial),
        artifact=named.get("artifact"),
        plot=named.get("plot"),
        query=query,
        body=body,
        finished=finished,
    )


def _query(area: str, query: bytes) -> bytes:
    allowed = _QUERIES.get(area)
    if allowed is None or not query:
        return b""
    [name] = allowed.groupindex
    try:
        values = [value for key, value in parse_qsl(query.decode("ascii", "replace"), max_num_fields=20) if key == name]
    except ValueError:
        raise BadRequest(400, "The query has too many parts.") from None
    if not all(allowed.fullmatch(value) for value in values) or len(values) > 1:
        raise BadRequest(400, f"{name} takes one value, in digits.")
    return urlencode([(name, value) for value in values]).encode()


def _first(found: Iterable[re.Match[str] | None]) -> re.Match[str] | None:
    return next((one for one in found if one is not None), None)
