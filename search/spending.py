"""A search's budget of time: how much is spent, from when on nothing is begun any more, and who could not finish.

Not here: budgets of trials (ledger.py); who starts and ends workers (pool.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import Final, Protocol

from mlc_core import cost
from search.study import Study
from search.views import TrialRow, trial_rows

LOOK_SECONDS: Final = 1.0  # between two readings of the study
SLACK: Final = 1.25  # of the time left, beyond which a running trial is taken not to finish
RECENT: Final = 50  # trials by which the time of another is judged
_STILL: Final = ("complete", "pruned", "paused")  # states in which a trial's seconds are those of its epochs


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
    """Watches a budget of time, and sees to it that a search makes use of it, keeps to it, and comes to a model.

    Once a trial that began now would take, to its full length, longer than is left, or the best paused one all that is
    left, nothing new begins: what runs goes on, and paused trials, the best first, train to their end without having to
    be promoted, as far as they are forecast to finish. A trial that by its own pace would need more than SLACK times
    what is left is put back at once. What is not done when the time is over goes back to the queue with its checkpoint.

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
        self._pace = 0.0  # seconds an epoch, at the last look; 0 while nobody knows
        self._from_epoch: int | None = None  # as the ledger has it
        self._said = False
        self.over = False  # whether the time is up

    @property
    def closing(self) -> bool:
        """Whether nothing is begun any more."""
        return self._from_epoch is not None

    @property
    def left(self) -> Allowance:
        """What was not spent."""
        return replace(self._allowance, seconds=max(0.0, self._allowance.seconds - self._spent))

    def watch(self) -> None:
        """Look at the clock and, unless that was a moment ago, at the study."""
        now = time.monotonic()
        at_work = (self._crew.at_work or self._elsewhere) if self._allowance.of_workers else 1
        self._spent += (now - self._at) * at_work
        self._at = now
        left = self.left.seconds / max(at_work, 1)
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
        self._seen = {number: self._seen.get(number, _Seen()) for number in running}
        for number, row in running.items():
            self._seen[number].note(now, row.epoch)
        pace = epoch_seconds(rows)
        if pace is None:  # nothing has paused or finished yet: go by what runs, or ran until it was put back
            pace = max((seen.pace for seen in self._seen.values() if seen.pace is not None), default=self._pace)
        self._pace = pace
        self._decide(rows, pace, left)
        if self.closing:
            doomed = [
                name
                for name, number in runners.items()
                if number in running and self._seen[number].left(now, running[number]) > SLACK * left
            ]
            self._crew.let_go(doomed)

    def _decide(self, rows: Sequence[TrialRow], pace: float, left: float) -> None:
        """Begin nothing new from the moment on at which the time left is needed for what has begun."""
        epochs = self._study.declaration.epochs
        needed = max(pace * epochs, _last_lap(rows))
        if needed > left or (self.closing and needed * SLACK > left):  # else a pace turned out to be quicker
            coming = math.floor(SLACK * left / pace) if pace else epochs
            # Before any trial is complete the best may try, however long it should take.
            from_epoch = max(1, epochs - coming) if any(row.state == "complete" for row in rows) else 1
        else:
            from_epoch = None
        if from_epoch != self._from_epoch:
            self._study.ledger.wind_up(self._budget_id, from_epoch=from_epoch)
            self._from_epoch = from_epoch
        if self.closing and not self._said:
            self._said = True
            self._say("No further trial is begun: the time left is for those that have to train to their end.")


def epoch_seconds(rows: Iterable[TrialRow]) -> float | None:
    """Forecast the seconds that an epoch takes; None while no trial has paused or ended.

    By the upper quartile of those RECENT that came last.
    """
    paces = [row.seconds / row.epoch for row in rows if row.seconds and row.epoch and row.state in _STILL][-RECENT:]
    return quantiles(paces, n=4, method="inclusive")[2] if len(paces) > 1 else next(iter(paces), None)


def _last_lap(rows: Iterable[TrialRow]) -> float:
    """Forecast the seconds until the best paused trial has trained to its end, by its own pace.

    With as much room as a running one gets, and an epoch for which it may wait for a worker.
    """
    paused = (
        (-row.epoch, min(cost(value, row.objective) for value in row.reports.values()), row.seconds / row.epoch, row)
        for row in rows
        if row.state == "paused" and row.seconds
    )
    _, _, pace, best = min(paused, default=(0, 0.0, 0.0, None), key=lambda one: one[:3])
    return pace * (SLACK * (best.epochs - best.epoch) + 1) if best is not None else 0.0


class _Seen:
    """What was seen of a running trial by our own clock, as machines' clocks differ."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []  # when it was seen first, had reported for the first time, and last

    def note(self, now: float, epoch: int) -> None:
        """Take note of the epoch at which it is."""
        if not self._marks or epoch > self._marks[-1][1]:
            self._marks = [*self._marks[:2], (now, epoch)]

    @property
    def pace(self) -> float | None:
        """Seconds an epoch at least, as reports were seen late; None before it reported twice, for it had to start."""
        if len(self._marks) < 3:
            return None
        (first, from_epoch), (last, epoch) = self._marks[1:]
        return max(0.0, last - first - LOOK_SECONDS) / (epoch - from_epoch)

    def left(self, now: float, row: TrialRow) -> float:
        """Forecast the seconds until it has trained to its end; 0 while nobody knows."""
        if self.pace is None:
            return 0.0
        return (row.epochs - row.epoch) * self.pace - (now - self._marks[-1][0])
