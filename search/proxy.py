"""The storage proxy: holds the connections to a database, and lets those that know its token use them over gRPC.

Hundreds of workers would each take some of the hundred connections that PostgreSQL has. Not here: how a call is spelled
(wire.py); the workers' end (remote.py).
"""

from __future__ import annotations

import hmac
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import optuna
from sqlalchemy import event, make_url

from search.errors import BadStorage, StorageDown
from search.ledger import Ledger
from search.patience import Patience
from search.sessions import Tries
from search.storage import PROXIES, connect
from search.trials import Trials, together
from search.wire import CALL, ERRORS, SERVICE, BadCall, Request, Terms, pack_answer, pack_error, unpack

try:
    import grpc
except ImportError:
    raise BadStorage("The storage proxy speaks gRPC: pip install 'mlc-search[grpc]'") from None

CONNECTIONS: Final = 16  # to the database; as many calls are worked on at once
PATIENCE: Final = 5.0  # seconds with the database; then the client is told, whose own patience is longer
_LOCK_SECONDS: Final = 10  # for which a call waits for a row that another holds; no client should wait for ever
_WAITING: Final = 2000  # calls that wait for their turn; more are refused and come again
_LARGEST: Final = 2**24  # bytes of a request
_CONNECTIONS: Final = 10_000  # of which is remembered that they brought the token
_GRACE: Final = 5.0  # seconds in which calls at work may end, once the proxy is stopped
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.max_receive_message_length", _LARGEST),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)

Answer = Callable[[bytes, Any], bytes]


def open_database(url: str) -> Trials:
    """Open the database that a proxy serves.

    Raises
    ------
    BadStorage, StorageDown
    """
    if make_url(url).drivername in PROXIES:
        raise BadStorage("A storage proxy needs the database itself: write sqlite:///FILE or postgresql://...")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what matters of its lines, the studies hold
    storage = connect(url, patience=Patience(), connections=CONNECTIONS)
    storage.patience = Patience(PATIENCE)
    if storage.engine.dialect.name == "postgresql":
        event.listen(storage.engine, "connect", _on_connect)
    return storage


def start(
    storage: Trials,
    host: str,
    port: int,
    *,
    token: str | None,
    certificate: tuple[Path, Path] | None = None,
) -> tuple[grpc.Server, int]:
    """Serve a database until the server is stopped.

    Parameters
    ----------
    storage : Trials
        From `open_database`.
    port : int
        0 takes a free one.
    token : str, optional
        Without it whoever reaches the port is let in.
    certificate : tuple of Path, optional
        Files of the key and of the certificate's chain, in PEM, both read by `search.server.tls` before.

    Returns
    -------
    grpc.Server
        It serves; `stop` ends it.
    int
        The port.

    Raises
    ------
    RuntimeError
        The port is taken, or the host is not this machine's.
    """
    server = grpc.server(
        ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="call"),
        interceptors=() if token is None else (_Gate(token),),
        options=_OPTIONS,
        maximum_concurrent_rpcs=_WAITING,
    )
    handler = grpc.unary_unary_rpc_method_handler(_Desk(storage).answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {CALL: handler}),))
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if certificate is None:
        taken = server.add_insecure_port(place)
    else:
        key, chain = (file.read_bytes() for file in certificate)
        taken = server.add_secure_port(place, grpc.ssl_server_credentials([(key, chain)]))
    server.start()
    return server, int(taken)


def stop(server: grpc.Server) -> None:
    """Let calls at work end, and take no more."""
    server.stop(_GRACE).wait()


class _Gate(grpc.ServerInterceptor):  # type: ignore[misc] # gRPC comes without types
    """Lets nobody in who does not bring the token, whatever they ask for, and nobody guess it.

    After some wrong tokens an address waits, as at the dashboard, the right one or not: else it would be told apart.
    Connections that brought the right one before are not asked to, so that a stranger locks no worker out.
    """

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()
        self._tries = Tries()
        self._inside: OrderedDict[str, None] = OrderedDict()  # connections that brought the token
        self._lock = threading.Lock()  # calls are answered in threads

    def intercept_service(self, go_on: Callable[[Any], Any], details: Any) -> Any:  # noqa: ANN401 - gRPC's
        """Look at the call's metadata; who calls is known only once it is answered."""
        brought = [value for key, value in details.invocation_metadata if key == "authorization"]
        given = brought[0].encode() if len(brought) == 1 else b""
        right = hmac.compare_digest(given, self._wanted)
        asked: Any = go_on(details) if right else None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if refusal := self._refusal(context.peer(), right=right, guessed=bool(brought)):
                context.abort(*refusal)
            if asked is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
            told: bytes = asked.unary_unary(request, context)
            return told

        return grpc.unary_unary_rpc_method_handler(answer)

    def _refusal(self, peer: str, *, right: bool, guessed: bool) -> tuple[grpc.StatusCode, str] | None:
        """Say why a call is not answered; None: it is."""
        address = _address(peer)
        with self._lock:
            if right and peer in self._inside:
                return None
            if wait := math.ceil(self._tries.wait(address)):
                return grpc.StatusCode.RESOURCE_EXHAUSTED, f"too many wrong tokens: wait {wait} s"
            if not right:
                if guessed:
                    self._tries.wrong(address)
                return grpc.StatusCode.UNAUTHENTICATED, "a token is needed"
            self._tries.right(address)
            self._inside[peer] = None
            if len(self._inside) > _CONNECTIONS:
                self._inside.popitem(last=False)
        return None


def _address(peer: str) -> str:
    """Read the host of ``ipv4:HOST:PORT`` or ``ipv6:%5BHOST%5D:PORT``."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


class _Desk:
    """Does what requests ask for, each in a thread of its own."""

    def __init__(self, storage: Trials) -> None:
        self._storage = storage
        # They remember when anybody was last heard: after a pause of ours, silent workers are not taken for dead.
        self._ledgers: dict[Terms, Ledger] = {}

    def answer(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Do it, and say what came of it."""
        try:
            request = unpack(data)
        except BadCall as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not context.is_active():  # it waited so long for its turn that the client has asked again
            context.abort(grpc.StatusCode.CANCELLED, "nobody waits for it")
        try:
            return pack_answer(self._do(request))
        except ERRORS as error:
            return pack_error(error)
        except StorageDown as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"its database does not answer ({error.reason})")
        raise AssertionError  # abort raises

    def _do(self, request: Request) -> object:
        if request.ledger is not None:
            ((name, arguments),) = request.calls
            ledger = self._ledgers.setdefault(request.ledger, self._ledger(request.ledger))
            return getattr(ledger, name)(**arguments)
        storage = self._storage.on_behalf_of(request.worker, frozenset(request.unread))
        if len(request.calls) == 1:
            name, arguments = request.calls[0]
            return getattr(storage, name)(**arguments)
        with together(storage):
            for name, arguments in request.calls:
                getattr(storage, name)(**arguments)
        return None

    def _ledger(self, terms: Terms) -> Ledger:
        return Ledger(self._storage, terms.study_id, retries=terms.retries, draws=terms.draws, heard=0.0)


def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - DBAPI
    connection.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
    connection.commit()
