"""Workers on the nodes of a Ray cluster: placed by Ray, watched, replaced when their node goes, stopped when asked.

Ray has the machines; trials, budgets and claims stay in the database, files in a shared folder or in S3. The database's
URL reaches a node as an argument between processes: Ray shows neither that nor a worker's environment. Not here: what
happens on a node (ray_node.py); workers of this machine alone (pool.py).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url

from search.artifacts import location
from search.attempts import BEAT_SECONDS
from search.data import Source
from search.errors import BadStorage, SearchError
from search.pool import (
    DEATHS,
    POLL_SECONDS,
    Orders,
    Watch,
    WorkersDied,
    arguments,
    cause,
    pause,
)
from search.ray_node import Keeper
from search.signals import SIGNALS, Stop
from search.storage import VARIABLE
from search.study import THREADS, Study

Say = Callable[[str], object]  # shows a line
_PATIENCE: Final = 10.0  # seconds for Ray to tell what it knows already

log = logging.getLogger(__name__)


class NoCluster(SearchError):
    """The Ray cluster cannot be reached."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster, and what each worker reserves of it."""

    address: str  # auto, local, HOST:PORT or ray://HOST:PORT
    cpus: int | None = None  # None: as many as a trial of the study has threads
    gpus: float = 0.0


@dataclass(slots=True)
class _Worker:
    """One worker, from the moment that Ray is asked for a place."""

    keeper: Any  # the actor
    host: Any  # object reference: there once it is placed
    name: str = ""  # since then
    ended: Any = None  # object reference: exit code and last words
    leaving: bool = False  # it was asked to end, and none is to come in its place


def join_cluster(study: Study, url: str, cluster: Cluster, *, workers: int | None, say: Say) -> int:
    """Connect to the cluster and decide how many workers there are to be; a study's open threads become their CPUs.

    Parameters
    ----------
    url : str
        Of the database, resolved.
    workers : int, optional
        As many as asked for, even if there is no room yet: an autoscaler makes some. By default as many as there is
        room for.
    say : callable
        Told what may surprise.

    Raises
    ------
    NoCluster
    BadStorage
        The nodes would not see the database's file.
    """
    import ray  # seconds, and only here

    _connect(cluster.address)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) > 1 and make_url(url).get_backend_name() == "sqlite":
        ray.shutdown()
        raise BadStorage(
            f"The Ray cluster has {len(nodes)} nodes, which cannot share a SQLite file. Name a PostgreSQL server with "
            "--storage or MLC_STORAGE, or use --ray local."
        )
    if study.declaration.threads is None:
        study.ledger.remember(THREADS, str(cluster.cpus or 1))
    if cluster.cpus not in (None, study.threads):
        say(f"Trials of study {study.name!r} have {study.threads} threads each, whatever CPUs are reserved for them.")
    wanted = {"CPU": float(cluster.cpus or study.threads), **({"GPU": cluster.gpus} if cluster.gpus else {})}
    room = sum(min(int(node.get(kind, 0.0) / amount) for kind, amount in wanted.items()) for node in nodes)
    if not room:
        spelled = " and ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
        say(f"No node of the cluster has {spelled} for a worker: waiting for one that has.")
    return workers or max(1, room)


@dataclass(slots=True)
class RayPool:
    """Workers of one budget, as `search.pool.Pool`, after `join_cluster`.

    Parameters
    ----------
    study : Study
    storage_url : str
        Resolved.
    root : Path
        The artifact folder.
    budget_id : int
    source : Source, optional
        Where the study's data lie, on every node.
    patience : float, seconds
        For which a worker waits for a database or a folder that is away.
    cluster : Cluster
        What each worker reserves.
    """

    study: Study
    storage_url: str
    root: Path
    budget_id: int
    source: Source | None
    patience: float
    cluster: Cluster
    over: bool = False  # set by whoever watches, it ends the work as a stop does
    _orders: Orders = field(init=False)
    _workers: list[_Worker] = field(default_factory=list)
    _vacant: list[float] = field(default_factory=list)  # when to start a worker in place of one that is gone
    _done: bool = False  # nothing is left to claim
    _gone: int = 0  # in a row, with no trial finished meanwhile
    _killed: int = 0  # of those, workers that were killed while their node stayed
    _finished: int = 0  # trials of the budget, when last a worker went
    _beat_at: float = 0.0

    def run(self, workers: int, *, stop: Stop, watch: Watch, seconds: float | None = None) -> bool:
        """Work on the budget until it is done, the stop is asked, or the time is up.

        Asked a second time, the workers are killed; what they had not finished goes back to the queue. Meanwhile
        `Ledger.resize_budget` says how many workers there are to be.

        Returns
        -------
        bool
            Whether the time was up.

        Raises
        ------
        WorkersDied
            With what the last one printed; the others were stopped.
        """
        import ray

        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        self._orders = Orders(self.study, self.budget_id, workers)
        with redirect_stdout(sys.stderr):  # Ray prints there when a node dies, and it is the command's own
            try:
                for _ in range(workers if not stop.asked else 0):
                    self._start()
                while not (self._done or self.over or stop.asked) and time.monotonic() < deadline:
                    watch()
                    stop.wait(POLL_SECONDS)
                    self._look()
                    self._beat()
                    self._obey()
                return time.monotonic() >= deadline
            finally:
                try:
                    self._end()
                finally:
                    ray.shutdown()

    @property
    def at_work(self) -> int:
        """How many workers have their place, those that are about to end included."""
        return sum(worker.ended is not None for worker in self._workers)

    def let_go(self, names: Collection[str]) -> None:
        """End these workers in order, without another in their place; what they run goes back to the queue."""
        for worker in self._workers:
            if worker.name and worker.name in names and not worker.leaving:
                worker.leaving = True
                worker.keeper.stop.remote()

    def _start(self) -> None:
        import ray

        # Not restarted by Ray: who is gone must be known, so that its trial goes back at once and not after a silence.
        keeper: Any = (
            ray.remote(Keeper)
            .options(
                num_cpus=self.cluster.cpus or self.study.threads,
                num_gpus=self.cluster.gpus,
                max_restarts=0,
                max_concurrency=2,  # `work` and, meanwhile, `stop`
            )
            .remote()
        )
        self._workers.append(_Worker(keeper, keeper.host.remote()))

    def _look(self) -> None:
        """Put those to work who have their place; take note of workers that ended; replace those that are gone."""
        import ray
        from ray.exceptions import RayError

        for worker in list(self._workers):
            try:
                if worker.ended is None:
                    if _is_there(worker.host):
                        self._set_to_work(worker, ray.get(worker.host, timeout=_PATIENCE))
                elif _is_there(worker.ended):
                    self._took_leave(worker, *ray.get(worker.ended, timeout=_PATIENCE))
            except RayError as error:
                self._lost(worker, error)
        for when in list(self._vacant):
            if time.monotonic() >= when:
                self._vacant.remove(when)
                self._start()

    def _set_to_work(self, worker: _Worker, host: str) -> None:
        worker.name = f"{host}-ray-{secrets.token_hex(3)}"
        told = arguments(self.study, self.budget_id, worker.name, self.patience, self.source)
        place = location(self.root)
        needed = [] if place.startswith("s3://") else [place]
        if (source := self.source) is not None:
            needed += [str(path.absolute()) for path in (source.path, source.corrections) if path is not None]
        threads = str(self.study.threads)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, VARIABLE: self.storage_url}
        worker.ended = worker.keeper.work.remote(told, environment, place, needed)

    def _took_leave(self, worker: _Worker, code: int, said: str) -> None:
        """Take note of a worker whose process ended."""
        import ray

        self._workers.remove(worker)
        ray.kill(worker.keeper)
        if worker.leaving:
            self.study.ledger.give_back([worker.name])
        closed = code == 0 and self.study.ledger.remaining(self.budget_id).closed
        if closed or worker.leaving:  # what others run they finish; where nobody is left there is nothing to wait for
            working = any(other.ended is not None for other in self._workers)
            self._done = not working and (closed or not (self._workers or self._vacant))
            return
        self._replace(worker, cause(code))  # also one that was asked to end, as a machine that shuts down does
        self._killed += code < 0
        if code > 0 or self._killed > DEATHS:  # by its own decision: another would decide alike
            raise WorkersDied(said or f"Worker {worker.name} {cause(code)} and said nothing.")

    def _lost(self, worker: _Worker, error: Exception) -> None:
        """Take note of a worker whose node or actor is gone, as happens to preemptible machines all day."""
        import ray
        from ray.exceptions import RayTaskError

        if isinstance(error, RayTaskError) or "creation task" in str(error):  # not Ray's failure, and no accident
            last = str(error).strip().splitlines()[-1]
            raise WorkersDied(f"A node of the cluster cannot start workers: {last}. Install mlc-search[ray] on each.")
        log.info("worker %s is gone: %s", worker.name, error)
        self._workers.remove(worker)
        ray.kill(worker.keeper)  # if only the way to it is cut, it shall not go on beside the one in its place
        self._replace(worker, "went with its node")

    def _replace(self, worker: _Worker, why: str) -> None:
        """Give a worker's trial back, and plan another; after a pause that grows while nothing gets done."""
        if worker.name:
            self.study.ledger.give_back([worker.name], why=why)
        finished = self.study.ledger.remaining(self.budget_id).finished
        if finished > self._finished:
            self._gone = self._killed = 0
        self._finished, self._gone = finished, self._gone + 1
        self._vacant.append(time.monotonic() + pause(self._gone))

    def _obey(self) -> None:
        """Have as many workers as somebody asked for meanwhile."""
        import ray

        before, wanted = self._orders.changed()
        self._vacant += [time.monotonic()] * max(0, wanted - before)
        for _ in range(max(0, before - wanted)):
            if self._vacant:
                self._vacant.pop()
            elif waiting := next((worker for worker in self._workers if worker.ended is None), None):
                self._workers.remove(waiting)
                ray.kill(waiting.keeper)
            else:
                self.let_go([worker.name for worker in self._workers if not worker.leaving][-1:])

    def _beat(self) -> None:
        """Say that the budget's workers are looked after."""
        if time.monotonic() - self._beat_at > BEAT_SECONDS:
            self.study.ledger.keep_budget(self.budget_id)
            self._beat_at = time.monotonic()

    def _end(self) -> None:
        """Stop whoever still works; each puts its trial back, or is killed and has it put back."""
        import ray

        working = [worker for worker in self._workers if worker.ended is not None]
        for worker in self._workers:
            if worker.ended is None:
                ray.kill(worker.keeper)
            else:
                worker.keeper.stop.remote()
        impatient, left = Stop(), [worker.ended for worker in working]
        with impatient.listening():
            while left and not impatient.asked:
                left = ray.wait(left, num_returns=len(left), timeout=POLL_SECONDS)[1]
        for worker in working:
            ray.kill(worker.keeper)
        if working:
            self.study.ledger.give_back([worker.name for worker in working])


def _connect(address: str) -> None:
    """Connect to a cluster, or start one on this machine; it reports to nobody."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ray.init(
            address=None if address == "auto" else address,  # None: one that is found here, else one of our own
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        hint = (
            "It has to run (ray start --head) with the same versions of Ray and Python; if it asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH. For a cluster of this machine alone: --ray local."
        )
        raise NoCluster(f"The Ray cluster {address} cannot be used: {said}. {hint}") from None
    for number, handler in before.items():
        signal.signal(number, handler)  # Ray has put its own there, which would end us without a goodbye


def _is_there(reference: Any) -> bool:  # noqa: ANN401 - Ray's references have no public type in common
    import ray

    return bool(ray.wait([reference], timeout=0)[0])
