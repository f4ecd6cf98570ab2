"""A search's budget of time: how much is spent, from when on nothing is begun any more, and who could not finish.

Not here: budgets of trials (ledger.py); who starts and ends workers (pool.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from statistics import quantiles
from typing import Final, Protocol

from search.study import Study
from search.views import TrialRow, trial_rows

LOOK_SECONDS: Final = 1.0  # between two readings of the study
SLACK: Final = 1.25  # of the time left, beyond which a running trial is taken not to finish
RECENT: Final = 50  # finished trials by which the time of another is judged


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much time a search may take."""

    seconds: float
    of_workers: bool = False  # summed over the workers, as a bill is; else by the clock


class Crew(Protocol):
    """Workers that can be ended, as `search.pool.Pool`."""

    over: bool  # to be set where all are to end

    @property
    def at_work(self) -> int:
        """How many there are."""

    def let_go(self, names: Collection[str]) -> None:
        """End these workers in order, without another in their place; what they run goes back to the queue."""


class Spending:
    """Watches a budget of time, and sees to it that a search makes use of it and keeps to it.

    No trial is begun that would take, to its full length, longer than is left; by the upper quartile of the seconds an
    epoch of those that finished last. From then on paused trials may still be promoted, and what runs goes on; a trial
    that by its own pace would need more than SLACK times what is left is put back at once. What is not done when the
    time is over goes back to the queue with its checkpoint.

    Parameters
    ----------
    study : Study
    budget_id : int
    allowance : Allowance
        Counted from now on. Of worker hours those of the crew, or of trials that run elsewhere where it is empty.
    crew : Crew
    say : callable
        Told once why nothing is begun any more.
    """

    def __init__(
        self, study: Study, budget_id: int, allowance: Allowance, crew: Crew, say: Callable[[str], object]
    ) -> None:
        self._study, self._budget_id, self._allowance, self._crew, self._say = study, budget_id, allowance, crew, say
        self._spent = 0.0
        self._at = self._looked = time.monotonic()
        self._elsewhere = 0  # trials of the budget that ran at the last look
        self._seen: dict[int, _Seen] = {}
        self.closing = False  # whether nothing is begun any more
        self.asked: int | None = None  # trials of the budget, before it was cut to those that had begun
        self.over = False  # whether the time is up

    def watch(self) -> None:
        """Look at the clock and, unless that was a moment ago, at the study."""
        now = time.monotonic()
        at_work = (self._crew.at_work or self._elsewhere) if self._allowance.of_workers else 1
        self._spent += (now - self._at) * at_work
        self._at = now
        left = (self._allowance.seconds - self._spent) / max(at_work, 1)
        if left <= 0:
            self.over = self._crew.over = True
            self._study.ledger.close_budget(self._budget_id)
        elif now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look(now, left)

    def _look(self, now: float, left: float) -> None:
        rows, runners = trial_rows(self._study), self._study.ledger.runners(self._budget_id)
        self._elsewhere = len(runners)
        running = {row.number: row for row in rows if row.number in set(runners.values())}
        self._seen = {number: self._seen.get(number, _Seen(now, row.epoch)) for number, row in running.items()}
        for number, row in running.items():
            self._seen[number].note(now, row.epoch)
        whole = full_length(rows)
        if whole is None:  # nothing has finished yet: go by what runs
            paces = [(seen.pace, running[number].epochs) for number, seen in self._seen.items()]
            whole = max((pace * epochs for pace, epochs in paces if pace is not None), default=0.0)
        if not self.closing and whole > left:
            self.closing = True
            self.asked = self._study.ledger.remaining(self._budget_id).asked
            self._study.ledger.resize_budget(self._budget_id, trials=0)
            self._say("No further trial is begun: it would not finish within the budget.")
        if self.closing:
            doomed = [
                name
                for name, number in runners.items()
                if number in running and self._seen[number].left(now, running[number], whole) > SLACK * left
            ]
            if doomed:
                self._study.ledger.close_budget(self._budget_id)  # else another worker would take what they put back
                self._crew.let_go(doomed)


def full_length(rows: Iterable[TrialRow]) -> float | None:
    """Forecast the seconds that a trial takes if it trains to its end; None while no trial has ended.

    By the upper quartile of the seconds an epoch of those RECENT that ended last.
    """
    ended = [row for row in rows if row.seconds and row.epoch]
    paces = [row.seconds / row.epoch for row in ended[-RECENT:] if row.seconds is not None]
    if not paces:
        return None
    return (quantiles(paces, n=4, method="inclusive")[2] if len(paces) > 1 else paces[0]) * ended[-1].epochs


class _Seen:
    """What was seen of a running trial by our own clock, as machines' clocks differ."""

    def __init__(self, now: float, epoch: int) -> None:
        self._first, self._from = now, epoch
        self._last, self._epoch = now, epoch

    def note(self, now: float, epoch: int) -> None:
        """Take note of the epoch at which it is."""
        if epoch > self._epoch:
            self._last, self._epoch = now, epoch

    @property
    def pace(self) -> float | None:
        """Seconds an epoch, its start included; None before it reported twice."""
        return (self._last - self._first) / (self._epoch - self._from) if self._epoch > self._from else None

    def left(self, now: float, row: TrialRow, whole: float) -> float:
        """Forecast the seconds until it has trained to its end."""
        pace = self.pace if self.pace is not None else whole / row.epochs
        return max(0.0, (row.epochs - row.epoch) * pace - (now - self._last))
