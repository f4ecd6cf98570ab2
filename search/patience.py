"""Waiting for a database, or a proxy before it, that is away and may come back.

Not here: how its errors are spelled (storage.py, remote.py); which work may be done twice (whoever does it); files that
cannot be used (attempts.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import optuna
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

from search.errors import SearchError

SECONDS: Final = 30.0  # for which a command that only looks waits
WORKERS_SECONDS: Final = 600.0  # for which a worker waits for a database or a folder that is away
HURRY: Final = 10.0  # seconds, once somebody waits for this process to end
_AWHILE: Final = 2.0  # seconds; a deadlock or a locked file is over sooner, and nothing to speak of
_LONGEST_PAUSE: Final = 5.0  # seconds between two tries
_DATABASE: Final = (OperationalError, InterfaceError, InternalError, optuna.exceptions.StorageInternalError)

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(slots=True)
class Patience:
    """How long one process waits, and what it has said about it.

    Parameters
    ----------
    seconds : float
        For which work that fails is tried again.
    hurried : callable
        Whether somebody waits for this process to end; then HURRY seconds are enough.
    """

    seconds: float = SECONDS
    hurried: Callable[[], bool] = lambda: False
    _said: bool = False

    def with_database(self, work: Callable[[], _T], *, spell: Callable[[Exception], SearchError]) -> _T:
        """Do the work, again while the database fails; it must be something that may happen twice.

        Raises
        ------
        SearchError
            What `spell` makes of the last failure, once patience is over.
        """
        return self._through(work, _DATABASE, spell)

    def with_network(self, work: Callable[[], _T], *, spell: Callable[[Exception], SearchError]) -> _T:
        """Do the work, again while whoever is asked does not answer; the same otherwise."""
        return self._through(work, (ConnectionError,), spell)

    def _through(
        self, work: Callable[[], _T], failures: tuple[type[Exception], ...], spell: Callable[[Exception], SearchError]
    ) -> _T:
        start, pause = time.monotonic(), 0.05
        while True:
            try:
                result = work()
            except failures as error:
                waited = time.monotonic() - start
                if waited + pause > (min(self.seconds, HURRY) if self.hurried() else self.seconds):
                    raise spell(error) from None  # the cause may hold a password
                if waited > _AWHILE:
                    self._say(spell(error))
            else:
                if self._said:
                    self._said = False
                    log.warning("It is back; going on.")
                return result
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _say(self, error: SearchError) -> None:
        if not self._said:
            self._said = True
            log.warning("%s Waiting for it, %.0f seconds at most.", error, self.seconds)
