"""Worker processes on this machine: started, watched, replaced when they die, more or fewer or stopped when asked.

Not here: what a worker does (worker.py); what is drawn meanwhile (progress.py).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from mlc_core import gpus, oom_kills
from search.attempts import BEAT_SECONDS
from search.data import Source
from search.errors import SearchError
from search.layout import environment
from search.ledger import OUT_OF_MEMORY
from search.patience import WORKERS_SECONDS
from search.signals import Stop
from search.storage import VARIABLE
from search.study import Study
from search.worker import worker_name

POLL_SECONDS: Final = 0.25  # between two looks at the workers
DEATHS: Final = 12  # workers that may die in a row, with no trial finished meanwhile, before a search is given up
LONGEST_PAUSE: Final = 30.0  # seconds before a worker is replaced; each death in a row doubles them
ORDERS_SECONDS: Final = 1.0  # between two questions how many workers there are to be
AGAIN: Final = 60.0  # seconds in which what one worker says is not repeated by another

_WORTH_SAYING: Final = re.compile(r"^(?:WARNING|ERROR) (?:search|mlc_core)\.[\w.]+: (.+)$", re.MULTILINE)

Watch = Callable[[], None]  # called at each look, to draw what is new
Say = Callable[[str], object]  # shows a line


class WorkersDied(SearchError):
    """Workers die again and again, or one could not work at all."""

    exit_code = 1


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    place: int  # among those that work at once
    heard: int = 0  # bytes of its log
    leaving: bool = False  # it was asked to end, and none is to come in its place


@dataclass(slots=True)
class Orders:
    """How many workers a budget's run is to have, which somebody may change meanwhile."""

    study: Study
    budget_id: int
    workers: int
    _read_at: float = 0.0

    def changed(self) -> tuple[int, int]:
        """Tell how many there were to be until now, and are to be from now on."""
        before = self.workers
        if time.monotonic() - self._read_at >= ORDERS_SECONDS:
            self._read_at = time.monotonic()
            self.workers = self.study.ledger.remaining(self.budget_id).workers or before
        return before, self.workers


@dataclass(slots=True)
class Pool:
    """Workers of one budget.

    Parameters
    ----------
    study : Study
    storage_url : str
        Resolved; it reaches the workers by their environment, which no other user can read.
    root : Path
        The artifact folder.
    budget_id : int
    source : Source, optional
        Where the study's data lie on this machine.
    patience : float, seconds
        For which a worker waits for a database or a folder that is away.
    say : callable
        Told what a worker warns of.
    """

    study: Study
    storage_url: str
    root: Path
    budget_id: int
    source: Source | None = None
    patience: float = WORKERS_SECONDS
    say: Say = lambda _line: None
    over: bool = False  # set by whoever watches, it ends the work as a stop does
    _orders: Orders = field(init=False)
    _children: list[_Child] = field(default_factory=list)
    _vacant: list[tuple[float, int]] = field(default_factory=list)  # when to fill which place again
    _deaths: int = 0
    _finished: int = 0  # trials of the budget, when last a worker died
    _beat_at: float = 0.0
    _oom_kills: int = field(default_factory=oom_kills)  # that the kernel has counted
    _said: dict[str, float] = field(default_factory=dict)  # when which line was said
    _gpus: tuple[str, ...] = field(default_factory=gpus)

    def run(self, workers: int, *, stop: Stop, watch: Watch, seconds: float | None = None) -> bool:
        """Work on the budget until it is done, the stop is asked, or the time is up.

        Asked a second time, the workers are killed; what they had not finished goes back to the queue. With no
        worker here, those elsewhere are waited for. Meanwhile `Ledger.resize_budget` says how many workers there are
        to be.

        Returns
        -------
        bool
            Whether the time was up.

        Raises
        ------
        WorkersDied
            With what the last one printed; the others were stopped.
        """
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        self._orders = Orders(self.study, self.budget_id, workers)
        try:
            for place in range(workers if not stop.asked else 0):
                self._start(place)
            while self._busy(workers) and not (stop.asked or self.over) and time.monotonic() < deadline:
                watch()
                stop.wait(POLL_SECONDS)
                self._look()
                if workers:
                    self._beat()
                    self._obey()
            return time.monotonic() >= deadline
        finally:
            self._end()

    @property
    def at_work(self) -> int:
        """How many workers there are, those that are about to end included."""
        return len(self._children)

    def let_go(self, names: Collection[str]) -> None:
        """End these workers in order, without another in their place; what they run goes back to the queue."""
        for child in self._children:
            if child.name in names and not child.leaving:
                child.leaving = True
                child.process.send_signal(signal.SIGTERM)

    def _busy(self, workers: int) -> bool:
        if workers:
            return bool(self._children or self._vacant)
        return not self.study.ledger.remaining(self.budget_id).closed

    def _start(self, place: int) -> None:
        name = worker_name()
        log = tempfile.TemporaryFile(prefix="mlc-worker-")  # noqa: SIM115 - closed when the worker has ended
        command = [sys.executable, "-P", "-m", "search.worker", "--artifacts", str(self.root)]
        command += arguments(self.study, self.budget_id, name, self.patience, self.source)
        process = subprocess.Popen(  # noqa: S603 - no shell, and every argument is ours
            command,
            stdin=subprocess.PIPE,  # its closing tells the worker that we are gone
            stdout=log,
            stderr=log,
            env={**environment(self.study.threads, place, self._gpus), VARIABLE: self.storage_url},
            start_new_session=True,  # Ctrl-C reaches us alone, and we say it to them
        )
        self._children.append(_Child(name, process, log, place))

    def _look(self) -> None:
        """Take note of workers that ended; replace those that died, later and later while nothing gets done."""
        for child in list(self._children):
            self._listen(child)
            code = child.process.poll()
            if code is None:
                continue
            said = self._bury(child)
            if code == 0:
                continue
            if child.leaving:  # before it could hear that it should
                self.study.ledger.give_back([child.name])
                continue
            self.study.ledger.give_back([child.name], why=self._why(code))
            finished = self.study.ledger.remaining(self.budget_id).finished
            self._deaths = 1 if finished > self._finished else self._deaths + 1
            self._finished = finished
            if code > 0 or self._deaths > DEATHS:  # by its own decision: another would decide alike
                raise WorkersDied(said or f"A worker {cause(code)} and said nothing.")
            self._vacant.append((time.monotonic() + pause(self._deaths), child.place))
        for when, place in list(self._vacant):
            if time.monotonic() >= when:
                self._vacant.remove((when, place))
                self._start(place)

    def _obey(self) -> None:
        """Have as many workers as somebody asked for meanwhile."""
        before, wanted = self._orders.changed()
        if wanted < before:
            self._vacant = [(when, place) for when, place in self._vacant if place < wanted]
            self.let_go([child.name for child in self._children if child.place >= wanted])
        self._vacant += [(time.monotonic(), place) for place in range(before, wanted)]

    def _why(self, code: int) -> str:
        before, self._oom_kills = self._oom_kills, oom_kills()
        ran_out = code == -signal.SIGKILL and self._oom_kills > before
        return f"{cause(code)}, {OUT_OF_MEMORY}" if ran_out else cause(code)

    def _beat(self) -> None:
        """Say that the budget's workers are looked after: without it a killed search would leave it open for ever."""
        if time.monotonic() - self._beat_at > BEAT_SECONDS:
            self.study.ledger.keep_budget(self.budget_id)
            self._beat_at = time.monotonic()

    def _listen(self, child: _Child) -> None:
        """Pass on what a worker has warned of since."""
        new = os.pread(child.log.fileno(), 2**20, child.heard)  # a read would move the place at which it writes
        whole = new[: new.rfind(b"\n") + 1]
        child.heard += len(whole)
        for line in _WORTH_SAYING.findall(whole.decode(errors="replace")):
            if time.monotonic() - self._said.get(line, -AGAIN) >= AGAIN:
                self._said[line] = time.monotonic()
                self.say(line)

    def _bury(self, child: _Child) -> str:
        self._children.remove(child)
        self._listen(child)
        if child.process.stdin is not None:
            child.process.stdin.close()
        child.log.seek(0)
        said = child.log.read().decode(errors="replace").strip()
        child.log.close()
        return _WORTH_SAYING.sub("", said).strip() or said  # what was told already need not be told again

    def _end(self) -> None:
        """Stop whoever still works; each puts its trial back, or is killed and has it put back."""
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)
        impatient = Stop()
        names = [child.name for child in self._children]
        with impatient.listening():
            while self._children:
                if impatient.asked:
                    for child in self._children:
                        child.process.kill()
                time.sleep(POLL_SECONDS)
                for child in [child for child in self._children if child.process.poll() is not None]:
                    self._bury(child)
        if names:
            self.study.ledger.give_back(names)


def arguments(study: Study, budget_id: int, name: str, patience: float, source: Source | None) -> list[str]:
    """Spell what a worker is told on its command line, but where artifacts are."""
    told = [study.name, "--budget", str(budget_id), "--name", name, "--patience", str(patience)]
    if source is not None:
        told += ["--data", str(source.path.absolute()), "--format", source.format]
        told += ["--skip-bad"] * source.skip_bad
        told += ["--corrections", str(source.corrections.absolute())] if source.corrections else []
    return told


def cause(code: int) -> str:
    """Say how a worker ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def pause(gone: int) -> float:
    """Tell how many seconds to wait for another worker, after so many in a row are gone and nothing got done."""
    return min(2.0 ** (gone - 2), LONGEST_PAUSE) if gone > 1 else 0.0
