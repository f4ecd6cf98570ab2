"""SIGINT and SIGTERM in a worker: training ends at once, a transaction never."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Training was asked to stop; not an Exception, so that nothing on the way takes it for a failure."""


class Stop:
    """Whether this process was asked to stop, and whether it may stop right where it is."""

    def __init__(self) -> None:
        self._asked, self._anywhere = threading.Event(), False

    @property
    def asked(self) -> bool:
        """Whether it was."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Stop at the next place where that is clean."""
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond being asked."""
        self._asked.wait(seconds)

    def listen(self) -> None:
        """Take SIGINT and SIGTERM from now on; in the main thread."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """Raise Interrupted inside this context as soon as it is asked.

        Raises
        ------
        Interrupted
        """
        self._anywhere = True
        try:
            self.check()
            yield
        finally:
            self._anywhere = False

    @contextmanager
    def nowhere(self) -> Iterator[None]:
        """Within `anywhere`, do something that must be whole; what was asked meanwhile is raised at its end."""
        self._anywhere = False
        yield
        self._anywhere = True
        self.check()

    def check(self) -> None:
        """Raise Interrupted if it was asked."""
        if self.asked:
            raise Interrupted

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.set()
        if self._anywhere:
            raise Interrupted
