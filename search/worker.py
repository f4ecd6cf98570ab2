"""A worker: claim a trial, run it, write its end; until nothing is left or it is asked to stop.

Not here: what a trial does (objective.py); who starts workers (pool.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from optuna.trial import TrialState

from mlc_core import Dataset, MlcError
from search import artifacts
from search.data import Source, open_data
from search.errors import SearchError, StorageDown, StudyNotFound
from search.ledger import Claim, Done, Ledger, Wait
from search.objective import Finished, Lost, Outcome, Pruned, run_trial, study_precision
from search.signals import Interrupted, Stop
from search.storage import VARIABLE
from search.study import Study, open_study

BEAT_SECONDS: Final = 15.0  # between two signs of life
GRACE_SECONDS: Final = 120.0  # of silence after which a trial is taken to be lost
POLL_SECONDS: Final = 1.0  # between two questions whether there is something to do
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


def worker_name() -> str:
    """Make a name that no other worker, past or present, has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def work(
    study: Study,
    *,
    name: str,
    root: Path,
    stop: Stop,
    source: Source | None = None,
    budget_id: int | None = None,
    forever: bool = False,
) -> int:
    """Run trials until nothing is left to claim, or the stop is asked.

    Parameters
    ----------
    name : str
        From `worker_name`.
    root : Path
        The artifact folder.
    source : Source, optional
        Where the study's data lie on this machine, see `search.data.open_data`.
    budget_id : int, optional
        Take from this budget alone, not from any open one.
    forever : bool
        Wait for further budgets instead of ending.

    Returns
    -------
    int
        How many trials it finished.

    Raises
    ------
    EveryTrialFails
        Several attempts in a row failed; each one's reason is in the study.
    StorageDown
        The database stays away.
    DataChanged, BadData
        The data are not the study's.
    """
    data, precision = _data(study, source, stop), study_precision(study)
    finished = failures = 0
    while data is not None and not stop.asked:
        answer = study.ledger.claim(name, budget_id=budget_id, grace=GRACE_SECONDS)
        match answer:
            case Done() if not forever:
                break
            case Done() | Wait():
                stop.wait(POLL_SECONDS)
            case Claim():
                try:
                    finished += _one_trial(study, answer, data, precision, name=name, root=root, stop=stop)
                    failures = 0
                except Interrupted:
                    study.ledger.release(answer.trial_id, worker=name)
                except StorageDown:
                    raise
                except OSError as error:  # a full disk, say: not the trial's fault, and its checkpoint is of use
                    study.ledger.release(answer.trial_id, worker=name)
                    raise FilesUnusable(root, error) from error
                except Exception as error:
                    failures += 1
                    _fail(study, answer, error, name=name)
                    if failures == FAILURES:
                        raise EveryTrialFails(
                            f"{FAILURES} attempts in a row failed on this worker, the last with: "
                            f"{_reason(error)}. Fix the cause, then run the search again; nothing finished is lost."
                        ) from error
    return finished


def join(reference: str, storage_url: str, *, root: Path, stop: Stop, wait: bool, source: Source | None = None) -> int:
    """Work on a study that somebody else starts; if told to wait, also before they do, until the stop is asked.

    Returns
    -------
    int
        How many trials this worker finished.
    """
    said = False
    while True:
        try:
            with open_study(reference, storage_url) as study:
                return work(study, name=worker_name(), root=root, stop=stop, source=source, forever=wait)
        except (StudyNotFound, StorageDown) as error:
            if not wait:
                raise
            if not said:
                log.warning("waiting: %s", error)
                said = True
        if stop.asked:
            return 0
        stop.wait(POLL_SECONDS)


def _data(study: Study, source: Source | None, stop: Stop) -> Dataset | None:
    """Read the study's data; None if the stop was asked meanwhile, and what is decoded stays."""
    try:
        return open_data(study, source, on_progress=lambda _done, _total: stop.check())[0]
    except Interrupted:
        return None


def _one_trial(study: Study, claim: Claim, data: Dataset, precision: str, *, name: str, root: Path, stop: Stop) -> int:
    folder = artifacts.checkpoint_folder(root, study, claim.number)
    lost = threading.Event()
    with _beating(study.ledger, claim.trial_id, name, lost):
        outcome = run_trial(study, claim, data=data, precision=precision, root=root, stop=stop, lost=lost)
        if not _write_end(study, claim, outcome, name=name, root=root, folder=folder):
            log.warning("trial %d was taken over by another worker", claim.number)
            return 0
    artifacts.clear(root, study, claim.number)
    if isinstance(outcome, Finished):
        from search.model_figures import show_best  # plotly costs a worker half a second at start

        show_best(study, root, data, claim.number)
    return 1


def _write_end(study: Study, claim: Claim, outcome: Outcome, *, name: str, root: Path, folder: Path) -> bool:
    match outcome:
        case Lost():
            return False
        case Pruned():
            return study.ledger.finish(claim.trial_id, worker=name, state=TrialState.PRUNED, value=None)
        case Finished(value=value):
            artifacts.keep_weights(root, study, claim.trial_id, folder)
            done = study.ledger.finish(claim.trial_id, worker=name, state=TrialState.COMPLETE, value=value)
            artifacts.keep_only_best(root, study)
            return done


def _fail(study: Study, claim: Claim, error: Exception, *, name: str) -> None:
    log.error("trial %d failed: %s", claim.number, "".join(traceback.format_exception(error)))
    # Its checkpoint stays, as the trial may be another worker's by now; the next run sweeps what is given up.
    study.ledger.fail(claim.trial_id, worker=name, reason=_reason(error))


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


def _end_with_parent(stop: Stop) -> None:
    """Stop when standard input closes: the pool holds the other end, and must not be survived."""

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock would be held when the process ends
        if not stop.asked:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> int:
    """Run as a child of the pool: ``python -P -m search.worker STUDY --budget ID --name NAME --artifacts DIR``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--format", default="auto")
    parser.add_argument("--skip-bad", action="store_true")
    parser.add_argument("--corrections", type=Path)
    options = parser.parse_args()
    source = Source(options.data, options.format, options.skip_bad, options.corrections) if options.data else None
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    stop = Stop()
    try:
        with stop.listening(), open_study(options.study, os.environ[VARIABLE]) as study:
            _end_with_parent(stop)
            work(
                study,
                name=options.name,
                root=options.artifacts,
                stop=stop,
                source=source,
                budget_id=options.budget,
            )
    except MlcError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the pool shows it
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
