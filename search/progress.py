"""What moves while a search runs: bar, running trials, best so far, time left; without a terminal a line a trial.

It reads the study as anybody may; a trial never waits for what is drawn. Not here: tables and lines (drawing.py).
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.drawing import duration, finished_line, kind, number, settings
from search.ledger import UNLIMITED
from search.study import Study
from search.views import TrialRow, leaderboard, trial_rows

LOOK_SECONDS: Final = 1.0  # between two readings of the study


class Progress:
    """Draws one budget's way on the console, which is the terminal's standard error.

    Parameters
    ----------
    study : Study
    budget_id : int
    console : Console
    """

    def __init__(self, study: Study, budget_id: int, console: Console) -> None:
        self._study, self._budget_id, self._console = study, budget_id, console
        self._started = self._looked = time.monotonic()
        self._told = {row.number for row in trial_rows(study) if _ended(row)}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            self.look()
        finally:
            if self._live:
                self._live.stop()

    def watch(self) -> None:
        """Look at the study, unless that was a moment ago."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.look()

    def say(self, line: str) -> None:
        """Show a line above whatever moves."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def look(self) -> None:
        """Read the study and draw what is new."""
        rows = trial_rows(self._study)
        self._looked = time.monotonic()
        if self._live:
            self._live.update(self._picture(rows), refresh=True)
            return
        for row in rows:
            if _ended(row) and row.number not in self._told:
                self._told.add(row.number)
                self._console.print(finished_line(row), soft_wrap=True, highlight=False, markup=False)

    def _picture(self, rows: list[TrialRow]) -> RenderableType:
        budget = self._study.ledger.remaining(self._budget_id)
        elapsed = time.monotonic() - self._started
        best, counted = next(iter(leaderboard(rows)), None), budget.asked != UNLIMITED
        head = Text.assemble(
            ("Study ", "dim"),
            (self._study.name, "bold"),
            f"  {budget.finished}{f'/{budget.asked}' if counted else ''} trials  ",
            ("best ", "dim"),
            (f"{number(best.value)} (trial {best.number})" if best else "-", "bold green"),
            ("  elapsed ", "dim"),
            duration(elapsed),
        )
        if 0 < budget.finished < budget.asked and counted:
            left = elapsed / budget.finished * (budget.asked - budget.finished)
            head.append("  left about ", "dim").append(duration(left))
        bar = Table.grid()  # alone, a bar ends no line
        bar.add_row(ProgressBar(total=budget.asked if counted else None, completed=budget.finished, width=60))
        running = Table(box=None, pad_edge=False, show_header=False)
        for row in rows:
            if row.state == "running":
                epoch = f"epoch {row.epoch}/{row.epochs}"
                running.add_row(f"trial {row.number}", kind(row), epoch, number(row.latest), settings(row.params))
        return Group(head, bar, running)


def _ended(row: TrialRow) -> bool:
    return row.state in ("complete", "pruned", "failed")
