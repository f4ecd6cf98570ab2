"""The signals that end a search: training stops at once, a transaction never."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a kind kill, a closed terminal
_NAP: Final = 0.1  # seconds; how late a wait may notice


class Interrupted(BaseException):
    """Training was asked to stop; not an Exception, so that nothing on the way takes it for a failure."""


class Stop:
    """Whether this process was asked to stop, and whether it may stop right where it is."""

    def __init__(self) -> None:
        self._asked = self._anywhere = False

    @property
    def asked(self) -> bool:
        """Whether it was."""
        return self._asked

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond being asked."""
        # Not on an Event: its lock may be held by the very thread in which the handler would take it.
        deadline = time.monotonic() + seconds
        while not self._asked and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _NAP))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside this context, in the main thread; whoever took them before has them back after."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
        """Within `anywhere`, do something that must be whole; what is asked meanwhile `check` raises after it."""
        self._anywhere = False
        yield
        self._anywhere = True

    def check(self) -> None:
        """Raise Interrupted if it was asked."""
        if self._asked:
            raise Interrupted

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._anywhere:
            self._anywhere = False  # once: a second signal must not interrupt the cleaning up
            raise Interrupted
