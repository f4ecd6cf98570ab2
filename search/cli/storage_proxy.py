"""``storage-proxy``: one process that holds a database's connections, for hundreds of workers."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from search.cli import options
from search.cli.dashboard import address, find_token
from search.cli.printing import talk


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("storage-proxy")(storage_proxy)


def storage_proxy(
    *,
    storage: options.Storage = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 13000,
    certificate: options.Certificate = None,
    key: options.Key = None,
) -> None:
    """Hold a database's connections for workers on many machines, whose storage is then grpc://HOST:PORT.

    Beyond loopback, or where the variable MLC_PROXY_TOKEN is set, workers bring the token that it holds, or else one
    that is made and printed, in the same variable. With a certificate their storage is grpcs://HOST:PORT.

    Example: mlc-search storage-proxy --host 0.0.0.0
    """
    from search.gate import is_loopback
    from search.server import tls
    from search.storage import PROXY_VARIABLE, close, redacted, resolve_url

    if key is not None and certificate is None:
        raise typer.BadParameter("--key: name the certificate as well, with --certificate.")
    url, alone = resolve_url(storage), is_loopback(host)
    token, made = find_token(PROXY_VARIABLE, alone=alone)
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise typer.BadParameter(
            f"{PROXY_VARIABLE} holds other characters than letters, digits and signs. Take others."
        )
    files = None
    if certificate is not None:
        tls(certificate, key)  # gRPC would not say what is wrong with them
        files = (key or certificate, certificate)

    from search.proxy import open_database, start, stop
    from search.signals import Stop

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    opened, asked = open_database(url), Stop()
    with asked.listening():
        try:
            server, _ = start(opened, host, port, token=token, certificate=files)
        except RuntimeError:
            close(opened)
            raise typer.BadParameter(f"--host {host} --port {port}: it cannot be listened on. Name another.") from None
        place = address("grpc" if files is None else "grpcs", host, port)
        talk(f"Serving {redacted(url)} to MLC_STORAGE={place} - stop with Ctrl-C.")
        if made:
            talk(f"Workers need {PROXY_VARIABLE}={token}")
        if not alone and files is None:
            talk("This is no TLS: who listens on the way reads the token. Give --certificate and --key, or use ssh -L.")
        while not asked.asked:
            asked.wait(3600)
    stop(server)
    close(opened)
