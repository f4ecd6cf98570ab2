"""A database behind a proxy: the storage and its ledgers as they are here, each method a call over gRPC.

Optuna's own proxy is not used: it knows neither who may speak to it, nor claims, nor whose a trial is. The cache of
trials is the one that Optuna keeps before a database. Not here: how a call is spelled (wire.py); the other end
(proxy.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container
from functools import wraps
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, TypeVar, cast

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from search.errors import BadStorage, StorageDown
from search.ledger import Ledger
from search.patience import Patience
from search.storage import PROXY_VARIABLE, redacted
from search.trials import Trials
from search.wire import CALL, LEDGER, SERVICE, STORAGE, Method, Request, Terms, pack, signature, unpack_answer

try:
    import grpc
except ImportError:
    raise BadStorage("A storage proxy is spoken to by gRPC: pip install 'mlc-search[grpc]'") from None

SECONDS: Final = 40.0  # for which a call waits; SQLite's file alone may be another's for 30
OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # all trials of a study are one answer
    ("grpc.max_reconnect_backoff_ms", 2000),  # it would be two minutes, once a proxy was away for long
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.keepalive_time_ms", 20_000),  # of a machine that vanished no word comes
    ("grpc.enable_http_proxy", 0),  # a database is not spoken to through the web's proxy
)

_AWAY: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)
_ONCE: Final = ("create_new_study", "delete_study")  # what may not be done twice

_T = TypeVar("_T")
_L = TypeVar("_L")
_P = ParamSpec("_P")


def _far(method: Callable[..., _T]) -> Callable[..., _T]:
    @wraps(method)
    def call(storage: Remote, *args: Any, **kwargs: Any) -> _T:  # noqa: ANN401 - whatever the method takes
        answer: _T = storage._call(method, _named(method, args, kwargs))
        return answer

    return call


def _far_write(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def write(storage: Remote, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - whatever the method takes
        storage._hold(method, _named(method, args, kwargs))

    return write


class Remote(Trials):
    """What `Trials` is, without a connection to the database.

    Parameters
    ----------
    url : str
        Of the proxy, from `search.storage.resolve_url`.
    patience : Patience

    Raises
    ------
    StorageDown
        From every method, when the proxy or its database stays away.
    BadStorage
        The proxy refuses our token, or is of another version.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        # Not RDBStorage's: there is no engine here, and what would need one is overridden.
        self._held = None
        self.patience, self._spell = patience, self._down
        self.worker, self.unread = None, frozenset()
        self.heartbeat_interval = None
        self._proxy = url
        self._channel: grpc.Channel | None = None

    def close(self) -> None:  # noqa: D102 - as in Trials
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def operate(  # noqa: D102 - as in Trials, but elsewhere
        self, method: Callable[Concatenate[_L, _P], _T], ledger: _L, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        arguments = _named(method, args, kwargs)
        if "token" in signature(method).parameters and arguments.get("token") is None:  # the same for every try
            arguments["token"] = secrets.token_hex(16)
        answer: _T = self._call(LEDGER[method.__name__], arguments, Terms(**cast("Ledger", ledger).terms))
        return answer

    create_new_study = _far(Trials.create_new_study)
    delete_study = _far(Trials.delete_study)
    get_all_studies = _far(Trials.get_all_studies)
    get_study_directions = _far(Trials.get_study_directions)
    get_study_id_from_name = _far(Trials.get_study_id_from_name)
    get_study_name_from_id = _far(Trials.get_study_name_from_id)
    get_study_system_attrs = _far(Trials.get_study_system_attrs)
    get_study_user_attrs = _far(Trials.get_study_user_attrs)
    set_study_user_attr = _far(Trials.set_study_user_attr)
    count_study_system_attrs = _far(Trials.count_study_system_attrs)
    get_trial = _far(Trials.get_trial)
    get_trial_id_from_study_id_trial_number = _far(Trials.get_trial_id_from_study_id_trial_number)
    _get_best_trial_id = _far(Trials._get_best_trial_id)
    forget = _far(Trials.forget)
    own = _far(Trials.own)
    clock = _far(Trials.clock)
    set_trial_intermediate_value = _far_write(Trials.set_trial_intermediate_value)
    set_trial_user_attr = _far_write(Trials.set_trial_user_attr)
    set_trial_system_attr = _far_write(Trials.set_trial_system_attr)
    set_study_system_attr = _far_write(Trials.set_study_system_attr)

    get_trial_param = BaseStorage.get_trial_param
    get_trial_user_attrs = BaseStorage.get_trial_user_attrs
    get_trial_system_attrs = BaseStorage.get_trial_system_attrs

    def remove_session(self) -> None:
        """Do nothing: there is none."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        which = {"included_trial_ids": included_trial_ids, "trial_id_greater_than": trial_id_greater_than}
        method = STORAGE["_get_trials"]
        found: list[FrozenTrial] = self._call(method, {"study_id": study_id, "states": None, **which})
        return [trial for trial in found if states is None or trial.state in states]

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        method = STORAGE["_set_trial_param"]
        values = (trial_id, param_name, param_value_internal, distribution, previous_distribution)
        arguments = _named(method, values, {})
        if previous_distribution is None:
            self._call(method, arguments)
            return
        check_distribution_compatibility(previous_distribution, distribution)
        self._hold(method, arguments)

    def _create_new_trial(self, *_args: object, **_kwargs: object) -> NoReturn:
        self._refuse()

    def set_trial_state_values(self, *_args: object, **_kwargs: object) -> NoReturn:  # noqa: D102 - as in RDBStorage
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadStorage(
            "Through a storage proxy trials are begun and ended by mlc-search's workers alone. Give plain Optuna the "
            "database's own URL."
        )

    def _hold(self, method: Method, arguments: dict[str, Any]) -> None:
        if self._held is None:
            self._call(method, arguments)
        else:
            self._held.append((method.__name__, arguments))

    def _write(self, rows: list[tuple[Any, dict[str, Any]]]) -> None:
        request = pack(Request(rows, self.worker))
        unpack_answer(self._patiently(request), Trials.set_study_system_attr)

    def _call(self, method: Method, arguments: dict[str, Any], ledger: Terms | None = None) -> Any:  # noqa: ANN401
        name = method.__name__
        request = pack(Request([(name, arguments)], self.worker, tuple(self.unread), ledger))
        answer = self._once(request) if name in _ONCE else self._patiently(request)
        return unpack_answer(answer, method)

    def _patiently(self, request: bytes) -> bytes:
        return self.patience.with_network(lambda: self._send(request), spell=self._spell)

    def _once(self, request: bytes) -> bytes:
        try:
            return self._send(request)
        except ConnectionError as error:
            raise self._down(error) from None

    def _send(self, request: bytes) -> bytes:
        if self._channel is None:
            self._channel = _open(self._proxy)
        token = make_url(self._proxy).password
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            call = self._channel.unary_unary(f"/{SERVICE}/{CALL}")
            answer: bytes = call(request, timeout=SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            self._explain(error.code(), error.details() or "")
            raise
        return answer

    def _explain(self, code: grpc.StatusCode, details: str) -> None:
        """Raise what a failed call means, where a user can mend it or may wait."""
        if code in _AWAY:
            raise ConnectionError(details or code.name) from None
        if code == grpc.StatusCode.UNAUTHENTICATED:
            raise BadStorage(
                f"The storage proxy {redacted(self._proxy)} refuses the token, or there is none. Set "
                f"{PROXY_VARIABLE} to the one that the proxy was given or has printed."
            ) from None
        if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT):
            raise BadStorage(
                f"The storage proxy {redacted(self._proxy)} is of another version: {details.rstrip('.')}. Install the "
                "same mlc-search there and here."
            ) from None

    def _down(self, error: Exception) -> StorageDown:
        reason = " ".join(str(error).split()).rstrip(".")
        hint = "Check that mlc-search storage-proxy runs there, and whether it speaks TLS (grpcs) or not (grpc)."
        return StorageDown(redacted(self._proxy), reason, hint)


def connect_proxy(url: str, *, patience: Patience | None) -> Remote:
    """Open a proxy as `search.storage.connect` opens a database.

    Raises
    ------
    BadStorage, StorageDown
    """
    remote = Remote(url, patience or Patience(0))
    remote.clock()  # whether it answers, and lets us in
    remote.patience = patience or Patience()
    return remote


def _open(url: str) -> grpc.Channel:
    parsed = make_url(url)
    place = f"[{parsed.host}]:{parsed.port}" if ":" in str(parsed.host) else f"{parsed.host}:{parsed.port}"
    if parsed.drivername == "grpcs":
        return grpc.secure_channel(place, grpc.ssl_channel_credentials(), OPTIONS)
    return grpc.insecure_channel(place, OPTIONS)


def _named(method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give each argument its name, without `self`."""
    named = signature(method).bind(None, *args, **kwargs).arguments
    return dict(list(named.items())[1:])
