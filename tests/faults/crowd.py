"""Many worker processes at a time, each replaced when it was killed; forked from one that has imported everything.

Not here: what they do (hands.py); when one is killed or halted (chaos.py).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import psutil

from tests.faults.hands import Place, run

_DYING: Final = 10.0  # seconds


@dataclass(slots=True)
class Member:
    """A worker process."""

    name: str
    slot: int  # among those that work at once; its replacement has the same
    process: BaseProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it has ended."""
        if self.process.is_alive():
            os.kill(self.pid, number)


@dataclass(slots=True)
class Crowd:
    """Workers of one budget on this machine.

    Parameters
    ----------
    place : Place
    size : int
        How many work at once.
    """

    place: Place
    size: int
    members: list[Member] = field(default_factory=list)
    gave_up: dict[str, str] = field(default_factory=dict)  # why those that ended by an error of their own did
    started: int = 0
    _context: Any = field(default_factory=lambda: multiprocessing.get_context("forkserver"))

    def tend(self) -> bool:
        """Replace those that were killed or gave up; False once all have ended as the budget was done."""
        for member in list(self.members):
            code = member.process.exitcode
            if code is None:
                continue
            self.members.remove(member)
            if code > 0:
                why = self.place.why(member.name)
                self.gave_up[member.name] = why.read_text() if why.exists() else said(self.place)
            if code != 0:
                self._start(member.slot)
        return bool(self.members)

    def memory(self, slot: int) -> float | None:
        """Resident memory of the worker in that slot, megabytes; None where it has just ended."""
        for member in self.members:
            if member.slot == slot:
                try:
                    return float(psutil.Process(member.pid).memory_info().rss) / 1e6
                except psutil.Error:
                    return None
        return None

    def _start(self, slot: int) -> None:
        self.started += 1
        name = f"w{slot}-{self.started}"
        process = self._context.Process(target=run, args=(self.place, name), name=name, daemon=True)
        process.start()
        self.members.append(Member(name, slot, process))

    @contextmanager
    def working(self) -> Iterator[Crowd]:
        """Start them; whoever still works when the context ends is killed."""
        self._context.set_forkserver_preload(["tests.faults.hands", "search.model_figures"])
        for slot in range(self.size):
            self._start(slot)
        try:
            yield self
        finally:
            for member in self.members:
                member.process.kill()
            for member in self.members:
                member.process.join(_DYING)


def said(place: Place) -> str:
    """What the workers printed, the end of it."""
    return place.said.read_text(errors="replace")[-4000:] if Path(place.said).exists() else ""
