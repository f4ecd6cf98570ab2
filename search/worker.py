"""A worker: claim a trial, run it, write its end; until nothing is left or it is asked to stop.

Not here: how a claimed trial comes to its end (attempts.py); who starts workers (pool.py).
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Final

from mlc_core import Dataset, MlcError, hardware
from search.artifacts import sweep
from search.attempts import BEAT_SECONDS, Attempts, Trouble
from search.data import Source, open_data
from search.errors import StorageDown, StudyNotFound
from search.ledger import Claim, Ledger
from search.objective import study_precision
from search.patience import WORKERS_SECONDS, Patience
from search.promotion import plan, rung_epochs
from search.signals import Interrupted, Stop
from search.slots import Done, Plan, Wait
from search.storage import VARIABLE
from search.study import FOR_PEOPLE, Study, is_outdated, open_study
from search.versions import code_version
from search.weighing import weigh_space

POLL_SECONDS: Final = 1.0  # between two questions whether there is something to do

log = logging.getLogger(__name__)


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
    """Run trials until nothing is left to claim, the stop is asked, or the study was extended since it was opened.

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
    StorageDown, FilesUnusable
        The database or the artifact folder stays away.
    DataChanged, BadData, CodeChanged
        The data, or the versions of the programs, are not the study's.
    """
    data, precision = _data(study, source, stop), study_precision(study)
    if data is None:
        return 0
    weigh_space(study, classes=len(data.classes), precision=precision)
    study.storage.worker = name
    roll = _Roll(study.ledger, name, data)
    attempts = Attempts(study, name, root, stop, data, precision, Trouble(study.storage.patience, root))
    finished, left = 0, math.inf
    while not stop.asked:
        roll.answer()
        planned = _plan(study, left)
        answer = study.ledger.claim(name, budget_id=budget_id, code=code_version(), plan=planned)
        if planned is not None and (planned.give_up or isinstance(answer, Done)):
            sweep(root, study)
        match answer:
            case Done() if not forever:
                break
            case Done() | Wait():
                left = math.inf
                stop.wait(POLL_SECONDS)
            case Claim() if is_outdated(study):  # from here on nobody extends it, as one of its trials runs
                study.ledger.release(answer.trial_id, worker=name)
                break
            case Claim():
                left = math.inf if budget_id is None else answer.left
                finished += attempts.run(answer)
    study.ledger.give_back([name])
    return finished


def join(
    reference: str,
    storage_url: str,
    *,
    root: Path,
    stop: Stop,
    wait: bool,
    source: Source | None = None,
    patience: float = WORKERS_SECONDS,
) -> int:
    """Work on a study that somebody else starts; if told to wait, also before they do, until the stop is asked.

    Parameters
    ----------
    patience : float, seconds
        For which it waits for a database or a folder that is away.

    Returns
    -------
    int
        How many trials this worker finished.
    """
    finished, said = 0, False
    while True:
        try:
            with open_study(reference, storage_url) as study:
                if said:
                    log.warning("It is there; going on.")
                    said = False
                study.storage.patience = Patience(patience, hurried=lambda: stop.asked)
                study.storage.unread = FOR_PEOPLE
                finished += work(study, name=worker_name(), root=root, stop=stop, source=source, forever=wait)
                if stop.asked or not is_outdated(study):
                    return finished
            continue
        except (StudyNotFound, StorageDown) as error:
            if not wait:
                raise
            if not said:
                log.warning("%s Waiting for it, however long that takes, because of --wait.", error)
                said = True
        if stop.asked:
            return finished
        stop.wait(POLL_SECONDS)


def _plan(study: Study, left: float) -> Plan | None:
    """Decide what becomes of paused trials, where the study has any."""
    if not rung_epochs(study.declaration):
        return None
    return plan(study.optuna.get_trials(deepcopy=False), study.declaration, left=left)


class _Roll:
    """A worker's place on the list of those that are there; heartbeats keep it while a trial runs."""

    def __init__(self, ledger: Ledger, name: str, data: Dataset) -> None:
        self._ledger, self._name = ledger, name
        self._about = {
            "code": code_version(),
            "data": data.fingerprint,
            "host": socket.gethostname(),
            "device": hardware(),
        }
        self._answered = -math.inf

    def answer(self) -> None:
        """Say once in a while that the worker is there."""
        if time.monotonic() - self._answered > BEAT_SECONDS:
            self._ledger.enlist(self._name, self._about)
            self._answered = time.monotonic()


def _data(study: Study, source: Source | None, stop: Stop) -> Dataset | None:
    """Read the study's data; None if the stop was asked meanwhile, and what is decoded stays."""
    try:
        return open_data(study, source, on_progress=lambda _done, _total: stop.check())[0]
    except Interrupted:
        return None


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
    parser.add_argument("--patience", type=float, default=WORKERS_SECONDS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--format", default="auto")
    parser.add_argument("--skip-bad", action="store_true")
    parser.add_argument("--corrections", type=Path)
    options = parser.parse_args()
    source = Source(options.data, options.format, options.skip_bad, options.corrections) if options.data else None
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    stop = Stop()
    patience = Patience(options.patience, hurried=lambda: stop.asked)
    try:
        with stop.listening(), open_study(options.study, os.environ[VARIABLE], patience=patience) as study:
            study.storage.unread = FOR_PEOPLE
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
