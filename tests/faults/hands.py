"""Worker processes for fault tests: the real loop of claims, reports and ends, but signs of life follow fast.

Simulated ones replace the training alone (simulated.py); all else is real, from the claim to the weights among the
artifacts. Every process appends to a log what it began and ended. Not here: who starts and kills them (crowd.py); what
must hold afterwards (invariants.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, partialmethod
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url

import search.attempts
import search.model_figures
import search.objective
import search.storage
import search.worker
from search.ledger import Claim, Ledger
from search.patience import Patience
from search.signals import Stop
from search.study import FOR_PEOPLE, Study, open_study
from search.versions import code_version
from tests.faults.simulated import Fit

BEAT: Final = 0.5  # seconds between two signs of life
GRACE: Final = 4.0  # seconds of silence until a worker is taken to be dead
POLL: Final = 0.2  # seconds between two questions whether there is something to do
PATIENCE: Final = 120.0  # seconds; nothing here stays away for so long

code_version()  # its digest is kept: whoever edits the sources during a soak does not divide the workers


@dataclass(frozen=True, slots=True)
class Place:
    """Where workers work, and how."""

    url: str
    study: str
    budget_id: int
    root: Path  # the artifact folder
    log: Path  # what they began and ended
    said: Path  # what they printed
    pace: float | None = None  # seconds of a simulated epoch; None: trials are trained
    grace: float = GRACE
    beat: float = BEAT

    def why(self, worker: str) -> Path:
        """The file in which a worker that gives up says why."""
        return self.said.with_name(f"{worker} gave up")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log."""

    what: str  # began or ended
    trial_id: int  # Optuna's
    worker: str
    detail: str  # what the fit was given, as a digest; the state


def digest_of(spec: Mapping[str, Any]) -> str:
    """Name what a fit is given: parameters, epochs and seed."""
    return hashlib.sha256(json.dumps(dict(spec), sort_keys=True).encode()).hexdigest()[:16]


def read_log(log: Path) -> list[Line]:
    lines = [text.split(maxsplit=3) for text in log.read_text().splitlines()]
    return [Line(what, int(trial), worker, detail) for what, trial, worker, detail in lines]


def run(place: Place, name: str, prepared: Callable[[], None] = lambda: None) -> None:
    """Work as one process until the budget is done; if the worker gives up, `said` tells why.

    Parameters
    ----------
    prepared : callable
        Done once all is ready to begin.
    """
    said = os.open(place.said, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    logging.basicConfig(format=f"{name} %(levelname)s %(name)s: %(message)s", force=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(place, name)
    prepared()
    stop = Stop()
    patience = Patience(PATIENCE, hurried=lambda: stop.asked)
    # PostgreSQL then knows who writes, see audit.py.
    url = make_url(place.url)
    if url.get_backend_name() == "postgresql":
        url = url.update_query_dict({"application_name": name})
    spelled = url.render_as_string(hide_password=False)
    try:
        with stop.listening(), open_study(place.study, spelled, patience=patience) as study:
            study.storage.unread = FOR_PEOPLE
            search.worker.work(study, name=name, root=place.root, stop=stop, budget_id=place.budget_id)
    except Exception:
        place.why(name).write_text(traceback.format_exc())
        raise


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def prepare(place: Place, name: str) -> None:
    """Change this process into one for fault tests."""
    for module in (search.attempts, search.worker):
        replace(module, "BEAT_SECONDS", place.beat)
    replace(search.worker, "POLL_SECONDS", POLL)
    replace(search.storage, "IDLE_SECONDS", place.grace)  # as long as the grace there, too
    replace(Ledger, "claim", partialmethod(Ledger.claim, grace=place.grace))
    write = partial(_write, place.log, name)
    begin, finish = search.objective.begin, Ledger.finish

    def begin_aloud(study: Study, claim: Claim, **how: Any) -> tuple[Any, dict[str, Any], bool]:
        trial, spec, replay = begin(study, claim, **how)
        write("began", claim.trial_id, digest_of(spec))
        return trial, spec, replay

    def finish_aloud(ledger: Ledger, trial_id: int, **how: Any) -> bool:
        done = finish(ledger, trial_id, **how)
        if done:
            write("ended", trial_id, how["state"].name)
        return done

    replace(search.objective, "begin", begin_aloud)
    replace(Ledger, "finish", finish_aloud)
    if place.pace is not None:
        replace(search.objective, "fit", Fit(place.pace))
        replace(search.model_figures, "show_best", lambda *_: None)  # it reads real weights


def replace(owner: object, name: str, value: object) -> None:
    """Put something in the place of a module's or a class's own."""
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, value)


def _write(log: Path, worker: str, what: str, trial_id: int, detail: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {trial_id} {worker} {detail}\n".encode())
    os.close(descriptor)
