"""Worker processes on this machine: started, watched, replaced when they die, stopped when asked.

Not here: what a worker does (worker.py); what is drawn meanwhile (progress.py).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from mlc_core import gpus
from search.data import Source
from search.errors import SearchError
from search.layout import environment
from search.signals import Stop
from search.storage import VARIABLE
from search.study import Study
from search.worker import worker_name

POLL_SECONDS: Final = 0.25  # between two looks at the workers
DEATHS: Final = 10  # workers that may die on a search before it is given up

Watch = Callable[[], None]  # called at each look, to draw what is new


class WorkersDied(SearchError):
    """Workers die again and again, or one could not work at all."""

    exit_code = 1


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    place: int  # among those that work at once


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
    """

    study: Study
    storage_url: str
    root: Path
    budget_id: int
    source: Source | None = None
    _children: list[_Child] = field(default_factory=list)
    _deaths: int = 0
    _gpus: tuple[str, ...] = field(default_factory=gpus)

    def run(self, workers: int, *, stop: Stop, watch: Watch, seconds: float | None = None) -> bool:
        """Work on the budget until it is done, the stop is asked, or the time is up.

        Asked a second time, the workers are killed; what they had not finished goes back to the queue. With no
        worker here, those elsewhere are waited for.

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
        try:
            for place in range(workers if not stop.asked else 0):
                self._start(place)
            while self._busy(workers) and not stop.asked and time.monotonic() < deadline:
                watch()
                stop.wait(POLL_SECONDS)
                self._look()
            return time.monotonic() >= deadline
        finally:
            self._end()

    def _busy(self, workers: int) -> bool:
        return bool(self._children) if workers else not self.study.ledger.remaining(self.budget_id).closed

    def _start(self, place: int) -> None:
        name = worker_name()
        log = tempfile.TemporaryFile(prefix="mlc-worker-")  # noqa: SIM115 - closed when the worker has ended
        command = [sys.executable, "-P", "-m", "search.worker", self.study.name]
        command += ["--budget", str(self.budget_id), "--name", name, "--artifacts", str(self.root)]
        if self.source is not None:
            command += ["--data", str(self.source.path), "--format", self.source.format]
            command += ["--skip-bad"] * self.source.skip_bad
            command += ["--corrections", str(self.source.corrections)] if self.source.corrections else []
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
        """Take note of workers that ended; replace those that died."""
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            said = self._bury(child)
            if code == 0:
                continue
            self.study.ledger.give_back([child.name])
            self._deaths += 1
            if code > 0 or self._deaths > DEATHS:  # by its own decision: another would decide alike
                raise WorkersDied(said or f"A worker ended with exit code {code} and said nothing.")
            self._start(child.place)

    def _bury(self, child: _Child) -> str:
        self._children.remove(child)
        if child.process.stdin is not None:
            child.process.stdin.close()
        child.log.seek(0)
        said = child.log.read().decode(errors="replace").strip()
        child.log.close()
        return said

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
