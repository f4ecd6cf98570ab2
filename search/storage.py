"""From a URL to an open database, and transactions that are tried again; no password leaves in a text.

Not here: our tables (tables.py) and what they mean (ledger.py); names and lists of studies (study.py).
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import optuna.storages._rdb
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages._rdb import models  # private: pyproject.toml pins optuna ~=5.0.0 for this
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateColumn

from search.errors import BadStorage, NothingStarted, StorageDown
from search.patience import Patience
from search.tables import ENQUEUED, METADATA
from search.trials import Trials

DEFAULT_URL: Final = "sqlite:///mlc-search.db"
VARIABLE: Final = "MLC_STORAGE"
BUSY_SECONDS: Final = 30.0  # how long a SQLite connection waits for another's write
CONNECT_SECONDS: Final = 10  # how long a PostgreSQL server may take to answer
IDLE_SECONDS: Final = 10  # after which PostgreSQL ends the transaction of a client that fell silent; ours take none
# Where packets vanish, nobody says so: after a minute the connection is taken to be dead, instead of minutes or hours.
KEEPALIVE: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}

PROXIES: Final = ("grpc", "grpcs")  # of mlc-search storage-proxy, the second with TLS
PROXY_PORT: Final = 13000
PROXY_VARIABLE: Final = "MLC_PROXY_TOKEN"

_EXAMPLES: Final = (
    "Write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE. Of a storage proxy: grpc://HOST:PORT."
)
_SECRETS: Final = ("password", "passwd", "sslpassword")
_LOCK: Final = 0x6D6C_635F_7365_6172  # names our PostgreSQL advisory lock: "mlc_sear"

_T = TypeVar("_T")


def resolve_url(option: str | None) -> str:
    """Find the database's URL: the option, else the variable MLC_STORAGE, else mlc-search.db in this folder.

    Returns
    -------
    str
        ``sqlite:////absolute/path``, ``postgresql+psycopg://...`` or ``grpc://...``, password or token included.

    Raises
    ------
    BadStorage
        The URL cannot be read, or names another kind of database.
    """
    # An empty option is a variable that the shell did not know: another database than the one meant must not be used.
    url = _parse(option if option is not None else os.environ.get(VARIABLE) or DEFAULT_URL)
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.drivername in PROXIES:
        return _proxy(url).render_as_string(hide_password=False)
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise BadStorage(f"The storage URL names {url.drivername}, which mlc-search does not speak. {_EXAMPLES}")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise BadStorage(f"A search needs a database file that several processes can open. {_EXAMPLES}")
    return url.set(drivername="sqlite", database=str(Path(url.database).absolute())).render_as_string()


def redacted(url: str) -> str:
    """Spell the URL without its password, in the authority or among the query's options."""
    try:
        parsed = _parse(url)
    except BadStorage:
        return "(unreadable URL)"
    query = {key: "***" if key.lower() in _SECRETS else value for key, value in parsed.query.items()}
    return parsed.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def connect(
    url: str, *, create: bool = True, patience: Patience | None = None, connections: int | None = None
) -> Trials:
    """Open the database, with Optuna's tables and ours in it; or a proxy that has opened one.

    Any number of processes may do so at once on a fresh database. Each process opens its own: the result
    is not for pickling, and `close` ends it.

    Parameters
    ----------
    url : str
        As `resolve_url` takes it.
    create : bool
        Whether a database without tables (or a missing SQLite file) gets them; otherwise that is StorageDown.
    patience : Patience, optional
        How long to wait for a database that does not answer, now and later. Without it, one that does not answer
        now is an error at once.
    connections : int, optional
        To the database, at most; by default those of one worker.

    Raises
    ------
    BadStorage
        The URL cannot be used, or the folder of the SQLite file is not there.
    StorageDown
        The database does not answer, refuses us, is damaged, or was written by another version of Optuna.
    """
    url = resolve_url(url)
    if make_url(url).drivername in PROXIES:
        from search.remote import connect_proxy  # gRPC is an extra

        return connect_proxy(url, patience=patience)
    _look_for_file(url, create=create)
    opened = partial(_open, url, create, patience or Patience(), connections)
    try:
        return opened() if patience is None else patience.with_database(opened, spell=partial(_down, url))
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        raise _down(url, error) from None  # the cause may hold the URL


def close(storage: Trials) -> None:
    """Give the connections back; the storage may be used again, and then connects anew."""
    storage.close()


def transact(storage: Trials, work: Callable[[Session], _T]) -> _T:
    """Do the work in one transaction; again after a lost connection, a deadlock or a locked file.

    When the connection is lost while committing, nobody knows whether the work was done: it must be
    something that may happen twice.

    Raises
    ------
    StorageDown
        It still fails when the storage's patience is over.
    """

    def whole() -> _T:
        with Session(storage.engine) as session, session.begin():
            return work(session)

    return storage.patiently(whole)


def _open(url: str, create: bool, patience: Patience, connections: int | None) -> Trials:
    engine = _engine(url)
    try:
        _prepare(engine, url=url, create=create)
        engine.dispose()  # on a crowded server one connection at a time may be all there is
        # RDBStorage fills in {SCHEMA_VERSION}: braces of a password are doubled to survive that.
        doubled = url.replace("{", "{{").replace("}", "}}")
        storage = Trials(doubled, _engine_kwargs(url, connections), patience, spell=partial(_down, url))
    finally:
        engine.dispose()
    _listen(storage.engine)
    storage.engine.dispose()  # what RDBStorage connected before the listeners were there
    return storage


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number, often a piece of a password
        raise BadStorage(f"The storage URL cannot be read. {_EXAMPLES}") from None


def _proxy(url: URL) -> URL:
    """Complete a proxy's URL by what the environment tells; its password is the token."""
    if not url.host or url.username or url.database or url.query:
        raise BadStorage(
            f"A storage proxy is named as {url.drivername}://HOST:PORT, with its token in {PROXY_VARIABLE}."
        )
    # Of the user's name only the colon after it is needed: without one, no password is spelled.
    token = url.password or os.environ.get(PROXY_VARIABLE) or None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise BadStorage(f"{PROXY_VARIABLE} holds other characters than letters, digits and signs. Look at it again.")
    return url.set(username="" if token else None, password=token, port=url.port or PROXY_PORT)


def _look_for_file(url: str, *, create: bool) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return
    file = Path(cast("str", parsed.database))
    if not file.parent.is_dir():
        raise BadStorage(f"The folder {file.parent} is not there. Create it, or name another with --storage.")
    if not create and not file.exists():
        raise _empty(url)


def _empty(url: str) -> NothingStarted:
    hint = "Start a search with mlc-search run, or name another database with --storage."
    return NothingStarted(redacted(url), "no search has been started in it yet", hint)


def _down(url: str, error: Exception) -> StorageDown:
    while isinstance(error, optuna.exceptions.StorageInternalError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    said = str(error.orig if isinstance(error, DBAPIError) and error.orig else error)
    reason = " ".join(said.split()).rstrip(".") or type(error).__name__
    parsed = make_url(url)
    secrets = [parsed.password, *(value for key, value in parsed.query.items() if key.lower() in _SECRETS)]
    for secret in secrets:
        if secret:
            reason = reason.replace(str(secret), "***")
    if parsed.get_backend_name() == "sqlite":
        hint = "Check that it is a database, that you may write to its folder, and that the disk has room."
    else:
        hint = "Check that the server runs and that host, port, user, password and database are right."
    return StorageDown(redacted(url), reason, hint)


def _engine_kwargs(url: str, connections: int | None = None) -> dict[str, Any]:
    parsed = make_url(url)
    pool = {} if connections is None else {"pool_size": connections, "max_overflow": 0}
    if parsed.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS}, **pool}
    # A worker needs two connections, itself and its heartbeat, of the 100 that a server has by default. The
    # server may drop them while a trial trains for hours (optuna#5600): hence the ping and the recycling.
    wanted = {"connect_timeout": CONNECT_SECONDS, **KEEPALIVE}
    return {
        "pool_size": 2,
        "max_overflow": 2,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        "connect_args": {key: value for key, value in wanted.items() if key not in parsed.query},
        **pool,
    }


def _engine(url: str) -> Engine:
    engine = create_engine(url, **_engine_kwargs(url))
    _listen(engine)
    return engine


def _listen(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
        # Optuna's transactions read, decide, then write. sqlite3 begins one only at the write, so that two
        # processes can decide on the same state (one enqueued trial runs twice); a deferred BEGIN would fail
        # at the write instead of waiting. With BEGIN IMMEDIATE the second process waits before it reads.
        event.listen(engine, "begin", _begin_immediate)
    else:
        event.listen(engine, "connect", _on_postgresql_connect)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _on_sqlite_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - DBAPI
    connection.isolation_level = None  # sqlite3 begins nothing by itself; `_begin_immediate` does
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")  # in WAL: a power cut loses the last trials, damages nothing
    # Changing the mode needs the file alone and does not wait for it, so fresh databases need another try.
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except connection.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _on_postgresql_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - DBAPI
    # A machine that vanishes in the middle of a claim would hold the study's lock until TCP gives up: hours.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    connection.commit()


def _prepare(engine: Engine, *, url: str, create: bool) -> None:
    """Create what is missing, in one transaction that excludes everyone else who does so."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql" and create:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        tables = set(inspect(connection).get_table_names())
        if not create and not {"studies", ENQUEUED.name} <= tables:
            raise _empty(url)
        folder = Path(optuna.storages._rdb.__file__).parent / "alembic"
        script = ScriptDirectory(str(folder))
        context = MigrationContext.configure(connection)
        revision, head = context.get_current_revision(), script.get_current_head()
        if "studies" in tables and revision != head:
            raise _other_version(
                url, known=revision is None or revision in {r.revision for r in script.walk_revisions()}
            )
        if ENQUEUED.name not in tables:
            models.BaseModel.metadata.create_all(connection)
        if "studies" not in tables:
            version = models.VersionInfoModel.__table__
            connection.execute(
                version.insert().values(
                    version_info_id=1,
                    schema_version=models.SCHEMA_VERSION,
                    library_version=optuna.__version__,
                )
            )
            context.stamp(script, cast("str", head))
        METADATA.create_all(connection)
        _add_columns(connection)


def _add_columns(connection: Connection) -> None:
    """Give tables that an earlier version made the columns that have come since; each has a default or may be null."""
    there = inspect(connection)
    for table in METADATA.sorted_tables:
        known = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                spelled = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {spelled}"))


def _upgrade(url: str) -> str:
    """Spell the command, without the password, which libpq takes from its own variable."""
    parsed = make_url(url)
    options = {key: value for key, value in parsed.query.items() if key.lower() not in _SECRETS}
    bare = parsed._replace(password=None).set(query=options).render_as_string()
    secret = "PGPASSWORD=... " if bare != redacted(url) else ""
    return f"{secret}optuna storage upgrade --storage {shlex.quote(bare)}"


def _other_version(url: str, *, known: bool) -> StorageDown:
    if known:
        hint = f"Stop everything that uses it, then run: {_upgrade(url)}"
        return StorageDown(redacted(url), "its tables were made by an older Optuna", hint)
    hint = "Install the newest mlc-search, or name another database with --storage."
    return StorageDown(redacted(url), f"its tables were made by a newer Optuna than {optuna.__version__}", hint)
