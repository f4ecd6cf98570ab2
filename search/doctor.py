"""Whether everything that a search on this machine needs is there and agrees with the other machines.

Each check gives findings; none changes anything, but that trials of workers that fell silent go back to the queue. Not
here: how findings are drawn (drawing.py).
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any, Final

from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import make_url, text

from mlc_core import MlcError, cache_dir, hardware
from search.artifacts import artifact_store, artifacts_folder, location
from search.data import Source, open_data
from search.ledger import CODE, GRACE, Worker
from search.storage import close, connect, redacted, resolve_url, transact
from search.study import Study, open_study
from search.trials import Trials
from search.versions import code_version
from search.views import counts, trial_rows

SLOW: Final = 0.1  # seconds; a trial makes some twenty round trips
SKEW: Final = 60.0  # seconds by which the clocks may differ unnoticed
ROOM: Final = 1_000_000_000  # bytes; a checkpoint of a ResNet-50 takes 0.3 GB, and there are two of each
FULL: Final = 0.8  # of the server's connections
_REMOTE: Final = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "ceph", "glusterfs")  # file systems


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    what: str  # that was checked, in a word or two
    level: Level
    said: str

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return asdict(self)


def examine(reference: str, storage: str | None, artifacts: str | Path | None, source: Source | None) -> list[Finding]:
    """Check database, artifact store, data, workers, versions, disk and device.

    Parameters
    ----------
    reference : str
        A study's name or file; what belongs to no study is checked without it, too.

    Raises
    ------
    BadStorage, BadDeclaration
        The command line is wrong, which no check can mend.
    """
    url = resolve_url(storage)
    findings = [*_checked("database", lambda: _database(url))]
    findings += _checked("artifacts", lambda: _artifacts(artifacts_folder(artifacts, url)))
    findings += _checked("cache", _cache)
    findings += _checked("device", lambda: iter([Finding("device", Level.OK, hardware())]))
    if findings[0].level is not Level.FAILED:
        findings += _checked("study", lambda: _study(reference, url, source))
    return findings


def _checked(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Make a finding of what a user can mend."""
    try:
        yield from check()
    except MlcError as error:
        yield Finding(what, Level.FAILED, str(error))
    except OSError as error:
        yield Finding(what, Level.FAILED, f"{error.filename or what}: {error.strerror or error}.")


def _database(url: str) -> Iterator[Finding]:
    storage = connect(url, create=False)
    try:
        seconds = median(_timed(storage) for _ in range(5))
        said = f"{redacted(url)} answers in {1000 * seconds:.1f} ms"
        yield Finding("database", Level.WARNING if seconds > SLOW else Level.OK, f"{said}.")
        skew = time.time() - storage.clock()
        if abs(skew) > SKEW:
            said = f"this machine's clock is {skew:+.0f} s from the database's. Trials use the database's; logs do not."
            yield Finding("clock", Level.WARNING, said)
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            yield _connections(storage)
        elif parsed.database and (kind := _file_system(Path(str(parsed.database)))).startswith(_REMOTE):
            said = f"it is on a network disk ({kind}), where SQLite's locks fail. Use PostgreSQL for several machines."
            yield Finding("database", Level.FAILED, said)
    finally:
        close(storage)


def _timed(storage: Trials) -> float:
    start = time.perf_counter()
    storage.clock()
    return time.perf_counter() - start


def _connections(storage: Trials) -> Finding:
    question = "SELECT (SELECT count(*) FROM pg_stat_activity), current_setting('max_connections')::int"
    used, most = transact(storage, lambda session: tuple(session.execute(text(question)).one()))
    said = f"{used} of the server's {most} are in use; a worker takes up to 4."
    return Finding("connections", Level.WARNING if used > FULL * most else Level.OK, said)


def _file_system(file: Path) -> str:
    """Name the kind of file system that holds the file, where Linux tells it; else nothing."""
    try:
        rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    inside = [(row[1], row[2]) for row in rows if file.resolve().is_relative_to(row[1])]
    return max(inside, key=lambda row: len(row[0]), default=("", ""))[1]


def _artifacts(root: Path) -> Iterator[Finding]:
    store, key, content = artifact_store(root), f"doctor-{time.time_ns()}", b"mlc-search doctor"
    try:
        store.write(key, io.BytesIO(content))
        with store.open_reader(key) as reader:
            same = reader.read() == content
        store.remove(key)
    except ArtifactNotFound:
        same = False
    if not same:
        yield Finding("artifacts", Level.FAILED, f"{location(root)} does not give back what is written to it.")
        return
    yield Finding("artifacts", Level.OK, f"{location(root)} can be written and read.")
    yield _room("artifacts", root)


def _cache() -> Iterator[Finding]:
    yield _room("cache", cache_dir())


def _room(what: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:.1f} GB are free in {folder}."
    return Finding(f"disk for {what}", Level.WARNING if free < ROOM else Level.OK, said)


def _study(reference: str, url: str, source: Source | None) -> Iterator[Finding]:
    with open_study(reference, url) as study:
        back = study.ledger.recover()
        figures = counts(trial_rows(study))
        said = f"{figures.finished} trials finished, {figures.running} running, {figures.failed} given up"
        if back:
            said += f"; {back} of workers that fell silent went back to the queue"
        yield Finding("study", Level.WARNING if back or figures.failed else Level.OK, f"{said}.")
        yield _code(study)
        yield from (_worker(worker) for worker in study.ledger.workers())
        yield from _checked("data", lambda: _data(study, source))


def _code(study: Study) -> Finding:
    ours, known = code_version(), study.optuna.user_attrs.get(CODE)
    if known in (None, ours):
        return Finding("versions", Level.OK, f"{ours}.")
    said = f"this machine has {ours}, the study was last trained by {known}. Its next worker settles which goes on."
    return Finding("versions", Level.WARNING, said)


def _worker(worker: Worker) -> Finding:
    about = worker.about
    agrees = about.get("code") == code_version()
    said = f"{worker.name} on {about.get('host')}, {about.get('device')}, heard {worker.silent:.0f} s ago"
    if not agrees:
        said += f", of other versions: {about.get('code')}"
    return Finding("worker", Level.OK if agrees and worker.silent < GRACE / 2 else Level.WARNING, f"{said}.")


def _data(study: Study, source: Source | None) -> Iterator[Finding]:
    data, problems = open_data(study, source)
    said = f"{data.name}: the study's own ({data.fingerprint})"
    said += f", {len(problems)} rows or images left out" if problems else ""
    yield Finding("data", Level.OK, f"{said}.")
