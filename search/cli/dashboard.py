"""``dashboard``: the study in the browser."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from search.cli import options
from search.cli.printing import talk


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dashboard")(dashboard)


def dashboard(
    *,
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
) -> None:
    """Serve optuna-dashboard with the weights of the best trials, on this machine alone unless --host says more.

    Beyond loopback every request must bring the token that the variable MLC_DASHBOARD_TOKEN holds, as password
    with any user name.

    Example: mlc-search dashboard --port 8080
    """
    from search.artifacts import artifacts_folder
    from search.dashboard import VARIABLE, dashboard_app, is_loopback, serve
    from search.storage import close, connect, redacted, resolve_url

    token = os.environ.get(VARIABLE) or None
    if token is None and not is_loopback(host):
        raise typer.BadParameter(
            f"--host {host}: others can reach it, so set {VARIABLE} to a secret that they must give."
        )
    url = resolve_url(storage)
    opened = connect(url)
    app = dashboard_app(opened, artifacts_folder(artifacts, url), token=token)
    talk(f"Showing {redacted(url)} at http://{host}:{port}/ - stop with Ctrl-C.")
    try:
        serve(app, host=host, port=port)
    except (OSError, ValueError) as error:  # ValueError: waitress cannot make sense of the host
        raise typer.BadParameter(f"--host {host} --port {port}: {error}. Name another.") from None
    finally:
        close(opened)
