"""``dashboard``: the study in the browser."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from typing import Annotated, Final

import typer

from search.cli import options
from search.cli.printing import talk

VARIABLE: Final = "MLC_DASHBOARD_TOKEN"
_SHORTEST: Final = 12  # characters of a token; a made one has 43
_PATIENCE: Final = 2.0  # seconds with a database that is away; the browser asks again by itself


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dashboard")(dashboard)


def dashboard(
    *,
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
    write: Annotated[
        bool | None,
        typer.Option(
            "--write/--read-only",
            help="Whether notes, attributes and artifacts can be changed; by default on this machine alone.",
            show_default=False,
        ),
    ] = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
) -> None:
    """Serve optuna-dashboard with the weights of the best trials, on this machine alone unless --host says more.

    Beyond loopback, or where the variable MLC_DASHBOARD_TOKEN is set, one logs in with the token that it holds, or
    else with one that is made and printed. Scripts bring it as a bearer token, or as password with any user name.

    Example: mlc-search dashboard --host 0.0.0.0 --certificate c.pem --key k.pem
    """
    from search.gate import is_loopback
    from search.server import listen, serve, tls

    if key is not None and certificate is None:
        raise typer.BadParameter("--key: name the certificate as well, with --certificate.")
    alone = is_loopback(host)
    token, made = find_token(VARIABLE, alone=alone)
    context = None if certificate is None else tls(certificate, key)
    scheme = "http" if context is None else "https"

    from search.artifacts import artifacts_folder
    from search.dashboard import dashboard_app  # takes seconds: after what can be refused at once
    from search.patience import Patience
    from search.storage import close, connect, redacted, resolve_url

    url = resolve_url(storage)
    opened = connect(url, patience=Patience(_PATIENCE))
    folder = artifacts_folder(artifacts, url)
    writable = alone if write is None else write
    app = dashboard_app(opened, folder, token=token, writable=writable, secure=context is not None)
    try:
        sockets = listen(host, port)
    except (OSError, ValueError) as error:  # ValueError: a host that cannot be a name
        close(opened)
        raise typer.BadParameter(f"--host {host} --port {port}: {error}. Name another.") from None
    talk(f"Showing {redacted(url)} at {address(scheme, host, port)}/ - stop with Ctrl-C.")
    if made:
        talk(f"Log in with the token {token}")
    if not alone and context is None:
        talk("This is plain HTTP: who listens on the way reads the token. Give --certificate and --key, or use ssh -L.")
    try:
        serve(app, sockets, context)
    finally:
        close(opened)


def find_token(variable: str, *, alone: bool) -> tuple[str | None, bool]:
    """Find the token that clients must bring, and whether it was made just now."""
    token = os.environ.pop(variable, None) or None  # no process that we start has use for it
    if token is not None and len(token) < _SHORTEST:
        raise typer.BadParameter(
            f"{variable} is shorter than {_SHORTEST} characters. Take a longer one, such as of: openssl rand -hex 24"
        )
    if token is None and not alone:
        return secrets.token_urlsafe(), True
    return token, False


def address(scheme: str, host: str, port: int) -> str:
    """Spell where a server is found."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    named = socket.gethostname() if everywhere else host
    return f"{scheme}://{f'[{named}]' if ':' in named else named}:{port}"
