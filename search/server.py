"""The sockets of the dashboard: where it listens, TLS, and whom it lets hold a connection for how long.

Not here: what is answered (gate.py, dashboard.py).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from pathlib import Path
from typing import Any, Final, cast

import uvicorn
from h11 import IDLE, SEND_RESPONSE
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from search.errors import SearchError
from search.gate import Gate

_HEAD_SECONDS: Final = 15.0  # in which a request's head must come
_MOST: Final = 200  # connections; every browser takes six
_ELSEWHERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # as ::1 where there is no IPv6


class BadCertificate(SearchError):
    """The certificate or its key cannot be read, or they do not belong together."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Take the port at every address of the host.

    Raises
    ------
    OSError
        The port is taken, or the host is not this machine's.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    taken: list[socket.socket] = []
    for last, (family, _, _, _, address) in enumerate(found, start=1 - len(found)):
        try:
            taken.append(socket.create_server(address, family=family))
        except OSError as error:
            if error.errno not in _ELSEWHERE or (last == 0 and not taken):
                for one in taken:
                    one.close()
                raise
    return taken


def tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Read a certificate's chain and its key, in PEM; the key may be in the chain's file.

    Raises
    ------
    BadCertificate
        They cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    held = key or certificate

    def password() -> str:
        raise BadCertificate(f"{held}: the key is encrypted. Take it out of its password first: openssl pkey.")

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadCertificate(
                f"{held}: the key is not that of {certificate}. Name the one it was made with."
            ) from None
        raise BadCertificate(
            f"{certificate}, {held}: no certificate and key in PEM. Name files that hold them."
        ) from None
    except OSError as error:
        raise BadCertificate(f"{certificate}, {held}: {error.strerror}. Name files that can be read.") from None
    return context


def serve(app: Gate, sockets: list[socket.socket], context: ssl.SSLContext | None) -> None:
    """Serve until interrupted."""
    config = uvicorn.Config(
        app,
        http=_Punctual,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.ERROR,  # what a client does wrong is no news
        access_log=False,
        proxy_headers=False,  # anybody can write them, and wrong tokens are counted by address
        server_header=False,
        timeout_graceful_shutdown=2,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    uvicorn.Server(config).run(sockets)


class _Punctual(H11Protocol):
    """uvicorn's connection, which by itself waits for a request's head for ever, and answers a broken body twice."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > _MOST:
            transport.abort()
        self._look(None)

    def _look(self, before: Any) -> None:  # noqa: ANN401 - nothing, or the last request when looked before
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle  # the request at hand, or the last
        if before is not None and before == (cycle, True):
            self.transport.close()
            return
        idle = cycle is None or cycle.response_complete
        self.loop.call_later(_HEAD_SECONDS, self._look, (cycle, idle))

    def send_400_response(self, msg: str) -> None:
        if cycle := cast("RequestResponseCycle | None", self.cycle):
            cycle.disconnected = True  # so that what it still says goes nowhere
        if self.conn.our_state in (IDLE, SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
