"""One claimed trial after the other: heartbeats, the end that is written, and what is done when something fails.

Not here: what a trial does (objective.py); who claims (worker.py).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from optuna.trial import TrialState

from mlc_core import Dataset, MlcError
from search import artifacts
from search.errors import SearchError, StorageDown
from search.ledger import Claim, Ledger
from search.objective import Finished, Lost, Outcome, Paused, Pruned, run_trial
from search.patience import Patience
from search.promotion import ranking
from search.signals import Interrupted, Stop
from search.study import Study
from search.trials import TrialTaken

BEAT_SECONDS: Final = 15.0  # between two signs of life
FAILURES: Final = 6  # failed attempts in a row after which the worker itself is at fault

log = logging.getLogger(__name__)


class EveryTrialFails(SearchError):
    """Trials of one worker fail one after the other."""

    exit_code = 1


class FilesUnusable(SearchError):
    """Files in the artifact folder cannot be written or read."""

    exit_code = 1

    def __init__(self, root: Path, error: OSError) -> None:
        place = error.filename or root
        super().__init__(
            f"{place}: {error.strerror or error}. The trial waits with its checkpoint. Make room or mend the "
            "folder, then run the search again."
        )


class Trouble:
    """What goes wrong with the artifact folder, for as long as it does.

    A trial that meets it is put back, and may meet it again: failures count as one trouble as long as less than the
    patience lies between them.
    """

    def __init__(self, patience: Patience, root: Path) -> None:
        self._patience, self._root = patience, root
        self._began = self._last = -math.inf
        self._pause = 1.0

    def end(self) -> None:
        """Take it that all is well again, as a trial came through."""
        self._began = self._last = -math.inf

    def endure(self, error: OSError, stop: Stop) -> None:
        """Wait a while longer each time; FilesUnusable once patience is over."""
        now = time.monotonic()
        if now - self._last > self._patience.seconds:
            self._began, self._pause = now, 1.0
            place, reason = error.filename or self._root, error.strerror or error
            log.warning("%s: %s. Waiting for it, %.0f seconds at most.", place, reason, self._patience.seconds)
        elif now - self._began > self._patience.seconds:
            raise FilesUnusable(self._root, error) from error
        stop.wait(self._pause)
        self._last = time.monotonic()
        self._pause = min(2 * self._pause, 30.0)


@dataclass(slots=True)
class Attempts:
    """Runs one trial after the other, and knows how many attempts failed in a row."""

    study: Study
    worker: str
    root: Path
    stop: Stop
    data: Dataset
    precision: str
    trouble: Trouble
    failures: int = 0

    def run(self, claim: Claim) -> int:
        """Run a claimed trial; 1 if it is finished now."""
        ledger = self.study.ledger
        try:
            finished = self._to_end(claim)
        except Interrupted:
            ledger.release(claim.trial_id, worker=self.worker)
        except TrialTaken:
            log.warning("trial %d was taken over by another worker", claim.number)
        except StorageDown:
            raise
        except OSError as error:  # a full disk, say: not the trial's fault, and its checkpoint is of use
            if ledger.release(claim.trial_id, worker=self.worker):
                self.trouble.endure(error, self.stop)
            else:
                log.warning("trial %d was taken over by another worker, and its folder with it", claim.number)
        except Exception as error:
            log.exception("trial %d failed", claim.number)
            # Its checkpoint stays, as the trial may be another worker's by now; the next run sweeps what is given up.
            ledger.fail(claim.trial_id, worker=self.worker, reason=_reason(error))
            self.failures += 1
            if self.failures == FAILURES:
                last = _reason(error).rstrip(".")
                raise EveryTrialFails(
                    f"{FAILURES} attempts in a row failed on this worker, the last with: {last}. Fix the cause, then "
                    "run the search again; nothing finished is lost."
                ) from error
        else:
            self.failures = 0
            self.trouble.end()
            return finished
        return 0

    def _to_end(self, claim: Claim) -> int:
        study, root, lost = self.study, self.root, threading.Event()
        with _beating(study.ledger, claim.trial_id, self.worker, lost):
            outcome = run_trial(
                study, claim, data=self.data, precision=self.precision, root=root, stop=self.stop, lost=lost
            )
            if not self._write_end(claim, outcome):
                log.warning("trial %d was taken over by another worker", claim.number)
                return 0
        if isinstance(outcome, Paused):
            artifacts.keep_checkpoints(root, study, ranking(study.optuna.get_trials(deepcopy=False), study.declaration))
            return 0
        artifacts.clear(root, study, claim.number)
        if isinstance(outcome, Finished):
            from search.model_figures import show_best  # plotly costs a worker half a second at start

            show_best(study, root, self.data, claim.number)
        return 1

    def _write_end(self, claim: Claim, outcome: Outcome) -> bool:
        study, root = self.study, self.root
        finish = partial(study.ledger.finish, claim.trial_id, worker=self.worker)
        match outcome:
            case Lost():
                return False
            case Paused():
                return study.ledger.pause(claim.trial_id, worker=self.worker)
            case Pruned():
                return finish(state=TrialState.PRUNED, value=None)
            case Finished(value=value, second=second):
                artifacts.keep_weights(root, study, claim.trial_id, artifacts.checkpoint_folder(root, study, claim))
                done = finish(state=TrialState.COMPLETE, value=value, second=second)
                artifacts.keep_only_best(root, study)
                return done


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, MlcError) else f"{type(error).__name__}: {error}"


@contextmanager
def _beating(ledger: Ledger, trial_id: int, worker: str, lost: threading.Event) -> Iterator[None]:
    """Say regularly that the worker lives; set `lost` once the trial is another's."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            try:
                if not ledger.beat(trial_id, worker=worker):
                    lost.set()
                    return
            except SearchError as error:
                # The trial goes on: the database may be back before anybody takes the trial for lost.
                log.warning("no sign of life could be given: %s", error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
